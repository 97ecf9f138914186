"""Text files that are there whole or not at all."""

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a file beside its place and then move it there, so that nobody ever reads half of it.

    Args:
        file: in a folder that exists; what it held before is replaced.
        text: as UTF-8, its line ends as they are.
    """
    # Its own name in each process, of which several may write the same file.
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, file)
