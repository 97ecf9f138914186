"""The answers of a suite as what a classifier is trained on and what it says: classes, or scores.

Next door: `labelled_rows` reads labels that are numbers already.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reft_interp.runtime.batching import choices_of


@dataclass(frozen=True)
class ClassAnswers:
    """What each class is called; scores are numbers as text."""

    words: tuple[str, ...] | None
    """Of each class its answer, in the order of the rows' `choices`; None for scores."""

    @property
    def classes(self) -> int | None:
        """How many there are; None for scores."""
        return None if self.words is None else len(self.words)

    def labels(self, rows: Sequence[Mapping[str, Any]]) -> list[int] | list[float]:
        """The number of each row's class, or its score."""
        if self.words is None:
            return [float(row["label"]) for row in rows]
        return [self.words.index(row["answer"]) for row in rows]

    def said(self, predicted: Sequence[int] | Sequence[float]) -> list[str]:
        """The answers that some classes or scores are."""
        if self.words is None:
            # Not as 1e-05, which is read as 1.
            return [f"{score:.7f}" for score in predicted]
        return [self.words[int(number)] for number in predicted]


def class_answers(
    rows: Sequence[Mapping[str, Any]], argument: str = "rows", *, like: ClassAnswers | None = None
) -> ClassAnswers:
    """What a classifier has to tell apart: the `choices` of the rows, of which `answer` is one, or
    scores where `label` is a float.

    Args:
        rows: at least one.
        argument: what they are called in the message.
        like: what other rows have, which these must have too.

    Raises:
        TypeError: choices that are one text.
        ValueError: rows whose answers are no classes, or other ones than `like`; a score that is
            NaN or infinite.
    """
    found = like or _of_row(rows[0], f"{argument}: row 0")
    for i, row in enumerate(rows):
        if isinstance(row.get("label"), float) and not math.isfinite(row["label"]):
            raise ValueError(f"{argument}: row {i} has the label {row['label']}; it must be finite")
        if found is None or _of_row(row, f"{argument}: row {i}") != found:
            raise ValueError(
                f"{argument}: the answers are no classes that an encoder could tell apart: row {i} "
                f"has {_told(row, argument)}; all rows must have the same choices, or a score as "
                "their label"
            )
    assert found is not None
    return found


def _of_row(row: Mapping[str, Any], where: str) -> ClassAnswers | None:
    if isinstance(row.get("label"), float):
        return ClassAnswers(None)
    words = tuple(choices_of(row, where))
    return ClassAnswers(words) if len(words) > 1 and row["answer"] in words else None


def _told(row: Mapping[str, Any], where: str) -> str:
    choices = choices_of(row, where)
    if not choices:
        return f"no choices, and the answer {row['answer']!r}"
    return f"the choices {', '.join(map(repr, choices))} and the answer {row['answer']!r}"
