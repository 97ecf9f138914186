"""The folder of a sweep: whose it is, who is at which part of it, and what is finished."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reft_interp.whole_files import write_whole

_LATER = ("weights",)
"""Entries that the descriptions of older folders lack: such a folder is taken without them."""


def claim(folder: Path, description: Mapping[str, Any], kind: str) -> None:
    """Make a folder that of one sweep, or see that it is.

    Args:
        folder: made if needed.
        description: what makes the sweep another one; it is JSON.
        kind: of sweep, for messages.

    Raises:
        ValueError: the folder holds another one (what differs is named).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.json"
    with FileLock(folder / f"{kind}.lock"):
        if not path.is_file():
            write_json(path, description)
            return
    held = read_json(path)
    # What is held and not wanted, too: a setting that was left out is another one.
    _check(folder, held, description, [*description, *held], kind)


def check_holds(folder: Path, some: Mapping[str, Any], kind: str) -> None:
    """See that a folder, if it holds a sweep, holds one of which this much is known.

    Args:
        folder: may be missing.
        some: entries of its description.
        kind: of sweep, for messages.

    Raises:
        ValueError: the folder holds another one (what differs is named).
    """
    path = folder / f"{kind}.json"
    if path.is_file():
        _check(folder, read_json(path), some, some, kind)


def _check(
    folder: Path,
    held: Mapping[str, Any],
    description: Mapping[str, Any],
    names: Iterable[str],
    kind: str,
) -> None:
    wanted = json.loads(json.dumps(description))
    other = [name for name in dict.fromkeys(names) if not _same_entry(held, wanted, name)]
    if other:
        raise ValueError(
            f"folder {str(folder)!r} holds another {kind}: {', '.join(other)} differ. Give a new "
            "folder, or what was given before"
        )


def _same_entry(held: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> bool:
    if name in _LATER and name not in held:
        return True
    return _same(held.get(name), wanted.get(name))


def _same(held: Any, wanted: Any) -> bool:
    """Whether both are one, but for what the folder is too old to have."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        return all(_same_entry(held, wanted, name) for name in {*held, *wanted})
    if isinstance(held, list) and isinstance(wanted, list):
        return len(held) == len(wanted) and all(map(_same, held, wanted))
    return held == wanted


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Within it, whether this process has the lock; another one's is not waited for."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class Failures:
    """What failed before this process began, and is to be run again: once, by whoever is first.

    The files of failures stay where they are until they are replaced, so that a process that reads
    the whole folder finds all of it.

    Args:
        files: of what is finished, each with an `error`, which is None unless it failed.
        rows: name of the entry of a file that holds several such, where it is not one itself.
    """

    def __init__(self, files: Iterable[Path], rows: str | None = None):
        self._written = {
            file: file.stat().st_mtime_ns
            for file in files
            if file.is_file() and _failed(read_json(file), rows)
        }

    def __contains__(self, file: Path) -> bool:
        """Whether it failed, and nobody has run it again since."""
        return file in self._written and file.stat().st_mtime_ns == self._written[file]

    def discard(self, file: Path) -> None:
        """Take it that it has been run again."""
        self._written.pop(file, None)


def _failed(held: Mapping[str, Any], rows: str | None) -> bool:
    return any(one["error"] is not None for one in ([held] if rows is None else held[rows]))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, held: Mapping[str, Any]) -> None:
    """A file that is there whole or not at all."""
    write_whole(path, json.dumps(held, indent=1) + "\n")
