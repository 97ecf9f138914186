"""What was counted, how sure it is, and what it was measured against."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import binomtest, bootstrap, ttest_1samp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWN_AT_ONCE = 4_000_000
"""Rows that a bootstrap draws at once, over its resamples: some 100 MB."""


@dataclass(frozen=True)
class Accuracy:
    """A share of rows, with its interval.

    Raises:
        ValueError: no rows, or more hits than rows.
    """

    hits: int
    n: int
    """Rows that were scored."""

    def __post_init__(self):
        if not 0 <= self.hits <= self.n or self.n < 1:
            raise ValueError(
                f"hits must be between 0 and n, and n at least 1: {self.hits}/{self.n}"
            )

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of `value`."""
        ci = binomtest(self.hits, self.n).proportion_ci(method="wilson")
        return ci.low, ci.high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] n={self.n}"


@dataclass(frozen=True)
class Comparison:
    """Several things measured on the same rows: the one that is claimed and its controls.

    Args:
        metric: what the numbers are.
        rows: a name, and the accuracies measured for it: one, or one a seed or draw.
    """

    metric: str
    rows: tuple[tuple[str, tuple[Accuracy, ...]], ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a method: value, low, high, n, draws.

        Of one measurement, `low` and `high` are its 95 % Wilson interval. Of several draws
        (random subspaces, seeds), `value` is their mean and `low` and `high` their range.
        """
        return pd.DataFrame([_summary(name, draws) for name, draws in self.rows])

    def __getitem__(self, name: str) -> tuple[Accuracy, ...]:
        """What was measured for a name.

        Raises:
            KeyError: nothing was.
        """
        held = dict(self.rows)
        if name not in held:
            known = ", ".join(map(repr, held))
            raise KeyError(f"nothing is named {name!r} here; there are {known}")
        return held[name]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        lines = [f"{self.metric} [95 % interval]"]
        for row in self.to_frame().to_dict("records"):
            many = f", range of {row['draws']} draws" if row["draws"] > 1 else ""
            lines.append(
                f"  {row['method']:<{width}}  {row['value']:.3f} "
                f"[{row['low']:.3f}, {row['high']:.3f}]  n={row['n']}{many}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format="{:.3f}".format)

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        reference: float | int | None = None,
        reference_label: str = "chance",
        title: str = "",
    ) -> "Axes":
        """Dots with intervals, one line a method.

        Args:
            ax: where it is drawn; a new figure by default.
            reference: a line to compare with, for instance chance.
            reference_label: what the line is.
            title: above the figure and the name of the line; none by default.
        """
        from reft_interp import plotting  # printing a result should not need matplotlib

        return plotting.intervals(
            self.to_frame(),
            value="value",
            label="method",
            reference=reference,
            reference_label=reference_label,
            title=title,
            xlabel=self.metric.split(" at ")[0],
            ax=ax,
        )


def interval_of_alike(
    value: float | int, n: int, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The 95 % interval of a mean of scores that are all alike, which show no spread.

    It is as wide as Wilson's of a share of which no row was seen, times the largest that a score
    can be: further rows may be others, and few say little. NaN for scores without bounds.

    Args:
        value: of each, and so their mean.
        n: how many there are.
        bounds: the least and the most that a score can be.
    """
    least, most = bounds
    unseen = Accuracy(0, n).interval[1] * max(abs(least), abs(most))
    if not np.isfinite(unseen):
        return float("nan"), float("nan")
    return max(value - unseen, least), min(value + unseen, most)


def mean_and_interval(
    values: Float[np.ndarray, "_"], bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float, float]:
    """The mean and the ends of its 95 % interval (Student's t); NaN where there are too few
    values, or where they are all alike and have no bounds.

    Args:
        values: one a row.
        bounds: the least and the most that one can be: no interval ends outside, and where all
            are alike it is made of them (`interval_of_alike`).
    """
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else float("nan")
        return mean, float("nan"), float("nan")
    if np.ptp(values) == 0:  # no spread, of which scipy makes no interval
        value = float(values[0])
        return value, *interval_of_alike(value, len(values), bounds)
    found = ttest_1samp(values, 0.0).confidence_interval(0.95)
    least, most = bounds
    return float(values.mean()), max(float(found.low), least), min(float(found.high), most)


def paired_difference(
    first: Float[np.ndarray, "_"], second: Float[np.ndarray, "_"], *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """The mean of `first − second` over the same rows, with its 95 % interval.

    Percentile bootstrap over rows (scipy, 2,000 resamples). Where all differences are the same
    there is nothing to resample: the interval is then `interval_of_alike`'s (for scores in
    [0, 1]).

    Args:
        first: a score of each row.
        second: another score of the same rows.
        seed: of the resamples.

    Raises:
        ValueError: no rows, or not the same number of each.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"first and second must score the same rows: {len(first)}, {len(second)}")
    differences = first - second
    value = float(differences.mean())
    if np.ptp(differences) == 0:
        return value, interval_of_alike(value, len(differences), (-1.0, 1.0))
    interval = bootstrap(
        (differences,), np.mean, n_resamples=2000, method="percentile",
        batch=resamples_at_once(len(differences)), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return value, (float(interval.low), float(interval.high))


def resamples_at_once(n: int) -> int:
    """How many resamples of n rows a bootstrap draws at once; all of them are 4 GB of 100,000 rows.
    They are the same ones, however many are drawn at once."""
    return max(1, _DRAWN_AT_ONCE // n)


def _summary(name: str, draws: tuple[Accuracy, ...]) -> dict[str, Any]:
    values = sorted(draw.value for draw in draws)
    low, high = draws[0].interval if len(draws) == 1 else (values[0], values[-1])
    return {
        "method": name,
        "value": sum(values) / len(values),
        "low": low,
        "high": high,
        "n": draws[0].n,
        "draws": len(draws),
    }
