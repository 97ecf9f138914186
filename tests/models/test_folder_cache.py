"""Every conversion here is a fake that takes no time; `test_embedded` has the real one."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from reft_interp.models.folder_cache import cache_folder, convert_once, damage, size

CONTENT = bytes(range(256)) * 64


class Converter:
    """Writes two files and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, source: Path, target: Path) -> None:
        self.calls += 1
        (target / "model.safetensors").write_bytes(source.read_bytes() * 2)
        (target / "config.json").write_text("{}")


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "model"


def convert(source, folder, converter):
    return convert_once(source, folder, converter, announcement="Converting, once.")


def test_converts_once(source, folder, caplog):
    converter = Converter()
    assert damage(source, folder) == "manifest.json is missing"
    assert convert(source, folder, converter) == folder
    assert convert(source, folder, converter) == folder
    assert converter.calls == 1
    assert (folder / "model.safetensors").read_bytes() == CONTENT * 2
    assert damage(source, folder) is None
    assert size(folder) > len(CONTENT) * 2
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["Converting, once."]


def truncate(folder):
    with open(folder / "model.safetensors", "rb+") as stream:
        stream.truncate(100)


def flip_one_byte(folder):
    with open(folder / "model.safetensors", "rb+") as stream:
        stream.seek(5000)
        stream.write(b"\xff")


def remove_a_file(folder):
    (folder / "config.json").unlink()


def spoil_the_manifest(folder):
    (folder / "manifest.json").write_text('{"format": ')


def list_for_a_manifest(folder):
    (folder / "manifest.json").write_text("[1, 2]")


def manifest_of_another_format(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncate, "model.safetensors is not as long as it was"),
        (flip_one_byte, "model.safetensors is not what was written"),
        (remove_a_file, "config.json is missing"),
        (spoil_the_manifest, "manifest.json can't be read"),
        (list_for_a_manifest, "manifest.json can't be read"),
        (manifest_of_another_format, "was made from another file"),
    ],
)
def test_a_damaged_folder_is_made_again(source, folder, spoil, reason):
    converter = Converter()
    convert(source, folder, converter)
    spoil(folder)
    assert damage(source, folder) == reason
    convert(source, folder, converter)
    assert converter.calls == 2
    assert (folder / "model.safetensors").read_bytes() == CONTENT * 2
    assert {p.name for p in folder.parent.iterdir()} == {"model", "model.lock"}


def test_another_source_is_converted_again(source, folder):
    converter = Converter()
    convert(source, folder, converter)
    source.write_bytes(b"a newer model")
    convert(source, folder, converter)
    assert (folder / "model.safetensors").read_bytes() == b"a newer model" * 2


def test_a_failed_conversion_leaves_nothing(source, folder):
    def half_way(source, target):
        (target / "model.safetensors").write_bytes(b"half")
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        convert(source, folder, half_way)
    assert {p.name for p in folder.parent.iterdir()} == {"model.lock"}
    convert(source, folder, Converter())
    assert damage(source, folder) is None


def test_what_a_killed_process_left_is_cleared(source, folder):
    leftover = folder.parent / "model.partial-123"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    convert(source, folder, Converter())
    assert not leftover.exists()


def test_the_folder_is_never_there_in_part(source, folder):
    def look(source, target):
        (target / "config.json").write_text("{}")
        assert target != folder and not folder.exists()

    convert(source, folder, look)
    assert folder.exists()


def _race(source, folder, log, barrier):
    def slow(source, target):
        with open(log, "a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        Converter()(source, target)

    barrier.wait()
    convert(source, folder, slow)
    assert (folder / "model.safetensors").read_bytes() == CONTENT * 2


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("spoil", [None, truncate])
def test_of_processes_that_start_at_once_one_converts(source, folder, tmp_path, spoil):
    if spoil is not None:
        convert(source, folder, Converter())
        spoil(folder)
    context = multiprocessing.get_context("fork")
    log, barrier = tmp_path / "log", context.Barrier(3)
    workers = [context.Process(target=_race, args=(source, folder, log, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(log.read_text().split()) == 1
    assert damage(source, folder) is None


def test_a_cache_that_cannot_be_written_to_says_what_to_set(source, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="REFT_INTERP_CACHE"):
        convert(source, tmp_path / "file" / "model", Converter())


def test_the_environment_moves_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("REFT_INTERP_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("REFT_INTERP_CACHE")
    assert cache_folder().name == "reft_interp"
