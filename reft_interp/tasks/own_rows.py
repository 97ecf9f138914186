"""Rows of one's own, from a file, to train a ReFT on."""

import os
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

_KINDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def read_rows(file: str | os.PathLike[str], *, answers: bool = True) -> Dataset:
    """The rows of a JSON, JSON lines, CSV or parquet file, with `prompt` and `answer`.

    Further columns are kept (`choices`, `spans`).

    Args:
        file: by its ending.
        answers: whether rows need an `answer`.

    Raises:
        ValueError: no such file, another kind of file, a column that is missing (those that are
            there are named), or an empty text (its row is named).
    """
    path = Path(file).expanduser()
    if path.suffix not in _KINDS:
        raise ValueError(f"file must end in {', '.join(_KINDS)}, got {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"file: there is no {path}")
    try:
        loaded = load_dataset(_KINDS[path.suffix], data_files=str(path), split="train")
    except DatasetGenerationError as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    assert isinstance(loaded, Dataset)  # one split of files that are there
    needed = ["prompt", "answer"] if answers else ["prompt"]
    missing = [name for name in needed if name not in loaded.column_names]
    if missing:
        raise ValueError(
            f"{path} must have the columns {', '.join(needed)}; {', '.join(missing)} missing, it "
            f"has {', '.join(loaded.column_names)}. Rename them, as "
            f"Dataset.rename_column({loaded.column_names[0]!r}, {missing[0]!r}) does"
        )
    for name in needed:
        for i, text in enumerate(loaded[name]):
            _check_text(f"{path} row {i}", name, text)
    return loaded


def _check_text(where: str, name: str, text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: {name} must be a text that is not empty, got {text!r}")
