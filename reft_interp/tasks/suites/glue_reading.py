"""GLUE's files: tab-separated as the benchmark has them, or JSON, or the dataset of the hub.

Here: rows of `text_a`, `text_b` and `label`, whatever they were called. Next door: `glue` makes
prompts of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reft_interp.tasks.suites.reading import (
    Record,
    check_record,
    listing,
    locate,
    read_hub,
    read_json,
)


@dataclass(frozen=True)
class Layout:
    """How one task's rows are called."""

    text_a: str
    text_b: str | None
    labels: tuple[str, ...]
    """Names of the labels in the order of their numbers; none where a label is a score."""
    columns: tuple[str, ...]
    """Of a tab-separated file without a header."""


_ENTAILMENT = ("entailment", "not_entailment")
_NUMBERED = ("index", "sentence1", "sentence2", "label")

LAYOUTS: dict[str, Layout] = {
    "mnli": Layout("premise", "hypothesis", ("entailment", "neutral", "contradiction"), ()),
    "qnli": Layout("question", "sentence", _ENTAILMENT, ("index", "question", "sentence", "label")),
    "qqp": Layout(
        "question1",
        "question2",
        ("not_duplicate", "duplicate"),
        ("id", "qid1", "qid2", "question1", "question2", "label"),
    ),
    "sst2": Layout("sentence", None, ("negative", "positive"), ("sentence", "label")),
    "mrpc": Layout(
        "sentence1",
        "sentence2",
        ("not_equivalent", "equivalent"),
        ("label", "#1 ID", "#2 ID", "sentence1", "sentence2"),
    ),
    "cola": Layout(
        "sentence",
        None,
        ("unacceptable", "acceptable"),
        ("source", "label", "original", "sentence"),
    ),
    "stsb": Layout("sentence1", "sentence2", (), ()),
    "rte": Layout("sentence1", "sentence2", _ENTAILMENT, _NUMBERED),
}

# What files call the columns that the hub's copy calls otherwise.
_OTHER_NAMES = {
    "Quality": "label",
    "#1 String": "sentence1",
    "#2 String": "sentence2",
    "score": "label",
    "is_duplicate": "label",
    "gold_label": "label",
}

# The beginnings of file names after "NAME.", for each split. CoLA's and RTE's official train sets
# are also published in two parts, train and val.
_BEGINNINGS = {
    "train": ("train", "val", "msr_paraphrase_train"),
    "validation": ("dev", "heldout", "msr_paraphrase_test"),
}
_EXPECTED = "NAME.train*, NAME.dev* (tsv, json or jsonl)"


_Placed = tuple[str, Record]
"""Where a row stands, for messages, and the row as it was read."""


@dataclass(frozen=True)
class GlueRows:
    """Rows of `text_a`, `text_b` (None where there is one text) and `label`."""

    train: list[Record]
    validation: list[Record]
    notes: tuple[str, ...]


def read_glue(task: str, path_or_hub_id: Any) -> GlueRows:
    """The training and validation rows of one task.

    Training rows without one of their texts, as two of the hub's QQP are, are left out, and
    counted in `notes`.

    Raises:
        ValueError: no such folder or dataset, a file of a split missing, or a bad row (file,
            row number and columns are named).
    """
    expected = _EXPECTED.replace("NAME", task)
    place = locate(path_or_hub_id, expected)
    if isinstance(place, str):
        return _read_hub(task, place, expected)
    rows: dict[str, list[_Placed]] = {}
    notes: list[str] = []
    for split, beginnings in _BEGINNINGS.items():
        files = [
            file
            for beginning in beginnings
            for file in sorted(place.glob(f"{task}.{beginning}*"))
            if file.suffix in (".tsv", ".txt", ".json", ".jsonl")
        ]
        if not files:
            raise ValueError(
                f"path_or_hub_id must be a folder with {expected}; {str(place)!r} has no "
                f"{split} file of {task}, it has {listing(place)}"
            )
        # MNLI's rows of other genres, on which Wu et al. 2024 do not report.
        files = [file for file in files if "mismatched" not in file.stem] or files
        rows[split] = [row for file in files for row in _read_file(task, file)]
        notes.append(f"{split} rows are those of {', '.join(file.name for file in files)}")
    return _checked(task, rows["train"], rows["validation"], notes)


def _read_hub(task: str, name: str, expected: str) -> GlueRows:
    # The benchmark is one dataset with a configuration for each task.
    splits = read_hub(name, task if name.split("/")[-1] == "glue" else None, expected)
    matched = "validation_matched"  # MNLI's; as in a folder, it alone
    validation = matched if matched in splits else "validation"
    if not {"train", validation} <= set(splits):
        raise ValueError(
            f"path_or_hub_id: {name!r} must have the splits train and validation, it has "
            f"{', '.join(splits)}"
        )
    train, held_out = (
        [(f"{name} {split} row {i}", row) for i, row in enumerate(splits[split].to_list())]
        for split in ("train", validation)
    )
    return _checked(task, train, held_out, [])


def _read_file(task: str, file: Path) -> list[_Placed]:
    if file.suffix in (".tsv", ".txt"):
        records = read_tsv(task, file)
    else:
        records = read_json(file, ())
    return [(f"{file} row {i}", record) for i, record in enumerate(records)]


def _checked(
    task: str, train: list[_Placed], validation: list[_Placed], notes: list[str]
) -> GlueRows:
    """Rows by our names; those that are trained on have all of their texts."""
    read = [_row(task, where, record, trained_on=True) for where, record in train]
    whole = [row for row in read if row is not None]
    if count := len(read) - len(whole):
        notes = [*notes, f"left out: {count:,} training rows without one of their texts"]
    held_out = [_row(task, where, record) for where, record in validation]
    return GlueRows(whole, [row for row in held_out if row is not None], tuple(notes))


def read_tsv(task: str, file: Path) -> list[Record]:
    """The rows of a tab-separated file, as text, by its header's names or those of the task's files
    without one; a byte-order mark is passed over.

    Raises:
        ValueError: a row has more or fewer fields (file and row number, from 0, are named), or the
            columns are not known.
    """
    # Not the csv module, which has fields begin and end at quote marks, and not splitlines(),
    # which breaks lines at characters that sentences contain.
    lines = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line]
    first = [_OTHER_NAMES.get(name, name) for name in lines[0].split("\t")] if lines else []
    headed = "label" in first
    columns = first if headed else list(LAYOUTS[task].columns)
    if not columns:
        raise ValueError(f"{file} must begin with a line of column names, got {lines[:1]}")
    rows = []
    for i, line in enumerate(lines[headed:]):
        fields = line.split("\t")
        if len(fields) != len(columns):
            raise ValueError(
                f"{file} row {i}: must have {len(columns)} fields ({', '.join(columns)}), got "
                f"{len(fields)} in {line!r}"
            )
        rows.append(dict(zip(columns, fields, strict=True)))
    return rows


def _row(task: str, where: str, record: Record, *, trained_on: bool = False) -> Record | None:
    """A row by our names; None where it lacks a text and is only trained on."""
    layout = LAYOUTS[task]
    record = {_OTHER_NAMES.get(name, name): value for name, value in record.items()}
    # The benchmark's own MNLI has sentence1 and sentence2; sampled copies have our names.
    names = {"text_a": (layout.text_a, "text_a", "sentence1"), "label": ("label",)}
    if layout.text_b is not None:
        names["text_b"] = (layout.text_b, "text_b", "sentence2")
    columns = {
        ours: next((name for name in theirs if name in record), theirs[0])
        for ours, theirs in names.items()
    }
    of_texts = [columns[ours] for ours in ("text_a", "text_b") if ours in columns]
    if trained_on and any(name in record and record[name] is None for name in of_texts):
        return None
    texts = check_record(where, record, list(columns.values()))
    for column in ("text_a", "text_b"):
        if column in columns and not texts[columns[column]].strip():
            if trained_on:
                return None
            raise ValueError(f"{where}: {columns[column]} must not be empty in {record}")
    return {
        "text_a": texts[columns["text_a"]],
        "text_b": texts[columns["text_b"]] if layout.text_b else None,
        "label": _label(where, layout.labels, texts["label"]),
    }


def _label(where: str, labels: tuple[str, ...], given: str) -> int | float:
    if not labels:
        try:
            score = float(given)
        except ValueError:
            score = float("nan")
        if not 0 <= score <= 5:
            raise ValueError(f"{where}: label must be a score from 0 to 5, got {given!r}")
        return score
    if given in labels:
        return labels.index(given)
    if given in map(str, range(len(labels))):
        return int(given)
    raise ValueError(
        f"{where}: label must be one of {', '.join(labels)}, or its number, got {given!r}"
    )
