"""A folder that is made once from a file, by a slow conversion, and then only checked.

It is complete or it isn't there: the conversion works in a folder beside it that is renamed at
the end, one process at a time. A damaged folder is noticed by its checksums and made again.
Not here: what is converted (`embedded`).
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import platformdirs
from filelock import FileLock

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_FORMAT = 1
_BLOCK = 1 << 22


def cache_folder() -> Path:
    """Where converted models are kept: `REFT_INTERP_CACHE`, else the user's cache folder."""
    override = os.environ.get("REFT_INTERP_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("reft_interp"))


def convert_once(
    source: Path, folder: Path, convert: Callable[[Path, Path], None], *, announcement: str
) -> Path:
    """Make `folder` from `source`, unless an undamaged one is there already.

    Args:
        source: the file to convert; another size is another file.
        folder: what to make. Several processes may ask for it at once: one converts, the others
            wait for it.
        convert: called as `convert(source, target)`; writes files into the empty folder `target`.
        announcement: logged as a warning before a conversion, since it may be slow. Where
            logging is not configured that is one line on stderr.

    Returns:
        `folder`.

    Raises:
        OSError: the cache can't be written to.
    """
    if damage(source, folder) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        lock.acquire()
    except OSError as error:
        raise OSError(
            f"can't write to the model cache {folder.parent}: {error}. "
            "Set the environment variable REFT_INTERP_CACHE to a folder that you can write to."
        ) from error
    try:
        # Another process may have made it while this one waited.
        reason = damage(source, folder)
        if reason is not None:
            logger.info("%s: %s", folder, reason)
            logger.warning("%s", announcement)
            _replace(source, folder, convert)
    finally:
        lock.release()
    return folder


def damage(source: Path, folder: Path) -> str | None:
    """Why `folder` can't be used as what `source` was converted to; None if it can.

    Reads every byte: half a second for 500 MB, and the pages are warm for the model afterwards.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT or manifest["source"] != _describe_source(source):
            return "was made from another file"
        for name, expected in manifest["files"].items():
            if (folder / name).stat().st_size != expected["bytes"]:
                return f"{name} is not as long as it was"
            if _checksum(folder / name) != expected["crc32"]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} can't be read"
    return None


def size(folder: Path) -> int:
    """Bytes in the files of `folder`; 0 if there is none."""
    return sum(file.stat().st_size for file in folder.glob("*"))


def _replace(source: Path, folder: Path, convert: Callable[[Path, Path], None]) -> None:
    # We hold the lock, so whatever lies beside the folder was left by a process that died.
    for leftover in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    target = folder.with_name(f"{folder.name}.partial-{uuid4().hex}")
    target.mkdir()
    try:
        convert(source, target)
        _write_manifest(source, target)
        if folder.exists():
            # A rename keeps the files of a process that has them mapped; a deletion in place
            # would leave a moment with half a folder.
            old = folder.with_name(f"{folder.name}.partial-{uuid4().hex}")
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        target.rename(folder)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _write_manifest(source: Path, target: Path) -> None:
    files: dict[str, dict[str, int]] = {}
    for file in sorted(target.iterdir()):
        _to_disk(file)
        files[file.name] = {"bytes": file.stat().st_size, "crc32": _checksum(file)}
    manifest = {"format": _FORMAT, "source": _describe_source(source), "files": files}
    (target / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    _to_disk(target / _MANIFEST)


def _to_disk(file: Path) -> None:
    # Without this, a rename can reach the disk before the data does.
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def _describe_source(source: Path) -> dict[str, Any]:
    return {"name": source.name, "bytes": source.stat().st_size}


def _checksum(file: Path) -> int:
    # crc32 finds damage at twice the speed of sha256; forgery is not what is feared here.
    value = 0
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
