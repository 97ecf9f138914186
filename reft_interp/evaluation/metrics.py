"""Metrics of answers and of labels: what was predicted, against what the data say.

Here: `Metric`, and one function for each kind. An answer that was not found is None and counts as
wrong; where a measure has no such thing as wrong (a correlation, F1), it stands for the worst
answer that there is. Next door: `metric_scores` gives a metric its interval. Above: suites extract
answers from outputs, classifiers predict labels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

Labels = Sequence[str]
"""The names of the labels, in the order of their numbers."""


@dataclass(frozen=True)
class Metric:
    """A number for predicted and gold answers, higher is better.

    `metric(predicted, gold)` takes two lists of the same length; a predicted answer may be None.
    """

    name: str
    compute: Callable[[Sequence[Any], Sequence[Any]], float]
    is_correct: Callable[[Any, Any], bool] | None = None
    """Of one predicted and one gold answer, where there is such a thing."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """The least and the most that it can be; no interval of it ends outside."""

    def __call__(self, predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        """
        Raises:
            ValueError: no answers, or not as many predicted as gold ones.
        """
        if len(predicted) != len(gold) or not len(gold):
            raise ValueError(
                "predicted and gold must hold an answer of each row: "
                f"there are {len(predicted)} predicted and {len(gold)} gold"
            )
        return self.compute(predicted, gold)


def share_correct(name: str, is_correct: Callable[[Any, Any], bool]) -> Metric:
    """The share of rows that are correct."""

    def compute(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        return sum(map(is_correct, predicted, gold)) / len(gold)

    return Metric(name, compute, is_correct, bounds=(0.0, 1.0))


def exact_match() -> Metric:
    """Accuracy: the predicted answer is the gold one."""
    return share_correct("accuracy", lambda predicted, gold: predicted == gold)


def numeric_match(tolerance: float = 1e-3) -> Metric:
    """Accuracy: the predicted number is within `tolerance` of the gold one.

    A gold answer that is no number (the letter of a choice) has to be met exactly.
    """

    def is_correct(predicted: Any, gold: Any) -> bool:
        wanted, found = _number(gold), _number(predicted)
        if wanted is None or found is None:
            return predicted == gold
        return abs(found - wanted) <= tolerance

    return share_correct(f"accuracy (numbers within {tolerance:g})", is_correct)


def label_accuracy(labels: Labels) -> Metric:
    """Accuracy over labels, each given by its name or by its number."""

    def is_correct(predicted: Any, gold: Any) -> bool:
        return predicted is not None and _label(labels, predicted) == _label(labels, gold)

    return share_correct("accuracy", is_correct)


def matthews(labels: Labels) -> Metric:
    """Matthews' correlation of two labels, in [-1, 1]; 0 where all rows are given one label."""

    def compute(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        wanted, found = _label_pairs(labels, predicted, gold)
        if len(set(wanted)) == 1 or len(set(found)) == 1:
            return 0.0
        # It is Pearson's correlation of the two label numbers. sklearn's function takes a hundred
        # times as long, and intervals compute it for thousands of resamples.
        return float(np.corrcoef(wanted, found)[0, 1])

    return Metric("Matthews correlation", compute, bounds=(-1.0, 1.0))


def f1(labels: Labels) -> Metric:
    """F1 of the second of two labels."""

    def compute(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        wanted, found = _label_pairs(labels, predicted, gold)
        given = sum(wanted) + sum(found)
        # Where neither has the label there is no precision and no recall; GLUE says 0.
        return 2 * sum(w * f for w, f in zip(wanted, found, strict=True)) / given if given else 0.0

    return Metric("F1", compute, bounds=(0.0, 1.0))


def pearson(low: float, high: float) -> Metric:
    """Pearson's correlation of scores between `low` and `high`; 0 where one side is constant."""
    return _correlation("Pearson correlation", pearsonr, low, high)


def spearman(low: float, high: float) -> Metric:
    """Spearman's rank correlation of scores between `low` and `high`; likewise."""
    return _correlation("Spearman correlation", spearmanr, low, high)


def _correlation(name: str, correlate: Callable[..., Any], low: float, high: float) -> Metric:
    def compute(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        wanted = np.array([float(score) for score in gold])
        # No answer is the end of the scale that is further from the gold score.
        worst = np.where(wanted - low > high - wanted, low, high)
        found = np.array(
            [w if p is None else float(p) for p, w in zip(predicted, worst, strict=True)]
        )
        # scipy warns and gives NaN, with which no epoch is better than another.
        if np.ptp(wanted) == 0 or np.ptp(found) == 0:
            return 0.0
        return float(correlate(found, wanted).statistic)

    return Metric(name, compute, bounds=(-1.0, 1.0))


def _label_pairs(
    labels: Labels, predicted: Sequence[Any], gold: Sequence[Any]
) -> tuple[list[int], list[int]]:
    """Numbers of the gold and the predicted labels; no answer is the other of the two labels."""
    wanted = [_label(labels, label) for label in gold]
    found = [
        1 - w if p is None else _label(labels, p) for p, w in zip(predicted, wanted, strict=True)
    ]
    return wanted, found


def _label(labels: Labels, label: Any) -> int:
    if isinstance(label, str) and label in labels:
        return list(labels).index(label)
    if not isinstance(label, str) and label in range(len(labels)):
        return int(label)
    raise ValueError(f"a label must be one of {', '.join(labels)}, or its number, got {label!r}")


def _number(answer: Any) -> float | None:
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
