"""Evidence for a claim "this subspace carries that variable", with every control it needs.

Controls and what they decide are `claim`'s. Next door, `gathering` makes it; `joint_evidence` is
that for several variables at once.
"""

from dataclasses import dataclass, field

import pandas as pd

from reft_interp.causal.claim import Claim, closeness
from reft_interp.causal.das import DASResult
from reft_interp.causal.effects import Effects
from reft_interp.causal.quoting import controls_give, found_in, others_give, overlap_said, verdict
from reft_interp.interventions import DistributedInterchange, Intervention
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

Found = DASResult | Intervention
"""What a search ends with: of DAS its result, of another method the interchange it proposes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence(Claim):
    """What was found at one site for one variable, and what it was measured against.

    It `holds` where the claim is above no intervention, random subspaces, shuffled labels (but for
    methods that look at no labels) and the untrained model; the whole vector and changes of the
    same size are shown beside it.
    """

    variable: str
    site: Site
    on: str
    found: tuple[Found, ...] = field(repr=False)
    """What the method found, one a seed; the claim is about the first."""
    resampled: tuple[Found, ...] = field(repr=False)
    """The same on pairs drawn again with replacement, one a resample."""
    effects: Effects = field(repr=False)
    """How far the first seed's interchange moves the answer, beside the whole vector's."""
    split: pd.DataFrame | None = field(repr=False)
    """What downstream weights read of the first seed's subspace and what they do not, as
    `readable_split` has it; None where it does not apply: at other sites than all neurons of an
    MLP or one head, and for pairs without choices. It is no part of `holds`."""

    @property
    def interchange(self) -> Intervention:
        """What the claim is about: the first seed's."""
        return interchange_of(self.found[0])

    @property
    def subspace(self) -> Subspace:
        """Inside what it works."""
        return self.found[0].subspace

    @property
    def metric(self) -> str:
        """What is counted, and where."""
        return f"interchange intervention accuracy of {self.variable} at {self.site} on {self.on}"

    @property
    def stability(self) -> pd.DataFrame:
        """How far the other seeds and the resampled pairs lead from the first.

        Columns run, iia (on held-out pairs), overlap and largest angle (degrees) with the first
        seed's subspace; and overlap expected of random subspaces. NaN where nothing was found, as
        by a mask that takes nothing.
        """
        return pd.DataFrame(
            [
                run | closeness(_subspace(one), self.subspace)
                for run, one in self._runs(self.found, self.resampled)
            ]
        )

    def summary(self) -> str:
        """A paragraph that a paper could quote."""
        rank = self.subspace.rank
        overlap = overlap_said(self.stability.iloc[1:])
        return (
            f"In {self.model}, an interchange inside a rank-{rank} subspace found by {self.method} "
            f"at {self.site} on {self.on} gives the answer that {self.variable} of the source "
            f"implies in {found_in(self)}. "
            f"{controls_give(self)}{others_give(self, overlap)}{verdict(self)}"
        )


def interchange_of(found: Found) -> Intervention:
    """The interchange that a search ended with."""
    return DistributedInterchange(found.subspace) if isinstance(found, DASResult) else found


def _subspace(found: Found) -> Subspace | None:
    """Inside what an interchange works; None where it swaps nothing."""
    return None if interchange_of(found).reads is None else found.subspace
