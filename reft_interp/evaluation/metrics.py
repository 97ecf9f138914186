"""Metrics of answers and of labels: what was predicted, against what the data say.

Here: `Metric`, and one function for each kind. An answer that was not found is None and counts as
wrong; of two labels, as the other one. A correlation has no such thing as wrong: there it stands
for a guess, any of the answers that were found, each as likely. So nothing is gained by giving no
answer, and where none was found the correlation is 0, as that of a constant answer. Next door:
`metric_scores` gives a metric its interval. Above: suites extract answers from outputs, classifiers
predict labels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

RowNumbers = Int[np.ndarray, "_"]
"""Numbers of rows, some of them perhaps several times."""
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
    read: Callable[[Sequence[Any], Sequence[Any]], Callable[[RowNumbers], float]] | None = None
    """What gives the number of some rows, of answers that are read once: an interval asks for those
    of thousands of resamples."""

    def __call__(self, predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        """
        Raises:
            ValueError: no answers, or not as many predicted as gold ones.
        """
        check_answers(predicted, gold)
        return self.compute(predicted, gold)


def check_answers(predicted: Sequence[Any], gold: Sequence[Any]) -> None:
    """Raise unless each row has a predicted and a gold answer.

    Raises:
        ValueError: no answers, or not as many predicted as gold ones.
    """
    if len(predicted) != len(gold) or not len(gold):
        raise ValueError(
            "predicted and gold must hold an answer of each row: "
            f"there are {len(predicted)} predicted and {len(gold)} gold"
        )


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
    """Matthews' correlation of two labels, in [-1, 1]; 0 where all rows are given one label.

    No answer counts as a guess, any of the labels that were found in the proportion in which they
    were: where nothing was found it is 0.

    Raises:
        ValueError: not two labels.
    """
    _check_two("matthews", labels)

    # It is Pearson's correlation of the two label numbers. sklearn's function takes a hundred
    # times as long, and intervals compute it for thousands of resamples.
    return _correlation("Matthews correlation", lambda label: float(_label(labels, label)))


def f1(labels: Labels) -> Metric:
    """F1 of the second of two labels; no answer counts as the label that the row doesn't have.

    Raises:
        ValueError: not two labels.
    """
    _check_two("f1", labels)

    def read(predicted: Sequence[Any], gold: Sequence[Any]) -> Callable[[RowNumbers], float]:
        wanted, found = _label_pairs(labels, predicted, gold)

        def of_rows(rows: RowNumbers) -> float:
            given = int(wanted[rows].sum() + found[rows].sum())
            # Where neither has the label there is no precision and no recall; GLUE says 0.
            return 2 * int((wanted[rows] * found[rows]).sum()) / given if given else 0.0

        return of_rows

    return read_once("F1", read, (0.0, 1.0))


def pearson() -> Metric:
    """Pearson's correlation of scores; 0 where one side is constant.

    No answer counts as a guess, any of the scores that were found, each as likely: where nothing
    was found it is 0.
    """
    return _correlation("Pearson correlation", float)


def spearman() -> Metric:
    """Spearman's rank correlation of scores; likewise."""
    return _correlation("Spearman correlation", float, ranked=True)


def _check_two(metric: str, labels: Labels) -> None:
    if isinstance(labels, str) or len(labels) != 2:
        raise ValueError(f"labels must be two for {metric}, got {labels!r}")


def read_once(
    name: str,
    read: Callable[[Sequence[Any], Sequence[Any]], Callable[[RowNumbers], float]],
    bounds: tuple[float, float],
) -> Metric:
    """A metric that is known by `Metric.read`: its number is that of all rows."""

    def compute(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        return read(predicted, gold)(np.arange(len(gold)))

    return Metric(name, compute, bounds=bounds, read=read)


def mean_of_rows(
    name: str, row_score: Callable[[Any, Any], float], bounds: tuple[float, float]
) -> Metric:
    """The mean of what each row scores.

    Args:
        name: of the metric.
        row_score: of one predicted and one gold answer.
        bounds: the least and the most that a row can score.
    """

    def read(predicted: Sequence[Any], gold: Sequence[Any]) -> Callable[[RowNumbers], float]:
        scores = np.array(list(map(row_score, predicted, gold)))
        return lambda rows: float(scores[rows].mean())

    return read_once(name, read, bounds)


def _correlation(name: str, number: Callable[[Any], float], *, ranked: bool = False) -> Metric:
    """The correlation of the numbers that answers are."""

    def read(predicted: Sequence[Any], gold: Sequence[Any]) -> Callable[[RowNumbers], float]:
        known = np.array([p is not None for p in predicted])
        found = np.array([0.0 if p is None else number(p) for p in predicted])
        wanted = np.array([number(one) for one in gold])

        def of_rows(rows: RowNumbers) -> float:
            return _correlated(found[rows], known[rows], wanted[rows], ranked=ranked)

        return of_rows

    return read_once(name, read, (-1.0, 1.0))


def _correlated(
    found: Float[np.ndarray, "n"],
    known: Bool[np.ndarray, "n"],
    scores: Float[np.ndarray, "n"],
    *,
    ranked: bool,
) -> float:
    """The correlation, of ranks if asked for, where what is not known stands for each of the
    others, equally often."""
    values = found[known]
    # One side is constant: there is no correlation, and NaN would be neither better nor worse.
    if not len(values) or np.ptp(values) == 0 or np.ptp(scores) == 0:
        return 0.0
    if ranked:
        values, scores = rankdata(values), rankdata(scores)
    # The mean adds nothing to the covariance; the variance is what it would be without these rows.
    filled = np.full(len(scores), values.mean())
    filled[known] = values
    return math.sqrt(len(values) / len(scores)) * float(np.corrcoef(filled, scores)[0, 1])


def _label_pairs(
    labels: Labels, predicted: Sequence[Any], gold: Sequence[Any]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Numbers of the gold and the predicted labels; no answer is the other of the two labels."""
    wanted = [_label(labels, label) for label in gold]
    found = [
        1 - w if p is None else _label(labels, p) for p, w in zip(predicted, wanted, strict=True)
    ]
    return np.array(wanted), np.array(found)


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
