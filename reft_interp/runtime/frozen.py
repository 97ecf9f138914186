"""What a frozen model computes of a row before anything is edited: constants of the input.

For edits at layers >= k and from token p on, that is the residual stream that enters block k
from p on, and the keys and values of the tokens before p in blocks k and above. One `FrozenRow`
serves regions that begin at several layers and tokens; `replaying` runs the rest on top of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from reft_interp.encoding import TokenizedBatch
from reft_interp.models.devices import devices_of_attention


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """Keys and values of the tokens that all prompts begin with, kept once for all of them."""

    keys: Float[Tensor, "layers heads shared d_head"]
    """Of all layers."""
    values: Float[Tensor, "layers heads shared d_head"]

    def __len__(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True, eq=False)
class Region:
    """The constants of one row for a region that begins at `layer` and at its token `start`."""

    layer: int
    start: int
    """The first token of the row, counted from its own first token, that runs again."""
    stream: Float[Tensor, "suffix d"]
    """What enters block `layer`, from `start` on."""
    keys: tuple[Float[Tensor, "layers heads _ d_head"], ...]
    """Of blocks `layer` and above, of the tokens before `start`, in consecutive parts."""
    values: tuple[Float[Tensor, "layers heads _ d_head"], ...]


@dataclass(frozen=True, eq=False)
class FrozenRow:
    """The constants of one row, for regions that begin at some layers and from some token on."""

    start: int
    """The first token of the row that `streams` hold."""
    streams: Mapping[int, Float[Tensor, "suffix d"]]
    """What enters block k, for each layer k where a region may begin."""
    keys: Float[Tensor, "layers heads prefix d_head"]
    """Of the lowest of these blocks and all above, of the tokens before the last region begins,
    without the shared ones."""
    values: Float[Tensor, "layers heads prefix d_head"]
    shared: SharedPrefix | None = None

    def region(self, layer: int, start: int) -> Region:
        """Views of what a region needs that begins at `layer` and `start`."""
        above = layer - min(self.streams)
        shared = self.shared
        own = start - (0 if shared is None else len(shared))
        keys, values = self.keys[above:, :, :own], self.values[above:, :, :own]
        before = () if shared is None else ((shared.keys[layer:], shared.values[layer:]),)
        parts = [*before, (keys, values)]
        return Region(
            layer,
            start,
            self.streams[layer][start - self.start :],
            tuple(k for k, _ in parts),
            tuple(v for _, v in parts),
        )

    @property
    def nbytes(self) -> int:
        """Memory of its own, without what is shared."""
        tensors = (*self.streams.values(), self.keys, self.values)
        return sum(tensor.nbytes for tensor in tensors)


@torch.no_grad()
def freeze(
    model: TransformerBridge,
    batch: TokenizedBatch,
    layers: Sequence[int],
    starts: tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]],
    ends: Int[Tensor, "batch"],
    shared: SharedPrefix | None = None,
) -> list[FrozenRow]:
    """Run a batch once, unedited, and keep the constants of each row.

    Args:
        model: a decoder.
        batch: padded on either side; on the right where there is a shared prefix.
        layers: where regions may begin.
        starts: for each row the first and the last column where a region may begin.
        ends: for each row one past the last column that will run.
        shared: of the tokens that all rows begin with, none of which is in a region.
    """
    known, home = 0 if shared is None else len(shared), batch.input_ids.device
    # Without a configuration the cache keeps every column of sliding-window layers too; the
    # window is then a matter of the mask.
    cache = DynamicCache()
    if shared is not None:
        size = (len(batch), -1, -1, -1)
        cache = DynamicCache(
            [
                (keys.to(device).expand(size), values.to(device).expand(size))
                for keys, values, device in zip(
                    shared.keys, shared.values, devices_of_attention(model), strict=True
                )
            ]
        )
    held: dict[int, Tensor] = {}

    def keep(layer: int):
        def keep_stream(stream: Tensor, hook: Any) -> None:
            held[layer] = stream.to(home)

        return f"blocks.{layer}.hook_in", keep_stream

    def keep_one(stream: Tensor, hook: Any) -> Tensor:
        return stream[:, -1:]

    lowest = min(layers)
    hooks = [*map(keep, sorted(set(layers))), ("unembed.hook_in", keep_one)]
    with model.hooks(fwd_hooks=hooks):
        model(
            batch.input_ids[:, known:],
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids[:, known:],
            past_key_values=cache,
        )
    above = _keys_and_values(cache.layers[lowest:], home)
    rows = []
    for i, (early, late, end) in enumerate(
        zip(starts[0].tolist(), starts[1].tolist(), ends.tolist(), strict=True)
    ):
        first = int(batch.prompt_start[i])
        rows.append(
            FrozenRow(
                start=early - first,
                streams={
                    layer: stream[i, early - known : end - known].clone()
                    for layer, stream in held.items()
                },
                keys=torch.stack([keys[i, :, first + known : late] for keys, _ in above]),
                values=torch.stack([values[i, :, first + known : late] for _, values in above]),
                shared=shared,
            )
        )
    return rows


@torch.no_grad()
def freeze_prefix(model: TransformerBridge, tokens: Int[Tensor, "shared"]) -> SharedPrefix:
    """Run the tokens that all rows begin with, once."""
    cache = DynamicCache()

    def keep_one(stream: Tensor, hook: Any) -> Tensor:
        return stream[:, -1:]

    with model.hooks(fwd_hooks=[("unembed.hook_in", keep_one)]):
        model(tokens[None], past_key_values=cache)
    entries = _keys_and_values(cache.layers, tokens.device)
    return SharedPrefix(
        torch.cat([keys for keys, _ in entries]), torch.cat([values for _, values in entries])
    )


def frozen_bytes(model: TransformerBridge, layers: Sequence[int], prefix: int, suffix: int) -> int:
    """Memory that `freeze` keeps, of so many tokens before the last and from the first beginning
    of regions at `layers`."""
    cfg = model.cfg
    heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    streams = suffix * cfg.d_model * len(set(layers))
    cached = 2 * prefix * (cfg.n_layers - min(layers)) * heads * cfg.d_head
    return (streams + cached) * next(model.parameters()).element_size()


def padded_cache(regions: Sequence[Region], devices: Sequence[torch.device]) -> DynamicCache:
    """The keys and values of rows as one cache, short rows padded on the left.

    Args:
        regions: in the order of their layers. In each block the cache holds the rows whose
            region has begun there.
        devices: where each block's are wanted.
    """
    length = max(region.start for region in regions)
    lowest, first = regions[0].layer, regions[0].keys[0]
    top = lowest + len(first)
    # Blocks below the region do not run, but the model asks the first of them how many tokens
    # are cached. Expanded zeros answer without memory.
    empty = first.new_zeros(()).expand(len(regions), 1, length, 1)
    entries: list[tuple[Tensor, Tensor]] = [(empty, empty)] * lowest
    for block, end in _stretches(regions, top):
        inside = [region for region in regions if region.layer <= block]
        keys = _left_padded([region.keys for region in inside], inside, block, end, length)
        values = _left_padded([region.values for region in inside], inside, block, end, length)
        entries += zip(keys, values, strict=True)
    cache = DynamicCache([(empty, empty)] * top)
    for layer, entry, device in zip(cache.layers, entries, devices, strict=True):
        _put(layer, *(part.to(device) for part in entry))
    return cache


def _stretches(regions: Sequence[Region], top: int) -> list[tuple[int, int]]:
    """Blocks [from, to) between which no region begins."""
    begins = sorted({region.layer for region in regions})
    return list(zip(begins, [*begins[1:], top], strict=True))


def _left_padded(
    parts: Sequence[tuple[Float[Tensor, "_ heads _ d_head"], ...]],
    regions: Sequence[Region],
    block: int,
    end: int,
    length: int,
) -> Float[Tensor, "layers batch heads length d_head"]:
    _, heads, _, width = parts[0][0].shape
    padded = parts[0][0].new_empty(end - block, len(parts), heads, length, width)
    for i, (of_row, region) in enumerate(zip(parts, regions, strict=True)):
        column = length - region.start
        # Zeros: masked columns count as 0 x value, and what memory happens to hold may be NaN.
        padded[:, i, :, :column] = 0
        for part in of_row:
            some = part[block - region.layer : end - region.layer]
            padded[:, i, :, column : column + some.shape[2]] = some
            column += some.shape[2]
    return padded


def _put(entry: Any, keys: Tensor, values: Tensor) -> None:
    # The cache's own `update` would copy them once more.
    entry.keys, entry.values = keys, values


def _keys_and_values(layers: Sequence[Any], home: torch.device) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys.to(home), layer.values.to(home)) for layer in layers]
