"""A file is there whole or not at all."""

import os

import pytest

from reft_interp.whole_files import write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    file = tmp_path / "held.txt"
    write_whole(file, "one\n")
    write_whole(file, "zwölf\u2028\n")
    assert file.read_bytes() == "zwölf\u2028\n".encode()
    assert list(tmp_path.iterdir()) == [file]


def test_what_was_there_stays_when_writing_fails(tmp_path, monkeypatch):
    file = tmp_path / "held.txt"
    write_whole(file, "one\n")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_whole(file, "two\n")
    assert file.read_text() == "one\n"
