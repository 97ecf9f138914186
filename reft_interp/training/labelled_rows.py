"""Rows with a `label`: what a classifier reads of them, what it should say, and their halves.

Next door: `prepared_labels` holds what is constant about such rows while a classifier trains.
"""

import math
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.runtime.batching import Row, Rows, as_list, check_several
from reft_interp.runtime.running import is_causal

# As the script of Wu et al. 2024 has it: of more validation rows than this, so many are enough to
# choose an epoch on; of fewer, half.
_MANY, _ENOUGH = 5000, 1000
_FEW = 20
"""So many different whole numbers may be the numbers of classes."""


def texts_of(
    model: TransformerBridge, rows: Rows, argument: str = "rows"
) -> list[Mapping[str, Any]]:
    """What a model reads of each row: an encoder the raw texts where it has them, as a pair where
    there are two, a decoder the prompt.

    Raises:
        TypeError: something that is no row.
        ValueError: there are none, or one has nothing to read.
    """
    if is_causal(model):
        return as_list(rows, argument)
    check_several(rows, argument)
    return as_list([_raw(row) for row in cast("Iterable[Row]", rows)], argument)


def _raw(row: Row) -> Row:
    if not isinstance(row, Mapping) or row.get("text_a") is None:
        return row
    # Spans are of the prompt, and are no longer those of what is read.
    return {"prompt": row["text_a"], "text_pair": row.get("text_b")}


def labels_of(rows: Rows, argument: str = "rows") -> list[int] | list[float]:
    """The label of each row: numbers of classes, or scores where any is a float.

    Raises:
        TypeError: something that is no rows, or a label that is no number.
        ValueError: a row without a label; one that is NaN or infinite; a class below 0 (GLUE's
            test sets have -1); integers beside floats that are whole numbers too, which may be
            classes as well as scores.
    """
    check_several(rows, argument)
    labels: list[Any] = []
    for i, row in enumerate(cast("Iterable[Row]", rows)):
        if not isinstance(row, Mapping) or row.get("label") is None:
            raise ValueError(f"{argument}: row {i} has no 'label'")
        if not isinstance(row["label"], Real):
            raise TypeError(
                f"{argument}: row {i} has the label {row['label']!r}; it must be the number of a "
                "class, or a score"
            )
        if not math.isfinite(row["label"]):
            raise ValueError(f"{argument}: row {i} has the label {row['label']}; it must be finite")
        labels.append(row["label"])
    _check_kind(labels, argument)
    if not all(isinstance(label, Integral) for label in labels):
        return [float(label) for label in labels]
    for i, label in enumerate(labels):
        if label < 0:
            raise ValueError(
                f"{argument}: row {i} has the label {label}; classes are numbered from 0"
            )
    return [int(label) for label in labels]


def classes_of(labels: Sequence[Sequence[int] | Sequence[float]]) -> int | None:
    """How many classes some lists of labels are of; None for scores.

    Raises:
        ValueError: all labels are 0, so that there is nothing to tell apart; some lists are of
            integers and others of floats that are whole numbers too.
    """
    every = [label for some in labels for label in some]
    _check_kind(every, "rows and validation")
    if any(isinstance(label, float) for label in every):
        return None
    if not any(every):
        raise ValueError("rows must have labels of at least two classes, all of them are 0")
    return int(max(every)) + 1


def warn_of_whole_scores(labels: Sequence[Sequence[int] | Sequence[float]]) -> None:
    """Warn where scores may have been meant as classes: whole numbers, few of which differ, as a
    column of classes becomes where one of it was missing once."""
    every = [label for some in labels for label in some]
    differ = sorted(set(every))
    if any(isinstance(label, Integral) or label % 1 for label in every):
        return
    if 2 <= len(differ) <= _FEW:
        warnings.warn(
            f"labels are read as scores, and a regression is trained, as they are floats; but they "
            f"are whole numbers, {len(differ)} of which differ ({differ[0]:g} to {differ[-1]:g}): "
            "if they are classes, give them as int",
            stacklevel=3,
        )


def _check_kind(labels: Sequence[Any], argument: str) -> None:
    """Raise where nobody can say whether labels are classes or scores: a column of classes with a
    gap, for instance, is read as floats."""
    floats = [label for label in labels if not isinstance(label, Integral)]
    if len(floats) in (0, len(labels)) or any(float(label) % 1 for label in floats):
        return
    raise ValueError(
        f"{argument}: some labels are integers, as classes are, and others floats, as scores are, "
        f"though whole numbers too (the first is {floats[0]!r}): give them all as int, or as float"
    )


def halve(rows: Rows, seed: int) -> tuple[list[Row], list[Row]]:
    """Validation rows in two disjoint parts: to choose an epoch on, and to report on.

    Wu et al. 2024 (appendix D.1; their script's numbers): halves, drawn anew by each seed; of more
    than 5,000 rows, 1,000 to choose on.

    Args:
        rows: at least two.
        seed: of the draw.

    Raises:
        ValueError: fewer than two rows.
    """
    check_several(rows, "validation")
    listed = list(cast("Iterable[Row]", rows))
    if len(listed) < 2:
        raise ValueError(f"validation must hold at least two rows, got {len(listed)}")
    n = _ENOUGH if len(listed) > _MANY else len(listed) // 2
    chosen = set(random.Random(f"halves {seed}").sample(range(len(listed)), n))
    first = [row for i, row in enumerate(listed) if i in chosen]
    return first, [row for i, row in enumerate(listed) if i not in chosen]
