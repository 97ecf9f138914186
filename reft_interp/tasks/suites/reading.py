"""Where the rows of a suite come from: JSON files of a folder, or a dataset of the hub.

Here: what the readers share, each error with the file and the row. Next door: `glue_reading` has
the tab-separated files. Nothing is downloaded unless a hub id is given.
"""

import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, get_dataset_config_names, load_dataset

Record = dict[str, Any]

_ARGUMENT = "path_or_hub_id"


def locate(
    path_or_hub_id: str | os.PathLike[str],
    expected: str,
    *,
    files: bool = False,
    argument: str = _ARGUMENT,
) -> Path | str:
    """A folder of files (or a file) as a path; anything else as a name for `load_dataset`.

    Args:
        expected: what a folder must hold, for the message.
        files: a single file will do.
        argument: what the user calls it, for the message.

    Raises:
        ValueError: it is written as a path and nothing is there, or a file where none will do.
    """
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        # A copy of a dataset of the hub is read as the hub would be.
        return str(path) if any(path.rglob("*.parquet")) else path
    if path.is_file() and files:
        return path
    name = path_or_hub_id
    if path.exists() or not isinstance(name, str) or name[:1] in "./~" or name.count("/") > 1:
        found = "a file" if path.exists() else "nothing there"
        raise ValueError(
            f"{argument} must be a folder with {expected}{' or a file' * files}, or the id of "
            f"a dataset on the hub, got {str(path)!r} ({found})"
        )
    return name


def listing(folder: Path) -> str:
    """What a folder holds, for messages."""
    there = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    return (", ".join(there[:20]) + (", ..." if len(there) > 20 else "")) or "no files"


def read_json(file: Path, columns: Sequence[str]) -> list[Record]:
    """The rows of a JSON list, or of JSON lines (`.jsonl`); a byte-order mark is passed over.

    An object whose values are rows ({"0": {...}, ...}) counts as the list of them. Numbers among
    `columns` become text, since the same data give them both ways.

    Args:
        file: UTF-8.
        columns: that each row must have, with text.

    Raises:
        ValueError: it is not JSON, no list of objects, or a row is without a column or has no
            text there; file, row number (from 0) and columns are named.
    """
    text = file.read_text(encoding="utf-8-sig")
    try:
        if file.suffix == ".jsonl":
            # Not splitlines(), which breaks lines at characters that texts contain (U+2028).
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} must be JSON: {error}") from error
    if isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values()):
        rows = list(rows.values())
    if not isinstance(rows, list) or not rows:
        found = f"a {type(rows).__name__}" if rows else "nothing in it"
        raise ValueError(f"{file} must hold a list of rows, got {found}")
    return [check_record(f"{file} row {i}", row, columns) for i, row in enumerate(rows)]


def check_record(where: str, row: Any, columns: Sequence[str]) -> Record:
    """A row with text in the given columns.

    Raises:
        ValueError: it is no mapping, or is without one of them, or has no text there.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} must be an object with {', '.join(columns)}, got {row!r}")
    missing = [column for column in columns if column not in row]
    if missing:
        raise ValueError(
            f"{where} must have the columns {', '.join(columns)}; {', '.join(missing)} missing, "
            f"it has {', '.join(map(str, row)) or 'none'}"
        )
    record = dict(row)
    for column in columns:
        value = row[column]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"{where}: {column} must be text, got {value!r} in {record}")
        record[column] = str(value)
    return record


def read_hub(
    name: str, configuration: str | None, expected: str, *, argument: str = _ARGUMENT
) -> dict[str, Dataset]:
    """The splits of a dataset of the hub, or of a folder with a copy of one.

    Args:
        name: of the dataset.
        configuration: of those that it has.
        expected: what a folder must hold, for the message.
        argument: what the user calls it, for the message.

    Raises:
        ValueError: there is none of that name, or the hub is not reached.
    """
    asked = repr(name) if configuration is None else f"{name!r} ({configuration})"
    with _hub_errors(asked, expected, argument):
        found = load_dataset(name, configuration)
    return {str(split): rows for split, rows in found.items()}


def configurations(name: str, expected: str) -> list[str]:
    """The names of the configurations of a dataset of the hub.

    Raises:
        ValueError: there is none of that name, or the hub is not reached.
    """
    with _hub_errors(repr(name), expected, _ARGUMENT):
        return get_dataset_config_names(name)


@contextmanager
def _hub_errors(asked: str, expected: str, argument: str) -> Iterator[None]:
    try:
        yield
    # Which error it is depends on whether the hub is down, offline mode is on, or there is no
    # such dataset; they share OSError and ValueError.
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{argument}: {asked} is no folder with {expected}, and datasets does not find "
            f"it on the hub or in its cache ({type(error).__name__}: {error}). Without a network, "
            f"give a folder with {expected}."
        ) from error


def hold_out(
    rows: Sequence[Record], n: int, seed: int, name: str
) -> tuple[list[Record], list[Record]]:
    """Rows to train on, and `n` rows drawn from the others.

    A prompt that occurs twice is on one side only: the rows that are held out have different
    prompts, and no row that is left has one of them.

    Raises:
        ValueError: `n` is below 0, or not less than there are different prompts.
    """
    first = list({row["prompt"]: row for row in reversed(rows)}.values())[::-1]
    if not 0 <= n < max(len(first), 1):
        raise ValueError(
            f"n_development must be between 0 and {max(len(first) - 1, 0)} "
            f"({name} has {len(first)} different prompts to train on), got {n}"
        )
    drawn = sorted(random.Random(f"{name} development {seed}").sample(range(len(first)), n))
    held_out = [first[i] for i in drawn]
    return without(rows, held_out), held_out


def without(rows: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """The rows that have no prompt of `others`."""
    prompts = {row["prompt"] for row in others}
    return [row for row in rows if row["prompt"] not in prompts]


def keep_apart(
    train: Sequence[Record], development: Sequence[Record], tested: Iterable[Record]
) -> tuple[list[Record], list[Record], list[str]]:
    """The training and development rows whose prompts no later split has, and notes on the others.

    Published data repeat rows from split to split, and what was trained says nothing when it is
    tested.
    """
    tested = list(tested)
    kept, chosen = without(train, [*development, *tested]), without(development, tested)
    counts = {"training": len(train) - len(kept), "development": len(development) - len(chosen)}
    left_out = " and ".join(f"{n:,} {split}" for split, n in counts.items() if n)
    note = f"left out: {left_out} rows whose prompts a later split has"
    return kept, chosen, [note] if left_out else []


def as_dataset(rows: Iterable[Record]) -> Dataset | None:
    """The rows as a `datasets.Dataset`; None where there are none."""
    listed = list(rows)
    return Dataset.from_list(listed) if listed else None
