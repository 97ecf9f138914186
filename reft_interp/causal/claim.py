"""A claim about subspaces beside its controls: what all evidence has, whatever is swapped.

What would have been found anyway (with shuffled labels, in an untrained model, in a random
subspace) stands beside what was found, on the same held-out pairs. Next door, `evidence` says it of
one variable and `joint_evidence` of several at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool

from reft_interp.evaluation import Accuracy, Comparison, paired_difference
from reft_interp.subspace import Subspace, expected_overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from reft_interp.causal.counterfactuals import Counterfactuals

One = TypeVar("One")
Hits = Bool[np.ndarray, "pairs"]

WHOLE, NONE = "whole vector", "no intervention"
RANDOM, PLACEBO = "random subspace", "placebo of the same size"
SHUFFLED, UNTRAINED = "shuffled labels", "untrained model"
_WELL_DONE = 0.7  # below this, as where pairs are made, a model is said not to do a task
CONTROLS = (NONE, RANDOM, SHUFFLED, UNTRAINED)
"""What a claim has to be above, but for shuffled labels where the method looks at no labels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Claim(ABC):
    """What a method found, scored beside its controls on the same held-out pairs."""

    method: str
    """What found it, as in "DAS"."""
    hits: dict[str, tuple[Hits, ...]] = field(repr=False)
    """Of the method and each control, one a seed or draw, which held-out pairs give the expected
    label."""
    train_hits: tuple[Bool[np.ndarray, "train"], ...] = field(repr=False)
    """The method on the pairs that it was fitted to, one a seed."""
    model: str
    task_accuracy: Accuracy
    """How many of the held-out bases the model answers right without an intervention."""
    seen: float = 0.0
    """Share of held-out pairs whose base is a prompt of the training pairs, too."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """What is counted, and where."""

    @property
    @abstractmethod
    def stability(self) -> pd.DataFrame:
        """How far the other seeds and the resampled pairs lead from the first."""

    @abstractmethod
    def summary(self) -> str:
        """A paragraph that a paper could quote."""

    @property
    def controls(self) -> tuple[str, ...]:
        """What the claim has to be above."""
        return tuple(name for name in CONTROLS if name in self.hits)

    @property
    def comparison(self) -> Comparison:
        """Interchange intervention accuracy on held-out pairs, all methods; the claim has the
        interval of its own pairs, and other seeds a line of their own."""
        rows = []
        for name, draws in self.hits.items():
            accuracies = tuple(accuracy_of(one) for one in draws)
            if name == self.method and len(accuracies) > 1:
                rows += [(name, accuracies[:1]), (f"{name}, other seeds", accuracies[1:])]
            else:
                rows.append((name, accuracies))
        return Comparison(self.metric, tuple(rows))

    @property
    def iia(self) -> Accuracy:
        """Of the claim: the first seed on held-out pairs."""
        return accuracy_of(self.hits[self.method][0])

    @property
    def holds(self) -> bool:
        """Whether the lower bound of the held-out IIA is above the upper bound of each of
        `controls`, and there of the best draw or seed (95 % Wilson intervals).

        Changes of the same size along random directions are none of `controls`: where the claim is
        not above them, `flags` says so, and it may hold all the same.
        """
        return not self.failing

    @property
    def failing(self) -> tuple[str, ...]:
        """Those of `controls` that the claim is not above."""
        return tuple(
            name for name in self.controls if self.iia.interval[0] <= self._upper_bound(name)
        )

    @property
    def selectivity(self) -> pd.DataFrame:
        """The claim's IIA minus each control's, on the same pairs.

        Columns control, difference, low, high: a 95 % bootstrap interval over pairs. Of
        several draws or seeds of a control, the mean over them.
        """
        lines = []
        for name in (*self.controls, PLACEBO, *([WHOLE] if WHOLE in self.hits else [])):
            value, (low, high) = paired_difference(
                self.hits[self.method][0].astype(float), np.mean(self.hits[name], axis=0)
            )
            lines.append({"control": name, "difference": value, "low": low, "high": high})
        return pd.DataFrame(lines)

    @property
    def gap(self) -> float:
        """IIA on the training pairs minus IIA on held-out pairs, first seed."""
        return accuracy_of(self.train_hits[0]).value - self.iia.value

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader should know before the claim is believed."""
        found = []
        whole = accuracy_of(self.hits[WHOLE][0]) if WHOLE in self.hits else None
        if whole is not None and self.iia.value < whole.value:
            found.append(
                f"{self.method} ({self.iia.value:.3f}) is below the plain swap of the whole vector "
                f"({whole.value:.3f})"
            )
            fitted = accuracy_of(self.train_hits[0])
            if fitted.interval[1] < whole.interval[0]:
                found.append(
                    f"{self.method} gives only {fitted.value:.3f} even of the pairs that it was "
                    "fitted to: a longer search or a higher rank may find what it does not, so "
                    "that this is no sign of absence"
                )
        if SHUFFLED not in self.hits:
            found.append(f"{self.method} looks at no labels, so that no control has them shuffled")
        if self.iia.interval[0] <= self._upper_bound(PLACEBO):
            found.append(
                f"{self.method} is not above changes of the same size along random directions "
                f"({PLACEBO}), which `holds` does not count"
            )
        if self.task_accuracy.value < _WELL_DONE:
            found.append(
                f"the model answers only {self.task_accuracy.value:.1%} of the held-out bases "
                "right without an intervention: what it does not do cannot be found in it"
            )
        spread = [accuracy_of(one).value for one in self.hits[self.method]]
        if max(spread) - min(spread) > 0.1:
            found.append(f"seeds differ: IIA {min(spread):.3f} to {max(spread):.3f}")
        if self.gap > 0.1:
            found.append(f"IIA on training pairs is {self.gap:.3f} higher than on held-out pairs")
        if self.seen:
            found.append(
                f"in {self.seen:.1%} of held-out pairs the base is a prompt of the training pairs, "
                "with other partners"
            )
        return tuple(found)

    def to_frame(self) -> pd.DataFrame:
        """One row a method, as `Comparison.to_frame`."""
        return self.comparison.to_frame()

    def __str__(self) -> str:
        lines = [str(self.comparison), f"  holds: {self.holds}"]
        return "\n".join(lines + [f"  note: {flag}" for flag in self.flags])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{flag}</li>" for flag in self.flags)
        table = self.to_frame().to_html(index=False, float_format="{:.3f}".format)
        return f"{table}<p>holds: {self.holds}</p><ul>{notes}</ul>"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Dots with intervals, one line a method."""
        return self.comparison.plot(ax)

    def save(self, folder: str | Path, pairs: "Counterfactuals | None" = None) -> Path:
        """Write `report.html` with its figure and tables, `evidence.json` (the numbers, null where
        there is none, and what was searched: model, method, places, settings of DAS, hash of the
        pairs, version of this library), and what was found: by DAS as `interchange/`, for
        `DASResult.load` (`JointDASResult.load` for several variables), by another method as
        `subspace.safetensors`, for `Subspace.load`.

        Args:
            folder: made if it does not exist; other files in it stay.
            pairs: what was searched, for a section of the page and their hash in its footer and
                in `evidence.json`.

        Returns:
            The page's path.

        Raises:
            ValueError: `folder`, or a place in it where a folder has to be, is a file; another
                method's evidence where DAS's is, or DAS's where another's is.
        """
        from reft_interp.causal.claim_document import save_claim

        return save_claim(cast("Any", self), folder, pairs)

    def _runs(
        self, found: Sequence[One], again: Sequence[One]
    ) -> Iterator[tuple[dict[str, Any], One]]:
        """Each search, of a seed or of pairs drawn again, by its name and its held-out IIA."""
        for kind, results, scored in (
            ("seed", found, self.hits[self.method]),
            ("resampled pairs", again, self.hits.get(resampled(self.method), ())),
        ):
            for i, (one, right) in enumerate(zip(results, scored, strict=True)):
                yield {"run": f"{kind} {i}", "iia": accuracy_of(right).value}, one

    def _upper_bound(self, control: str) -> float:
        """Of a control's best draw or seed."""
        return max(accuracy_of(one).interval[1] for one in self.hits[control])


def accuracy_of(hits: Hits) -> Accuracy:
    """Of what was hit and missed, the share and its interval."""
    return Accuracy(int(hits.sum()), len(hits))


def resampled(method: str) -> str:
    """What a method is called in tables where pairs were drawn again."""
    return f"{method}, resampled pairs"


def closeness(found: Subspace | None, first: Subspace) -> dict[str, float]:
    """How close what was found is to the first seed's, and how close random subspaces are."""
    if found is None:
        return dict.fromkeys(("overlap", "largest angle", "overlap at random"), np.nan)
    return {
        "overlap": found.overlap(first),
        "largest angle": float(found.principal_angles(first).max()),
        "overlap at random": expected_overlap(first.rank, found.rank, first.width),
    }
