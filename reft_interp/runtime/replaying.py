"""Run only what edits can change, on top of what is frozen (`frozen`).

Blocks below a row's region are passed over, tokens before it come from the cache, and the output
layer runs only where logits are wanted. Rows whose regions begin at different layers run
together: each joins at its own layer. The result is that of `running.run`; `disagreement` in
`planning` measures by how much it differs, and where it does too much, or where a model cannot be
replayed, the plain run is what happens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from reft_interp.encoding import TokenizedBatch
from reft_interp.models.consistency import sample_tokens
from reft_interp.models.devices import devices_of_attention
from reft_interp.positions import Positions
from reft_interp.runtime.attention import grouped
from reft_interp.runtime.frozen import Region, padded_cache
from reft_interp.runtime.placement import Edit
from reft_interp.runtime.regions import at_entrance
from reft_interp.runtime.running import hooked, is_causal
from reft_interp.runtime.shadowing import shadowed

# How long a tuple a model's blocks return; None where they return the stream itself.
_returned: "WeakKeyDictionary[TransformerBridge, int | None]" = WeakKeyDictionary()
# What is handed to blocks beside the stream with the same rows in every batch: MPT's, one a head.
_NOT_OF_ROWS = ("position_bias",)


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
    regions: Sequence[Region],
    at: Positions,
    *,
    unembed: bool = True,
) -> Float[Tensor, "n out"]:
    """Logits at the given positions of a batch under edits, computed from its rows' constants.

    Args:
        model: a decoder.
        batch: the rows, padded on either side; `edits` and `at` refer to its columns.
        edits: at layers and tokens inside the region of every row that they touch.
        regions: the constants of each row.
        at: where the logits are wanted, inside the regions.
        unembed: whether the output layer runs; without it the result is what enters it.
    """
    device = batch.input_ids.device
    # Rows that begin lower come first: those that run in a block are then its first rows.
    order = sorted(range(len(regions)), key=lambda i: regions[i].layer)
    ordered = [regions[i] for i in order]
    rank = torch.empty(len(order), dtype=torch.long)
    rank[order] = torch.arange(len(order))
    rank = rank.to(device)

    starts = torch.tensor([region.start for region in ordered], device=device)
    suffix = [len(region.stream) for region in ordered]
    length, width = max(region.start for region in ordered), max(suffix)
    # Columns of the replay: prefixes end and suffixes begin at the same column of all rows.
    shift = batch.prompt_start + starts[rank]
    columns = torch.arange(width, device=device)
    source = (shift[:, None] + columns).clamp(max=batch.input_ids.shape[1] - 1)
    input_ids = batch.input_ids.gather(1, source)[order]
    past = torch.arange(length + width, device=device)
    lengths = torch.tensor(suffix, device=device)[:, None]
    ends = lengths + length
    # Padding repeats the last position of its row: a position that no row has may be one that was
    # never learned, and rotary angles that grow with the longest text look at all of them.
    position_ids = starts[:, None] + torch.minimum(columns, lengths - 1)
    mask = ((past >= length - starts[:, None]) & (past < ends)).long()

    def moved(positions: Positions) -> Positions:
        return Positions(rank[positions.rows], positions.columns - shift[positions.rows])

    wanted = moved(at)
    entering: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> Tensor:
        entering.append(wanted.read(activation))
        return entering[0][None] if unembed else entering[0][None, :0]

    layers = model.cfg.n_layers
    # In the order of the model: at the entrance of a block, what left the one before comes first.
    inside = [
        replace(edit, site=at_entrance(edit.site, layers), positions=moved(edit.positions))
        for edit in sorted(edits, key=lambda edit: edit.site.depth)
    ]
    with (
        grouped(model),
        _rows_joining(model, ordered, width),
        hooked(model, inside, [("unembed.hook_in", keep)]),
    ):
        logits = model(
            input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=padded_cache(ordered, devices_of_attention(model)),
        )
    return logits[0] if unembed else entering[0]


@contextmanager
def _rows_joining(
    model: TransformerBridge, regions: Sequence[Region], width: int
) -> Iterator[None]:
    """Within it, blocks below all regions hand on what they are given, and the others run on the
    rows whose regions have begun."""
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    pass_on = _passing_on(_length_returned(model))
    for layer, block in enumerate(model.blocks):
        running = sum(region.layer <= layer for region in regions)
        joining = [region for region in regions if region.layer == layer]
        if running == 0:
            forwards[block] = pass_on
        elif joining or running < len(regions):
            streams = _padded_streams(joining, width)
            forwards[block] = _of_rows(block, streams, running, len(regions))
        else:
            break
    with shadowed(forwards):
        yield


def _passing_on(length: int | None) -> Callable[..., Any]:
    """A block's forward that returns what it is given, in the form that the model unpacks."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        # What stands behind the stream are attention patterns and the like, which nobody asked for.
        return hidden_states if length is None else (hidden_states, *[None] * (length - 1))

    return forward


@torch.no_grad()
def _length_returned(model: TransformerBridge) -> int | None:
    """How many things a block returns, the stream first, or None for the stream alone; found out
    once a model."""
    if model not in _returned:

        def note(block: nn.Module, inputs: Any, output: Any) -> None:
            _returned[model] = len(output) if isinstance(output, tuple) else None

        handle = model.blocks[0].register_forward_hook(note)
        try:
            model(sample_tokens(model))
        finally:
            handle.remove()
    return _returned[model]


def _of_rows(
    block: nn.Module, joining: Float[Tensor, "joining width d"] | None, running: int, rows: int
) -> Callable[..., Any]:
    """A block's forward on its first rows, the last of which join here."""

    def some(value: Any, name: str = "") -> Any:
        if isinstance(value, tuple):
            return tuple(some(one) for one in value)
        if name in _NOT_OF_ROWS:
            return value
        if name == "alibi" and isinstance(value, Tensor):  # one row a head of each row
            return value[: len(value) // rows * running]
        # What the model hands to its blocks has one row a row of the batch (masks, rotary
        # angles), or is the same for all.
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == rows:
            return value[:running]
        return value

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        before = running - (0 if joining is None else len(joining))
        parts = [hidden_states[:before], *([] if joining is None else [joining.to(hidden_states)])]
        stream = torch.cat(parts) if before else parts[-1]
        return type(block).forward(
            block,
            stream,
            *map(some, args),
            **{name: some(arg, name) for name, arg in kwargs.items()},
        )

    return forward


def _padded_streams(
    regions: Sequence[Region], width: int
) -> Float[Tensor, "joining width d"] | None:
    if not regions:
        return None
    first = regions[0].stream
    padded = first.new_zeros(len(regions), width, first.shape[1])
    for i, region in enumerate(regions):
        padded[i, : len(region.stream)] = region.stream
    return padded
