"""Activations of many rows at one site, for probes and for means."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.runtime.batching import Rows, as_list, by_length, encode
from reft_interp.runtime.running import record
from reft_interp.sites import Site


def activations(
    model: TransformerBridge,
    rows: Rows,
    site: Site,
    on: str | int | Sequence[int] | PositionSelector,
    *,
    batch_size: int = 64,
) -> list[Float[Tensor, "k d"]]:
    """What the untouched model holds at a site, for each row the selected tokens.

    Args:
        model: the hooked model.
        rows: prompts, or mappings with `prompt`.
        site: where.
        on: which tokens.
        batch_size: rows run at once.

    Returns:
        For each row, in the caller's order, its k selected tokens.
    """
    listed = as_list(rows)
    select = parse_positions(on)
    site.check(model)
    found: list[Tensor] = [torch.empty(0)] * len(listed)
    for group in by_length(listed, batch_size):
        batch = encode(model, [listed[i] for i in group])
        positions = select(batch)
        (held,) = record(model, batch, [(site, positions)])
        for i, part in zip(group, held.split(positions.counts(batch).tolist()), strict=True):
            found[i] = part
    return found
