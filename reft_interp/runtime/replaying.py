"""Run only what edits can change, on top of what is frozen (`frozen`).

Blocks below the region are passed over, tokens before it come from the cache, and the output
layer runs only where logits are wanted. The result is that of `running.run`; `agrees` measures
by how much it differs, and where it does too much, or where a model cannot be replayed, the
plain run is what happens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from reft_interp.encoding import TokenizedBatch
from reft_interp.positions import Positions
from reft_interp.runtime.frozen import FrozenRow, padded_cache
from reft_interp.runtime.placement import Edit
from reft_interp.runtime.running import hooked, is_causal


def first_columns(edits: Sequence[Edit], batch: TokenizedBatch) -> Int[Tensor, "batch"]:
    """For each row where its region begins: at the first token that any edit touches, and at the
    latest at the prompt's last token, where the answer is predicted."""
    first = batch.prompt_end - 1
    for edit in edits:
        at = edit.positions
        first = first.scatter_reduce(0, at.rows, at.columns, reduce="amin")
    return first


def can_replay(model: TransformerBridge) -> bool:
    """Whether the model is a decoder with the hooks that a replay needs, and nothing but keys and
    values passes from token to token (not so in recurrent and hybrid models)."""
    cache = DynamicCache(config=model.original_model.config)  # pyright: ignore[reportArgumentType]
    return (
        is_causal(model)
        and not getattr(model.cfg, "is_stateful", False)
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
        and "unembed.hook_in" in model.hook_dict
        and "blocks.0.hook_in" in model.hook_dict
    )


def replay(
    model: TransformerBridge,
    batch: TokenizedBatch,
    edits: Sequence[Edit],
    frozen: Sequence[FrozenRow],
    at: Positions,
) -> Float[Tensor, "n vocab"]:
    """Logits at the given positions of a batch under edits, computed from its frozen rows.

    Args:
        model: a decoder.
        batch: the rows, padded on either side; `edits` and `at` refer to its columns.
        edits: at layers and tokens inside the region of every row.
        frozen: the constants of each row.
        at: where the logits are wanted, inside the region.
    """
    layer = frozen[0].layer
    starts = torch.tensor([row.start for row in frozen], device=batch.input_ids.device)
    suffix = [len(row.stream) for row in frozen]
    length, width = int(starts.max()), max(suffix)
    # Columns of the replay: prefixes end and suffixes begin at the same column of all rows.
    shift = batch.prompt_start + starts
    columns = torch.arange(width, device=starts.device)
    source = (shift[:, None] + columns).clamp(max=batch.input_ids.shape[1] - 1)
    stream = frozen[0].stream.new_zeros(len(frozen), width, frozen[0].stream.shape[1])
    mask = torch.zeros(len(frozen), length + width, dtype=torch.long, device=starts.device)
    for i, row in enumerate(frozen):
        stream[i, : suffix[i]] = row.stream
        mask[i, length - row.start : length + suffix[i]] = 1

    def enter(activation: Tensor, hook: Any) -> Tensor:
        return stream

    def keep(activation: Tensor, hook: Any) -> Tensor:
        return activation[at.rows, at.columns - shift[at.rows]][None]

    moved = [
        replace(edit, positions=Positions(at_.rows, at_.columns - shift[at_.rows]))
        for edit in edits
        for at_ in [edit.positions]
    ]
    with (
        _blocks_passed_over(model, layer),
        # On first, so that edits at the entrance of the region see the frozen stream.
        model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_in", enter)]),
        hooked(model, moved),
        model.hooks(fwd_hooks=[("unembed.hook_in", keep)]),
    ):
        logits = model(
            batch.input_ids.gather(1, source),
            attention_mask=mask,
            position_ids=starts[:, None] + columns,
            past_key_values=padded_cache(model, frozen),
        )
    return logits[0]


@contextmanager
def _blocks_passed_over(model: TransformerBridge, layer: int) -> Iterator[None]:
    """Within it, blocks below `layer` hand on what they are given."""
    blocks = list(model.blocks)[:layer]
    try:
        for block in blocks:
            # Setting an attribute on a bridge block would pass it on to the wrapped layer.
            object.__setattr__(block, "forward", _pass_on)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _pass_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states
