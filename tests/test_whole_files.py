"""A file is there whole or not at all."""

import os
from pathlib import Path

import pytest
import torch

from reft_interp.whole_files import check_writable, replacing, write_whole


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


def test_two_writers_of_one_process_do_not_share_a_place(tmp_path):
    file = tmp_path / "held.txt"
    with replacing(file) as one, replacing(file) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one"  # moved last


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    done = []
    replace, fsync = os.replace, os.fsync

    def synced(number):
        done.append(os.fstat(number).st_size)
        fsync(number)

    def moved(*names):
        done.append("moved")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    write_whole(tmp_path / "held.txt", "three")
    assert done == [5, "moved"]


def test_what_torch_writes_is_the_same_each_time(tmp_path):
    file, written = tmp_path / "held.bin", []
    for _ in range(2):
        with replacing(file) as beside:
            torch.save({"weight": torch.ones(2)}, beside)
        written.append(file.read_bytes())
    assert written[0] == written[1]


def test_whether_a_folder_can_be_written_is_asked_without_making_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "one" / "two", Path("three")):
        check_writable(folder)
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FileExistsError, match="file"):
        check_writable(file)
    with pytest.raises(NotADirectoryError, match="file"):
        check_writable(file / "one" / "two")
