"""Activations of many rows, for probes and for means."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.runtime.batching import Rows, as_list, beside_answers, by_length, encode
from reft_interp.runtime.running import is_causal, record
from reft_interp.sites import Site

On = str | int | Sequence[int] | PositionSelector


def activations(
    model: TransformerBridge, rows: Rows, site: Site, on: On, *, batch_size: int = 64
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

    Raises:
        TypeError: rows that are none.
        ValueError: no rows, a site that the model lacks, or tokens that a row does not have.
    """
    (found,) = activations_each(model, rows, [(site, on)], batch_size=batch_size)
    return found


def activations_each(
    model: TransformerBridge,
    rows: Rows,
    places: Sequence[tuple[Site, On]],
    *,
    batch_size: int = 64,
    max_length: int | None = None,
    answered: bool = False,
) -> list[list[Float[Tensor, "k d"]]]:
    """`activations` at several places, read in the same runs.

    Args:
        model: the hooked model.
        rows: prompts, or mappings with `prompt`.
        places: sites, each with its tokens.
        batch_size: rows run at once.
        max_length: tokens after which the tokenizer cuts a prompt; nothing is cut by default.
        answered: read what interventions see where each row's `answer` is asked for: an encoder
            has masks in its place, which all tokens attend to.

    Raises:
        TypeError: rows that are none.
        ValueError: no places, no rows, a site that the model lacks, or tokens that a row does not
            have.
    """
    if not places:
        raise ValueError("places must hold at least one site with its tokens, got none")
    listed = as_list(rows)
    selectors = [(site, parse_positions(on)) for site, on in places]
    for site, _ in selectors:
        site.check(model)
    found: list[list[Tensor]] = [[torch.empty(0)] * len(listed) for _ in places]
    for group in by_length(listed, batch_size):
        some = [listed[i] for i in group]
        batch = encode(model, some, max_length=max_length)
        selected = {select: select(batch) for _, select in selectors}
        at = [(site, selected[select]) for site, select in selectors]
        if answered and not is_causal(model):
            asked = encode(model, some, answers=True, max_length=max_length)
            batch = beside_answers(model, batch, asked)
        for of_place, held, (_, positions) in zip(found, record(model, batch, at), at, strict=True):
            counts = positions.counts(batch).tolist()
            for i, part in zip(group, held.split(counts), strict=True):
                of_place[i] = part
    return found
