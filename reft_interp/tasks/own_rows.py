"""Rows of one's own, from a file, to train a ReFT on.

Texts stay as they are written: a label "04", "True" or "2020-01-01" is no number, truth value or
date, which readers of tables take it for.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

_KINDS = (".json", ".jsonl", ".csv", ".parquet")


def read_rows(file: str | os.PathLike[str], *, answers: bool = True) -> Dataset:
    """The rows of a JSON, JSON lines, CSV or parquet file, with `prompt` and `answer`.

    Further columns are kept (`choices`, `spans`). All that stands in a CSV file is text, as it
    stands there; an empty field is an empty text. So it cannot hold `choices`, which are a list.

    Args:
        file: by its ending.
        answers: whether rows need an `answer`.

    Raises:
        ValueError: no such file, another kind of file, one that cannot be read or has no rows, a
            column that is missing (those that are there are named), an empty text (its row is
            named), or `choices` in a CSV file.
    """
    path = Path(file).expanduser()
    if path.suffix not in _KINDS:
        raise ValueError(f"file must end in {', '.join(_KINDS)}, got {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"file: there is no {path}")
    try:
        loaded = _load(path)
    except (DatasetGenerationError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    if not len(loaded):
        raise ValueError(f"{path} must hold at least one row, got no rows")
    needed = ["prompt", "answer"] if answers else ["prompt"]
    missing = [name for name in needed if name not in loaded.column_names]
    if missing:
        raise ValueError(
            f"{path} must have the columns {', '.join(needed)}; {', '.join(missing)} missing, it "
            f"has {', '.join(loaded.column_names)}. Rename what holds the {missing[0]} to "
            f"{missing[0]!r}"
        )
    if path.suffix == ".csv" and "choices" in loaded.column_names:
        raise ValueError(
            f"{path} must be JSON lines or parquet to have 'choices': they are a list, and a CSV "
            f"file holds texts alone, as {loaded[0]['choices']!r}"
        )
    for name in needed:
        for i, text in enumerate(loaded[name]):
            _check_text(f"{path} row {i}", name, text)
    return loaded


def _load(path: Path) -> Dataset:
    """What a file holds, perhaps no rows at all."""
    if path.stat().st_size == 0:
        return Dataset.from_dict({})
    if path.suffix == ".parquet":
        loaded = load_dataset("parquet", data_files=str(path), split="train")
        assert isinstance(loaded, Dataset)  # one split of files that are there
        return loaded
    if path.suffix == ".csv":
        # Without a dtype and with pandas' words for missing values, " 04" is 4 and "None" is NaN.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
        return Dataset.from_dict({str(name): table[name].tolist() for name in table.columns})
    text = path.read_text(encoding="utf-8-sig")
    lines = [line for line in text.split("\n") if line.strip()]
    rows = _array(text) if path.suffix == ".json" else None
    return _table([json.loads(line) for line in lines] if rows is None else rows)


def _array(text: str) -> list[Any] | None:
    """The rows of a JSON file; None where it holds JSON lines under that ending."""
    try:
        held = json.loads(text)
    except json.JSONDecodeError:
        return None
    return held if isinstance(held, list) else [held]


def _table(rows: list[Any]) -> Dataset:
    """The rows with all columns that any of them has."""
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"row {i} must be an object with a prompt, got {row!r}")
    columns = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in columns})


def _check_text(where: str, name: str, text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: {name} must be a text that is not empty, got {text!r}")
