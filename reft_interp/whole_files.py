"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A place beside a file to write to; it takes the file's place where nothing was raised.

    Of several at once, the one that was entered last is moved first.

    Args:
        file: in a folder that exists; what it held before is replaced.

    Raises:
        OSError: it cannot be written; it is named, and holds what it held before.
    """
    # Its own name for each writer: of several machines that share a folder, processes may have the
    # same number. At the end, as torch.save writes the name without its last suffix into the file.
    beside = file.with_name(f"{file.name}.part-{token_hex(8)}")
    try:
        yield beside
        _put_on_disk(beside)
        os.replace(beside, file)
    except OSError as error:
        # A full disk is told of without a name.
        if error.errno is not None and error.filename is None:
            error.filename = str(file)
        raise
    finally:
        beside.unlink(missing_ok=True)


def _put_on_disk(file: Path) -> None:
    """A machine that loses power could otherwise keep the name alone, without the bytes."""
    with file.open("rb+") as held:
        os.fsync(held.fileno())


def check_writable(folder: Path) -> None:
    """Raise where a folder cannot be written, before the work whose result belongs there.

    It is not made: work that fails would leave it empty.

    Raises:
        FileExistsError: it is a file.
        NotADirectoryError: what should hold it is a file.
        OSError: nothing can be written into it, or it cannot be made.
    """
    made = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not made.is_dir():
        wrong = FileExistsError if made == folder else NotADirectoryError
        number = errno.EEXIST if made == folder else errno.ENOTDIR
        raise wrong(number, os.strerror(number), str(made))
    with TemporaryFile(dir=made):
        pass


def write_whole(file: Path, text: str) -> None:
    """Write a text that nobody ever reads half of.

    Args:
        file: in a folder that exists; what it held before is replaced.
        text: as UTF-8, its line ends as they are.
    """
    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
