"""Controls of a joint claim: what stands in the places of its interchanges, each with its source.

Below: `evaluation.control_subspaces`, random subspaces for a single place.
"""

from collections.abc import Callable, Sequence

import torch

from reft_interp.evaluation import control_subspaces
from reft_interp.interventions import (
    DistributedInterchange,
    Interchange,
    Intervention,
    PlaceboInterchange,
)
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.subspace import Subspace

Along = dict[str, Subspace]
"""For each variable a subspace as large as its own."""


def random_parts(found: IntervenedModel, draws: int, seed: int) -> list[Along]:
    """Random subspaces in place of those that were found, orthogonal where those share a place.

    Args:
        found: the interchanges, in place.
        draws: how many.
        seed: the same seed gives the same subspaces.
    """
    drawn: list[Along] = [{} for _ in range(draws)]
    for number, placements in enumerate(_by_place(found)):
        ranks = [placement.intervention.subspace.rank for placement in placements]
        width = placements[0].intervention.subspace.width
        # Another seed at each place, or places of one width would hold the same directions.
        wholes = control_subspaces(width, sum(ranks), draws, seed=seed + number)
        for along, whole in zip(drawn, wholes, strict=True):
            for placement, rows in zip(placements, whole.basis.split(ranks), strict=True):
                along[placement.source] = Subspace(rows)
    return drawn


def random_interchanges(found: IntervenedModel, along: Along) -> IntervenedModel:
    """Interchanges inside other subspaces than those that were found."""
    return _in_place(found, lambda one: DistributedInterchange(along[one.source]))


def placebos(found: IntervenedModel, along: Along) -> IntervenedModel:
    """What each interchange would change, along another direction: all together as far.

    Where variables share a place, a later one reads what an earlier one wrote. So the directions
    of each are turned out of those of the earlier ones, and out of the subspaces that later ones
    read: nothing is counted twice, and h moves exactly as far as under the claim.

    Args:
        found: the interchanges, in place.
        along: where h moves instead, as `random_parts` draws it.
    """
    turned: Along = {}
    for placements in _by_place(found):
        for i, placement in enumerate(placements):
            kept_out = [
                *(turned[earlier.source].basis for earlier in placements[:i]),
                *(later.intervention.subspace.basis.cpu() for later in placements[i + 1 :]),
            ]
            turned[placement.source] = _outside(along[placement.source], kept_out)
    return _in_place(
        found, lambda one: PlaceboInterchange(one.intervention.subspace, turned[one.source])
    )


def whole_vectors(found: IntervenedModel) -> IntervenedModel:
    """Each variable's place swapped whole; only where `shared_tokens.sharing` finds none."""
    return _in_place(found, lambda _: Interchange())


def _in_place(found: IntervenedModel, make: Callable[[Placement], Intervention]) -> IntervenedModel:
    placements = [
        Placement(make(one), one.site, one.on, source=one.source) for one in found.placements
    ]
    return IntervenedModel(found.model, placements)


def _by_place(found: IntervenedModel) -> list[list[Placement]]:
    """Placements at one site and selection of tokens, whose subspaces are parts of one basis."""
    together: dict[object, list[Placement]] = {}
    for placement in found.placements:
        together.setdefault((placement.site, placement.on), []).append(placement)
    return list(together.values())


def _outside(subspace: Subspace, kept_out: Sequence[torch.Tensor]) -> Subspace:
    """Turned out of some rows: there is room, as all ranks of a place fit its width."""
    if not kept_out:
        return subspace
    rows = Subspace.from_matrix(torch.cat(list(kept_out)))
    return Subspace.from_matrix(rows.remove(subspace.basis))
