"""Edits that are added up with weights: negated, weakened, strengthened, interpolated, merged.

What a trained edit does to h is a difference, and differences can be added, whatever computes
them. `runtime.composition` does it to whole models with interventions.
"""

from collections.abc import Sequence
from copy import deepcopy
from math import isfinite
from typing import Any, SupportsFloat, cast

import torch
from torch import nn

from reft_interp.interventions.edits import Intervention
from reft_interp.subspace import Subspace


class LinearCombination(Intervention):
    """h + Σ αᵢ (fᵢ(h) − h): what each of several edits f changes, times a strength, added up.

    Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089) on representations instead of weights,
    where it is exact: each edit reads the same h. Strength −1 negates an edit, 0.5 halves it, and
    strengths 1 − t and t lead from one edit to another:

        LinearCombination([loreft], [-1])
        LinearCombination([formal, french], [0.7, 0.3])

    Both at full strength, edits of orthogonal subspaces do what each does alone inside its own,
    which is how pyreft applies several subspaces of one intervention at once; as placements at one
    site, the second would read what the first left.

    Args:
        interventions: f₁, f₂, ..., copied, so that training one elsewhere leaves this one alone.
            They are trained here if they can be.
        strengths: α₁, α₂, ..., any numbers.

    Raises:
        ValueError: no interventions, not as many strengths, a strength that is not finite, or
            interventions of several widths.
    """

    def __init__(self, interventions: Sequence[Intervention], strengths: Sequence[SupportsFloat]):
        if not interventions or len(interventions) != len(strengths):
            raise ValueError(
                "interventions and strengths must be as many, and at least one, got "
                f"{len(interventions)} and {len(strengths)}"
            )
        if not all(map(isfinite, strengths)):
            raise ValueError(f"strengths must be finite, got {list(strengths)}")
        widths = {one.width for one in interventions} - {None}
        if len(widths) > 1:
            raise ValueError(
                f"interventions must be equally wide, got widths {sorted(map(str, widths))}"
            )
        width = next(iter(widths), None)
        super().__init__(width)
        self.strengths = tuple(map(float, strengths))
        copies = map(deepcopy, interventions)
        self.interventions = nn.ModuleList(
            one if width is None else one.for_width(width) for one in copies
        )
        self.needs_source = any(one.needs_source for one in self.parts)

    @property
    def parts(self) -> list[Intervention]:
        """The edits that are added up, one for each strength."""
        return cast("list[Intervention]", list(self.interventions))

    def forward(self, base, source=None):
        self.check_input(base, source)
        # Half precision would round each edit before they are added up.
        work = torch.promote_types(base.dtype, torch.float32)
        h = base.to(work)
        edited = h
        for part, strength in zip(self.parts, self.strengths, strict=True):
            edited = edited + strength * (part(h, source if part.needs_source else None) - h)
        return edited.to(base.dtype)

    @property
    def subspace(self) -> Subspace:
        """What any of the edits writes whose strength is not 0.

        Raises:
            ValueError: all strengths are 0, or an edit writes nothing or has no width yet.
        """
        parts = [p.subspace for p, a in zip(self.parts, self.strengths, strict=True) if a]
        if not parts:
            raise ValueError("LinearCombination writes nothing: its strengths are all 0")
        first, *others = parts
        return first.union(*others)

    @property
    def reads(self) -> Subspace | None:
        """What any of the edits reads whose strength is not 0."""
        read = [p.reads for p, a in zip(self.parts, self.strengths, strict=True) if a]
        found = [one for one in read if one is not None]
        return found[0].union(*found[1:]) if found else None

    def anneal(self, progress):
        for part in self.parts:
            part.anneal(progress)

    def penalty(self):
        asked = [part.penalty() for part in self.parts]
        given = [one for one in asked if one is not None]
        return torch.stack(given).sum() if given else None

    def arguments(self) -> dict[str, Any]:
        parts = [{"class": type(p).__name__, "arguments": p.arguments()} for p in self.parts]
        return {"interventions": parts, "strengths": list(self.strengths), "width": self.width}

    @classmethod
    def _of_shape(cls, *, interventions, strengths, width, **options):
        # The list of all classes has this one in it.
        from reft_interp.interventions import build_intervention

        parts = [
            build_intervention(one["class"], {**one["arguments"], "width": width})
            for one in interventions
        ]
        return cls(parts, strengths, **options)
