"""Rows of a `datasets.Dataset`: whether they are consistent, and a hash of what they say.

Here: the checks that counterfactual and labelled data share, each with a message that shows the
row. Next door: `counterfactuals`; above, `tasks.labelled`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from reft_interp.runtime.batching import check_several

Pairs = Dataset | Sequence[Mapping[str, Any]]
"""Counterfactual rows: base, source, label, and choices and spans where they are needed."""


def content_hash(*splits: Dataset | None) -> str:
    """SHA-256 of the rows, in order: equal rows give equal hashes in any process, on any machine.

    The order of columns does not count, nor does how the rows are stored.
    """
    digest = hashlib.sha256()
    for split in splits:
        rows = None if split is None else rows_of(split)
        digest.update(_canonical_json(rows).encode() + b"\n")
    return digest.hexdigest()


def check_row(where: str, row: Mapping[str, Any], prompt: str, answers: Sequence[str]) -> None:
    """Check a prompt of a row, the answers that it names, and its choices.

    Args:
        where: the split and number of the row, for the message.
        prompt: name of the column with the prompt.
        answers: names of the columns whose value must be one of `choices`.

    Raises:
        ValueError: the prompt or a choice is no text or empty, there are fewer than two choices
            or one twice, an answer is not among the choices, or prompt and choices would meet
            in two spaces.
    """
    text, choices = row[prompt], row["choices"]
    if not isinstance(text, str) or not text:
        raise ValueError(f"{where}: {prompt} must be a prompt, got {text!r} in {dict(row)}")
    if not choices or len(set(choices)) != len(choices) or len(choices) < 2 or not all(choices):
        raise ValueError(
            f"{where}: choices must be two or more different answers, got {choices!r} "
            f"in {dict(row)}"
        )
    for name in answers:
        if row[name] not in choices:
            raise ValueError(
                f"{where}: {name} must be one of the row's choices {choices!r}, got {row[name]!r} "
                f"in {dict(row)}. Choices carry their leading space."
            )
    if text[-1].isspace() and any(choice[0].isspace() for choice in choices):
        raise ValueError(
            f"{where}: {prompt} ends in a space and the choices {choices!r} begin with one; "
            f"take it off the prompt in {dict(row)}"
        )


def check_spans(where: str, row: Mapping[str, Any], prompt: str, spans: str) -> None:
    """Check that named spans lie inside their prompt.

    A span that is None is absent: datasets fills one in where only other rows have the name.

    Raises:
        ValueError: a span is empty, reversed, or reaches outside the prompt.
    """
    for name, span in (row[spans] or {}).items():
        if span is None:
            continue
        if len(span) != 2 or not 0 <= span[0] < span[1] <= len(row[prompt]):
            raise ValueError(
                f"{where}: the span {name!r} in {spans} must be [start, end] with "
                f"0 <= start < end <= {len(row[prompt])} (the length of {prompt}), got {span!r} "
                f"in {dict(row)}"
            )


def check_columns(name: str, split: Any, required: Sequence[str]) -> None:
    """Check that a split has rows and every column that its rows need.

    Raises:
        TypeError: `split` is not a `datasets.Dataset`.
        ValueError: it is empty, or columns are missing.
    """
    if not isinstance(split, Dataset):
        raise TypeError(
            f"{name} must be a datasets.Dataset, got {type(split).__name__}; "
            "Dataset.from_list makes one from rows"
        )
    missing = [column for column in required if column not in split.column_names]
    if missing:
        raise ValueError(
            f"{name} must have the columns {', '.join(required)}; {', '.join(missing)} missing, "
            f"it has {', '.join(split.column_names) or 'none'}"
        )
    if not len(split):
        raise ValueError(f"{name} must have rows, got none")


def check_pairs(pairs: Any, argument: str) -> None:
    """Check that something is rows, whatever they hold.

    Raises:
        TypeError: it is no list and no Dataset.
        ValueError: it holds none.
    """
    check_several(pairs, argument)
    if not isinstance(pairs, Dataset | Sequence):
        raise TypeError(f"{argument} must be a list or a Dataset, got {type(pairs).__name__}")
    if len(pairs) == 0:
        raise ValueError(f"{argument} must hold at least one row, got none")


def rows_of(split: Dataset) -> list[dict[str, Any]]:
    """The rows of a split, as dictionaries."""
    return split.to_list()


def _canonical_json(rows: Any) -> str:
    return json.dumps(rows, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
