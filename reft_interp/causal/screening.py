"""Screening: which cells of a sweep are worth training, by a cheap estimate of each place."""

import math
from collections.abc import Sequence

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.attribution import attribution_patching
from reft_interp.causal.das_cells import DASCell
from reft_interp.causal.rows import Pairs
from reft_interp.positions import parse_positions


def screen_cells(
    model: TransformerBridge,
    pairs: Pairs,
    cells: Sequence[DASCell],
    keep: int | float,
    *,
    batch_size: int = 16,
    progress: bool = False,
) -> list[DASCell]:
    """The cells at those places where swapping the whole vector should move the answer most.

    A place is a site with a selection of tokens; `attribution_patching` estimates all of them with
    one backward pass a batch. A screening can lose places: `Sweep.recall` says how many of a full
    sweep's, `Attribution.recall` of a full activation patching's.

    Args:
        model: the hooked model.
        pairs: counterfactual rows with `choices` of one token each, one of them the `label`.
        cells: of the sweep.
        keep: share of the places that are kept, above 0; at least one is.
        batch_size: pairs run at once.
        progress: show a progress bar.

    Returns:
        Cells in their order.

    Raises:
        ValueError: no cells, `keep` not in (0, 1], or as `attribution_patching`.
    """
    if not cells:
        raise ValueError("cells must hold at least one cell, got none")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, got {keep}")
    sites = list(dict.fromkeys(cell.site for cell in cells))
    on = list(dict.fromkeys(parse_positions(cell.on) for cell in cells))
    estimated = attribution_patching(
        model, pairs, sites, on, batch_size=batch_size, progress=progress
    )
    wanted = {(cell.site, str(parse_positions(cell.on))) for cell in cells}
    ranked = [
        place for place in estimated.best(len(sites) * len(on)) if place in wanted
    ]  # the grid of sites and tokens may have places that no cell asks for
    # Rounded first: 0.07 * 100 is a little above 7, and would keep 8.
    chosen = set(ranked[: max(1, math.ceil(round(keep * len(ranked), 6)))])
    return [cell for cell in cells if (cell.site, str(parse_positions(cell.on))) in chosen]
