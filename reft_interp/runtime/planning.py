"""Whether a set of rows is replayed on frozen constants or run in full, and why."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.models.consistency import difference
from reft_interp.runtime.frozen import FrozenRow, freeze, frozen_bytes
from reft_interp.runtime.placement import Edit
from reft_interp.runtime.replaying import can_replay, first_columns, replay
from reft_interp.runtime.running import answer_positions, run

Engine = Literal["auto", "full"]

# The share of the free memory that frozen rows may take.
MEMORY_SHARE = 0.4
# A replay that saves less than this share of the work is not worth its memory.
_LEAST_SAVING = 0.1


@dataclass(frozen=True)
class Plan:
    """What runs in each step, and why."""

    replays: bool
    reason: str
    """Why the plain run, or what a replay saves."""

    def __str__(self) -> str:
        return ("replay of the changed region: " if self.replays else "full run: ") + self.reason


def plan(
    model: TransformerBridge,
    batches: Sequence[TokenizedBatch],
    edits: Sequence[Sequence[Edit]],
    *,
    engine: Engine = "auto",
    budget: int | None = None,
) -> Plan:
    """Decide how training on these batches runs.

    Args:
        model: the hooked model.
        batches: all rows that will be trained on.
        edits: of each batch.
        engine: "full" forces the plain run.
        budget: bytes that frozen rows may take; by default a share of the free memory.
    """
    if engine == "full":
        return Plan(False, "it was asked for")
    if not can_replay(model):
        return Plan(False, "only decoders whose tokens share keys and values alone are replayed")
    layer = min(edit.site.layer for edit in edits[0])
    layers = model.cfg.n_layers
    prefix = suffix = 0
    for batch, some in zip(batches, edits, strict=True):
        starts = first_columns(some, batch)
        prefix += int((starts - batch.prompt_start).sum())
        suffix += int((batch.answer_end - starts).sum())
    share = (layers - layer) / layers * suffix / (prefix + suffix)
    if share > 1 - _LEAST_SAVING:
        return Plan(False, f"the region is {share:.0%} of the model's work on these rows")
    needed = frozen_bytes(model, layer, prefix, suffix)
    if budget is None:
        budget = int(free_memory(next(model.parameters()).device) * MEMORY_SHARE)
    if needed > budget:
        return Plan(
            False, f"frozen rows need {needed / 1e6:,.0f} MB, {budget / 1e6:,.0f} MB are granted"
        )
    return Plan(
        True,
        f"{suffix / (prefix + suffix):.0%} of the tokens from layer {layer} of {layers} on, "
        f"{share:.0%} of the full work; {needed / 1e6:,.0f} MB of constants",
    )


def freeze_batch(
    model: TransformerBridge, batch: TokenizedBatch, edits: Sequence[Edit]
) -> list[FrozenRow]:
    """The constants of a batch below and before its edits."""
    layer = min(edit.site.layer for edit in edits)
    return freeze(model, batch, layer, first_columns(edits, batch))


@torch.no_grad()
def agrees(
    model: TransformerBridge,
    batch: TokenizedBatch,
    edits: Sequence[Edit],
    frozen: Sequence[FrozenRow],
) -> bool:
    """Whether a replay of a batch gives what the plain run gives, up to the dtype's rounding."""
    at = answer_positions(model, batch)
    replayed, plain = replay(model, batch, edits, frozen, at), run(model, batch, edits, at=at)
    return difference(model, replayed[None], plain[None]).ok


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, as its driver or the operating system says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 * 2**30
