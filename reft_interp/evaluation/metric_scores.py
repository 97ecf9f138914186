"""A metric over rows, with its interval, whatever the metric is.

Here: what holds for any metric of predicted and gold answers. Next door: `metrics` are the
metrics, `results` what is counted of language models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.stats import bootstrap

from reft_interp.evaluation.metrics import Metric, check_answers
from reft_interp.evaluation.results import Accuracy, interval_of_alike, resamples_at_once

_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """What a metric says of some rows."""

    metric: str
    value: float
    interval: tuple[float, float]
    """95 %: Wilson's for a share of rows, else the percentiles of a bootstrap over rows; where all
    resamples score alike, as wide as Wilson's of a share of which no row was seen, and NaN for a
    metric without bounds."""
    n: int
    """Rows that were scored."""

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.metric} {self.value:.3f} [{low:.3f}, {high:.3f}] n={self.n}"


def score(metric: Metric, predicted: Sequence[Any], gold: Sequence[Any], *, seed: int = 0) -> Score:
    """A metric and how sure it is.

    Args:
        metric: as `reft_interp.evaluation.metrics` has them.
        predicted: one a row.
        gold: what they should be.
        seed: of the bootstrap's 2,000 resamples.

    Raises:
        ValueError: no rows, or not as many predicted as gold ones.
    """
    n = len(gold)
    if metric.is_correct is not None:
        value = metric(predicted, gold)
        hits = sum(map(metric.is_correct, predicted, gold))
        low, high = Accuracy(hits, n).interval
    else:
        of_rows = of_rows_by(metric, predicted, gold)
        value = of_rows(np.arange(n))
        ends = resampled(of_rows, n, _RESAMPLES, seed=seed).confidence_interval if n > 1 else None
        if ends is None or ends.low == ends.high:
            low, high = interval_of_alike(value, n, metric.bounds)
        else:
            low, high = ends
    return Score(metric.name, value, (float(low), float(high)), n)


def resampled(
    of_rows: Callable[[Int[np.ndarray, "n"]], float], n: int, resamples: int, *, seed: int
) -> Any:
    """scipy's bootstrap of a number over rows, with `confidence_interval` (95 %, percentiles) and
    `standard_error`.

    Args:
        of_rows: the number, of the rows that it is given, some of them several times.
        n: how many rows there are; at least two.
        resamples: how often they are drawn.
        seed: of the draws.
    """
    return bootstrap(
        (np.arange(n),), of_rows, vectorized=False, n_resamples=resamples, method="percentile",
        batch=resamples_at_once(n), rng=np.random.default_rng(seed),
    )  # fmt: skip


def of_rows_by(
    metric: Metric, predicted: Sequence[Any], gold: Sequence[Any]
) -> Callable[[Int[np.ndarray, "_"]], float]:
    """What gives the metric of some rows, by their numbers.

    Raises:
        ValueError: no rows, or not as many predicted as gold ones.
    """
    check_answers(predicted, gold)
    if metric.read is not None:
        return metric.read(predicted, gold)
    return lambda rows: metric([predicted[i] for i in rows], [gold[i] for i in rows])
