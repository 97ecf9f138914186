"""What a frozen model computes of a row before anything is edited: constants of the input.

For edits at layers >= k and from token p on, that is the residual stream that enters block k
from p on, and the keys and values of the tokens before p in blocks k and above. `replaying`
runs the rest on top of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from reft_interp.encoding import TokenizedBatch


@dataclass(frozen=True, eq=False)
class FrozenRow:
    """The constants of one row, for a region that begins at `layer` and at its token `start`."""

    layer: int
    start: int
    """The first token of the row, counted from its own first token, that runs again."""
    stream: Float[Tensor, "suffix d"]
    """What enters block `layer`, from `start` on."""
    keys: Float[Tensor, "layers heads start d_head"]
    """Of blocks `layer` and above, of the tokens before `start`."""
    values: Float[Tensor, "layers heads start d_head"]


@torch.no_grad()
def freeze(
    model: TransformerBridge, batch: TokenizedBatch, layer: int, starts: Int[Tensor, "batch"]
) -> list[FrozenRow]:
    """Run a batch once, unedited, and keep the constants of each row.

    Args:
        model: a decoder.
        batch: padded on either side.
        layer: where the region begins.
        starts: for each row the column where it begins.
    """
    # Without a configuration the cache keeps every column of sliding-window layers too; the
    # window is then a matter of the mask.
    cache = DynamicCache()
    held: list[Tensor] = []

    def keep_stream(stream: Tensor, hook: Any) -> None:
        held.append(stream)

    def keep_one(stream: Tensor, hook: Any) -> Tensor:
        return stream[:, -1:]

    hooks = [(f"blocks.{layer}.hook_in", keep_stream), ("unembed.hook_in", keep_one)]
    with model.hooks(fwd_hooks=hooks):
        model(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            past_key_values=cache,
        )
    above = [_keys_and_values(entry) for entry in cache.layers[layer:]]
    rows = []
    for i, start in enumerate(starts.tolist()):
        first, end = int(batch.prompt_start[i]), int(batch.answer_end[i])
        rows.append(
            FrozenRow(
                layer=layer,
                start=start - first,
                stream=held[0][i, start:end].clone(),
                keys=torch.stack([keys[i, :, first:start] for keys, _ in above]),
                values=torch.stack([values[i, :, first:start] for _, values in above]),
            )
        )
    return rows


def frozen_bytes(model: TransformerBridge, layer: int, prefix: int, suffix: int) -> int:
    """Memory that `freeze` would keep, of so many tokens before and after where regions begin."""
    cfg = model.cfg
    heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    numbers = suffix * cfg.d_model + 2 * prefix * (cfg.n_layers - layer) * heads * cfg.d_head
    return numbers * next(model.parameters()).element_size()


def padded_cache(model: TransformerBridge, rows: Sequence[FrozenRow]) -> DynamicCache:
    """The keys and values of rows as one cache, short rows padded on the left."""
    length = max(row.start for row in rows)
    keys = _left_padded([row.keys for row in rows], length)
    values = _left_padded([row.values for row in rows], length)
    layer = rows[0].layer
    # Blocks below the region do not run, but the model asks the first of them how many tokens
    # are cached. Expanded zeros answer without memory.
    empty = keys.new_zeros(()).expand(len(rows), 1, length, 1)
    cache = DynamicCache([(empty, empty)] * layer + list(zip(keys, values, strict=True)))
    return cache


def _left_padded(
    tensors: Sequence[Float[Tensor, "layers heads _ d_head"]], length: int
) -> Float[Tensor, "layers batch heads length d_head"]:
    layers, heads, _, width = tensors[0].shape
    padded = tensors[0].new_zeros(layers, len(tensors), heads, length, width)
    for i, tensor in enumerate(tensors):
        padded[:, i, :, length - tensor.shape[2] :] = tensor
    return padded


def _keys_and_values(entry: Any) -> tuple[Tensor, Tensor]:
    return entry.keys, entry.values
