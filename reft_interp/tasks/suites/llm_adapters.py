"""Files of LLM-Adapters (Hu et al. 2023, arXiv:2304.01933), in which two suites are published.

Here: which file holds what, and the rows as they are; `commonsense` and `arithmetic` make prompts
of them. Rows have `instruction`, `input`, `output` and `answer`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from reft_interp.tasks.suites.reading import (
    Record,
    check_record,
    configurations,
    listing,
    locate,
    read_hub,
    read_json,
)

COLUMNS = ("instruction", "input", "output", "answer")


@dataclass
class AdapterRows:
    """Rows as published; `dataset` and `where` (file and number, for messages) are added."""

    train: list[Record] = field(default_factory=list)
    tests: dict[str, list[Record]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_adapter_rows(
    path_or_hub_id: str | os.PathLike[str], names: Sequence[str], combined: str
) -> AdapterRows:
    """Training and test rows of the data sets that are there; `notes` names those that are not.

    Args:
        path_or_hub_id: a folder with `NAME.train.json` and `NAME.test.json`, or
            `NAME/train.json` and `NAME/test.json`; more may stand before ".json"
            (`winogrande.train_m.json`), which a note then says. Or a dataset of the hub, with a
            configuration for each name, or with the splits "train" and one for each name.
        names: of the data sets.
        combined: the name of a training set of all of them (`COMBINED.json`,
            `COMBINED/train.json`), which is read in place of theirs.

    Raises:
        ValueError: there is no test set, two files for one, or a bad row.
    """
    expected = f"files as {names[0]}.test.json"
    place = locate(path_or_hub_id, expected)
    if isinstance(place, str):
        found = _read_hub(place, names, combined, expected)
    else:
        found = _read_folder(place, names, combined)
    if not found.tests:
        there = f"it has {listing(place)}" if isinstance(place, Path) else "it has none of them"
        raise ValueError(
            f"path_or_hub_id must hold a test set of one of {', '.join(names)} "
            f"({expected}), {str(place)!r} does not: {there}"
        )
    trained = {row["dataset"] for row in found.train}
    for kind, present in (("test", found.tests), ("training", trained)):
        missing = [name for name in names if name not in present]
        if missing and combined not in present:
            found.notes.append(f"no {kind} rows of {', '.join(missing)}")
    return found


def _read_folder(folder: Path, names: Sequence[str], combined: str) -> AdapterRows:
    found = AdapterRows()
    whole = folder / f"{combined}.json"
    together = whole if whole.is_file() else _file(folder, combined, "train")
    if together is not None:
        found.train += _rows(found, together, combined, "train")
    for name in names:
        train, test = _file(folder, name, "train"), _file(folder, name, "test")
        if train is not None and together is None:
            found.train += _rows(found, train, name, "train")
        if test is not None:
            found.tests[name] = _rows(found, test, name, "test")
    return found


def _file(folder: Path, name: str, split: str) -> Path | None:
    for usual in (folder / f"{name}.{split}.json", folder / name / f"{split}.json"):
        if usual.is_file():
            return usual
    # mawps.trainset.json and its like have fields of their own, and no solutions.
    files = [f for f in folder.glob(f"{name}.{split}*.json") if not f.stem.endswith("set")]
    if len(files) > 1:
        raise ValueError(
            f"path_or_hub_id must hold one {split} file of {name}, {str(folder)!r} has "
            f"{', '.join(sorted(file.name for file in files))}; name one {name}.{split}.json"
        )
    return files[0] if files else None


def _rows(found: AdapterRows, file: Path, name: str, split: str) -> list[Record]:
    if file.name not in (f"{name}.{split}.json", f"{split}.json", f"{name}.json"):
        found.notes.append(f"{split} rows of {name} are those of {file.name}")
    return [
        row | {"dataset": name, "where": f"{file} row {i}"}
        for i, row in enumerate(read_json(file, COLUMNS))
    ]


def _read_hub(hub_id: str, names: Sequence[str], combined: str, expected: str) -> AdapterRows:
    found = AdapterRows()
    configured = [name for name in names if name in configurations(hub_id, expected)]
    for name in configured:
        splits = read_hub(hub_id, name, expected)
        found.train += _hub_rows(hub_id, splits, "train", name)
        if "test" in splits:
            found.tests[name] = _hub_rows(hub_id, splits, "test", name)
    if not configured:
        splits = read_hub(hub_id, None, expected)
        found.train = _hub_rows(hub_id, splits, "train", combined)
        for name in names:
            # Names of splits are words: "ARC-Easy" is ARC_Easy.
            split = re.sub(r"\W", "_", name)
            if split in splits:
                found.tests[name] = _hub_rows(hub_id, splits, split, name)
    return found


def _hub_rows(hub_id: str, splits: dict[str, Dataset], split: str, name: str) -> list[Record]:
    rows = splits[split].to_list() if split in splits else []
    named = [(f"{hub_id} {name} {split} row {i}", row) for i, row in enumerate(rows)]
    return [
        check_record(where, row, COLUMNS) | {"dataset": name, "where": where}
        for where, row in named
    ]
