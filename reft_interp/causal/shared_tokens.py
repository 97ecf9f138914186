"""Places of several interchanges that have tokens of a site in common.

What is swapped there is of more than one source, and the later interchange reads what the earlier
one wrote.
"""

import itertools
import warnings
from collections.abc import Iterator

from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import Rows, encode
from reft_interp.runtime.placement import select
from reft_interp.sites import Site


def sharing(intervened: IntervenedModel, rows: Rows) -> tuple[str, ...]:
    """The variables that share a token of a site with others, where no swap of the whole vector
    is of one source.

    Args:
        intervened: the interchanges, in place.
        rows: the bases.
    """
    sharers = {
        one.source for *pair, common in _meetings(intervened, rows) if common for one in pair
    }
    return tuple(one.source for one in intervened.placements if one.source in sharers)


def check_apart(intervened: IntervenedModel, rows: Rows) -> None:
    """Raise where two variables have the same tokens of a site by different selections.

    Only those with the same site and the same selection get orthogonal parts of one basis. Where
    two selections meet in some rows alone, a warning says in how many.

    Args:
        intervened: the interchanges, in place.
        rows: the bases.

    Raises:
        ValueError: they meet in every row.
    """
    for one, other, common in _meetings(intervened, rows):
        if not common or (one.site, one.on) == (other.site, other.on):
            continue
        told = (
            f"{one.source!r} ({one.on}, {one.site}) and {other.source!r} ({other.on}, "
            f"{other.site}) have a token in common in {common} of {len(rows)} bases, where their "
            "subspaces are not kept orthogonal"
        )
        if common == len(rows):
            raise ValueError(
                f"places: {told}: give both the same site and tokens, and they get parts of one "
                "basis"
            )
        warnings.warn(f"places: {told}", stacklevel=3)


def _meetings(
    intervened: IntervenedModel, rows: Rows
) -> Iterator[tuple[Placement, Placement, int]]:
    """Each two placements, and in how many rows they have a token of a site in common."""
    placements = intervened.placements
    edited = [
        set(zip(at.rows.tolist(), at.columns.tolist(), strict=True))
        for at in select(placements, encode(intervened.model, rows))
    ]
    for (one, at), (other, there) in itertools.combinations(
        zip(placements, edited, strict=True), 2
    ):
        common = {row for row, _ in at & there} if _meet(one.site, other.site) else ()
        yield one, other, len(common)


def _meet(one: Site, other: Site) -> bool:
    """Whether two sites have a coordinate in common."""
    chosen = [(site.heads or site.neurons) for site in (one, other)]
    if one.hook_name != other.hook_name:
        return False
    return None in chosen or not set(chosen[0] or ()).isdisjoint(chosen[1] or ())
