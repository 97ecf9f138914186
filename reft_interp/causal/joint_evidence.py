"""Evidence for a claim "these subspaces carry those variables", each swapped from its own source.

What is peculiar to it: each variable alone is a control, too. Next door, `joint_gathering` makes
it; `evidence` is that for one variable.
"""

from dataclasses import dataclass, field

import pandas as pd

from reft_interp.causal.claim import WHOLE, Claim, closeness
from reft_interp.causal.effects import Effects
from reft_interp.causal.joint_das import JointDASResult
from reft_interp.causal.quoting import (
    controls_give,
    found_in,
    joined,
    others_give,
    overlap_said,
    verdict,
)
from reft_interp.sites import Site
from reft_interp.subspace import Subspace


@dataclass(frozen=True, eq=False, kw_only=True)
class JointEvidence(Claim):
    """What was found for several variables at once, and what it was measured against.

    It `holds` where the claim is above no intervention, random subspaces, shuffled labels, the
    untrained model, and above each variable swapped alone: if one alone gives the label as often,
    the claim shows nothing of the others. Whole vectors and changes of the same size are shown
    beside it.
    """

    places: dict[str, tuple[Site, str]]
    """For each variable the site and the tokens."""
    found: tuple[JointDASResult, ...] = field(repr=False)
    """What joint DAS found, one a seed; the claim is about the first."""
    resampled: tuple[JointDASResult, ...] = field(repr=False)
    """The same on pairs drawn again with replacement, one a resample."""
    effects: Effects = field(repr=False)
    """How far the first seed's interchanges move the answer, beside whole vectors where those are
    defined."""
    sharing: tuple[str, ...] = ()
    """Variables that share tokens of a site with others: then there is no line of whole vectors."""

    @property
    def variable(self) -> str:
        """All of them, in words."""
        return joined(list(self.places))

    @property
    def subspaces(self) -> dict[str, Subspace]:
        """Inside what each variable is swapped: the first seed's."""
        return self.found[0].subspaces

    @property
    def controls(self) -> tuple[str, ...]:
        """What the claim has to be above."""
        return (*super().controls, *map(alone, self.places))

    @property
    def metric(self) -> str:
        """What is counted, and where."""
        where = joined([f"{site} on {on} ({name})" for name, (site, on) in self.places.items()])
        return f"interchange intervention accuracy of {self.variable} at once at {where}"

    @property
    def stability(self) -> pd.DataFrame:
        """How far the other seeds and the resampled pairs lead from the first.

        Columns run, iia (on held-out pairs, of all variables together), variable, overlap and
        largest angle (degrees) with the first seed's subspace of that variable; and overlap
        expected of random subspaces.
        """
        return pd.DataFrame(
            [
                run | {"variable": name} | closeness(one.subspaces[name], first)
                for run, one in self._runs(self.found, self.resampled)
                for name, first in self.subspaces.items()
            ]
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader should know before the claim is believed."""
        if not self.sharing:
            return super().flags
        return (
            *super().flags,
            f"{WHOLE}: not defined, as {joined(self.sharing)} share tokens of a site, where a swap "
            "of the whole vector has one source",
        )

    def summary(self) -> str:
        """A paragraph that a paper could quote."""
        others = self.stability.query("run != 'seed 0'")
        overlaps = {
            name: overlap_said(others.loc[others["variable"] == name]) for name in self.subspaces
        }
        inside = joined(
            [
                f"{name} (rank {self.subspaces[name].rank}, {site} on {on})"
                for name, (site, on) in self.places.items()
            ]
        )
        overlap = joined([f"{said} for {name}" for name, said in overlaps.items()])
        return (
            f"In {self.model}, interchanges of {inside} at once, each from a source of its own, "
            f"inside subspaces that {self.method} found together, give the answer that these "
            f"sources imply in {found_in(self)}. "
            f"{controls_give(self)}{others_give(self, overlap)}{verdict(self)}"
        )


def alone(variable: str) -> str:
    """What a swap of one variable only, the others left as they are, is called in tables."""
    return f"{variable} alone"
