"""Evidence for a claim "this subspace carries that variable", with every control it needs.

What would have been found anyway (with shuffled labels, in an untrained model, in a random
subspace) stands beside what was found, on the same held-out pairs. Next door, `gathering` makes it.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from reft_interp.causal.das import DASResult
from reft_interp.causal.effects import Effects
from reft_interp.evaluation import Accuracy, Comparison, paired_difference
from reft_interp.interventions import (
    DistributedInterchange,
    Intervention,
)
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Hits = Bool[np.ndarray, "pairs"]

Found = DASResult | Intervention
"""What a search ends with: of DAS its result, of another method the interchange it proposes."""

WHOLE, NONE = "whole vector", "no intervention"
RANDOM, PLACEBO = "random subspace", "placebo of the same size"
SHUFFLED, UNTRAINED = "shuffled labels", "untrained model"
_WELL_DONE = 0.7  # below this, as where pairs are made, a model is said not to do a task
CONTROLS = (NONE, RANDOM, SHUFFLED, UNTRAINED)
"""What a claim has to be above, but for shuffled labels where the method looks at no labels."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was found at one site for one variable, and what it was measured against."""

    variable: str
    site: Site
    on: str
    method: str
    """What found the interchange, as in "DAS"."""
    found: tuple[Found, ...] = field(repr=False)
    """What it found, one a seed; the claim is about the first."""
    resampled: tuple[Found, ...] = field(repr=False)
    """The same on pairs drawn again with replacement, one a resample."""
    hits: dict[str, tuple[Hits, ...]] = field(repr=False)
    """Of the method and each control, one a seed or draw, which held-out pairs give the expected
    label."""
    train_hits: tuple[Bool[np.ndarray, "train"], ...] = field(repr=False)
    """The method on the pairs that it was fitted to, one a seed."""
    effects: Effects = field(repr=False)
    """How far the first seed's interchange moves the answer, beside the whole vector's."""
    split: pd.DataFrame | None = field(repr=False)
    """What downstream weights read of the first seed's subspace and what they do not, as
    `readable_split` has it; None where it does not apply: at other sites than all neurons of an
    MLP or one head, and for pairs without choices. It is no part of `holds`."""
    model: str
    task_accuracy: Accuracy
    """How many of the held-out bases the model answers right without an intervention."""
    seen: float = 0.0
    """Share of held-out pairs whose base is a prompt of the training pairs, too."""

    @property
    def interchange(self) -> Intervention:
        """What the claim is about: the first seed's."""
        return interchange_of(self.found[0])

    @property
    def subspace(self) -> Subspace:
        """Inside what it works."""
        return self.found[0].subspace

    @property
    def comparison(self) -> Comparison:
        """Interchange intervention accuracy on held-out pairs, all methods; the claim has the
        interval of its own pairs, and other seeds a line of their own."""
        rows = []
        for name, draws in self.hits.items():
            accuracies = tuple(_accuracy(one) for one in draws)
            if name == self.method and len(accuracies) > 1:
                rows += [(name, accuracies[:1]), (f"{name}, other seeds", accuracies[1:])]
            else:
                rows.append((name, accuracies))
        return Comparison(
            f"interchange intervention accuracy of {self.variable} at {self.site} on {self.on}",
            tuple(rows),
        )

    @property
    def iia(self) -> Accuracy:
        """Of the claim: the first seed on held-out pairs."""
        return _accuracy(self.hits[self.method][0])

    @property
    def holds(self) -> bool:
        """Whether the lower bound of the held-out IIA is above the upper bound of every control:
        no intervention, and the best draw or seed of random subspaces, shuffled labels (but
        for methods that look at no labels) and the untrained model (95 % Wilson intervals)."""
        return not self.failing

    @property
    def failing(self) -> tuple[str, ...]:
        """The controls that the claim is not above."""
        return tuple(
            name
            for name in self._controls
            if self.iia.interval[0] <= max(_accuracy(one).interval[1] for one in self.hits[name])
        )

    @property
    def selectivity(self) -> pd.DataFrame:
        """The claim's IIA minus each control's, on the same pairs.

        Columns control, difference, low, high: a 95 % bootstrap interval over pairs. Of
        several draws or seeds of a control, the mean over them.
        """
        lines = []
        for name in (*self._controls, PLACEBO, WHOLE):
            value, (low, high) = paired_difference(
                self.hits[self.method][0].astype(float), np.mean(self.hits[name], axis=0)
            )
            lines.append({"control": name, "difference": value, "low": low, "high": high})
        return pd.DataFrame(lines)

    @property
    def gap(self) -> float:
        """IIA on the training pairs minus IIA on held-out pairs, first seed."""
        return _accuracy(self.train_hits[0]).value - self.iia.value

    @property
    def stability(self) -> pd.DataFrame:
        """How far the other seeds and the resampled pairs lead from the first.

        Columns run, iia (on held-out pairs), overlap and largest angle (degrees) with the first
        seed's subspace; and overlap expected of random subspaces. NaN where nothing was found, as
        by a mask that takes nothing.
        """
        first = self.subspace
        lines = []
        for kind, results, scored in (
            ("seed", self.found, self.hits[self.method]),
            ("resampled pairs", self.resampled, self.hits.get(resampled(self.method), ())),
        ):
            for i, (one, right) in enumerate(zip(results, scored, strict=True)):
                line: dict[str, Any] = {"run": f"{kind} {i}", "iia": _accuracy(right).value}
                line |= {"overlap": np.nan, "largest angle": np.nan}
                if (there := _subspace(one)) is not None:
                    line["overlap"] = there.overlap(first)
                    line["largest angle"] = float(there.principal_angles(first).max())
                line["overlap at random"] = first.rank / first.width
                lines.append(line)
        return pd.DataFrame(lines)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader should know before the claim is believed."""
        found = []
        whole = _accuracy(self.hits[WHOLE][0])
        if self.iia.value < whole.value:
            found.append(
                f"{self.method} ({self.iia.value:.3f}) is below the plain swap of the whole vector "
                f"({whole.value:.3f})"
            )
        placebo = max(_accuracy(one).interval[1] for one in self.hits[PLACEBO])
        if self.iia.interval[0] <= placebo:
            found.append(
                f"{self.method} is not above changes of the same size along random directions"
            )
        if self.task_accuracy.value < _WELL_DONE:
            found.append(
                f"the model answers only {self.task_accuracy.value:.1%} of the held-out bases "
                "right without an intervention: what it does not do cannot be found in it"
            )
        spread = [_accuracy(one).value for one in self.hits[self.method]]
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

    def summary(self) -> str:
        """A paragraph that a paper could quote."""
        means = {
            name: float(np.mean([one.mean() for one in draws])) for name, draws in self.hits.items()
        }
        low, high = self.iia.interval
        stable = self.stability.iloc[1:]
        rank = self.subspace.rank
        text = (
            f"In {self.model}, an interchange inside a rank-{rank} subspace found by {self.method} "
            f"at {self.site} on {self.on} gives the answer that {self.variable} of the source "
            f"implies in {self.iia.value:.1%} of {self.iia.n} held-out pairs (95 % interval "
            f"{low:.1%} to {high:.1%}). The whole vector gives {means[WHOLE]:.1%}, no intervention "
            f"{means[NONE]:.1%}, random subspaces of the same rank {means[RANDOM]:.1%} "
            f"({len(self.hits[RANDOM])} draws), changes of the same size along random directions "
            f"{means[PLACEBO]:.1%}, "
        )
        if SHUFFLED in means:
            text += f"{self.method} trained on shuffled labels {means[SHUFFLED]:.1%}, "
        text += (
            f"and {self.method} trained on an untrained copy of the model {means[UNTRAINED]:.1%}. "
        )
        if len(stable):
            text += (
                f"Other seeds and resampled pairs give {stable['iia'].min():.1%} to "
                f"{stable['iia'].max():.1%}, in subspaces whose overlap with the first is "
                f"{stable['overlap'].min():.2f} to {stable['overlap'].max():.2f} (random: "
                f"{rank / self.subspace.width:.2f}). "
            )
        if self.holds:
            text += "The lower bound is above the upper bounds of all controls."
        else:
            text += f"The lower bound is not above the upper bound of: {', '.join(self.failing)}."
        return text

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

    @property
    def _controls(self) -> tuple[str, ...]:
        return tuple(name for name in CONTROLS if name in self.hits)


def resampled(method: str) -> str:
    """What a method is called in tables where pairs were drawn again."""
    return f"{method}, resampled pairs"


def interchange_of(found: Found) -> Intervention:
    """The interchange that a search ended with."""
    return DistributedInterchange(found.subspace) if isinstance(found, DASResult) else found


def _subspace(found: Found) -> Subspace | None:
    """Inside what an interchange works; None where it swaps nothing."""
    return None if interchange_of(found).reads is None else found.subspace


def _accuracy(hits: Hits) -> Accuracy:
    return Accuracy(int(hits.sum()), len(hits))
