"""Whether a set of rows is replayed on frozen constants or run in full, and why."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psutil
import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.models.consistency import difference
from reft_interp.models.devices import device_of
from reft_interp.models.sharding import is_sharded, least_of_all
from reft_interp.runtime.batching import Rows, encode
from reft_interp.runtime.constants import FrozenRows, RegionsOfRows, regions_of
from reft_interp.runtime.control_groups import left_by_groups
from reft_interp.runtime.frozen import Region
from reft_interp.runtime.placement import Edit, Placement, select
from reft_interp.runtime.replaying import can_replay, replay
from reft_interp.runtime.rotary_scaling import length_of_other_angles
from reft_interp.runtime.running import answer_positions, prompt_ends, run

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
    work: float = 1.0
    """Share of the model's work on these rows that runs, counted in tokens times layers."""
    nbytes: int = 0
    """Memory of the constants that are kept."""
    layers: tuple[int, int] = (0, 0)
    """The first layer that runs, and how many the model has."""

    def __str__(self) -> str:
        return ("replay of the changed region: " if self.replays else "full run: ") + self.reason


def plan(
    model: TransformerBridge,
    placements: Sequence[Placement],
    rows: Rows,
    *,
    engine: Engine = "auto",
    budget: int | None = None,
) -> Plan:
    """How training or scoring on some rows would run; nothing is run.

    Args:
        model: the hooked model.
        placements: what is done, where.
        rows: with `prompt` and `answer`.
        engine: "full" forces the plain run.
        budget: bytes that constants may take; a share of the free memory by default.

    Raises:
        TypeError: rows that are none.
        ValueError: a row lacks its answer or what a placement selects; an unknown engine; a
            negative budget.
    """
    batch = encode(model, rows, answers=True)
    positions = select(placements, batch)
    regions = regions_of(model, [placement.site for placement in placements], positions, batch)
    reason = reason_against_replays(model, engine) or reason_against_replaying(model, regions)
    if reason is not None:
        return Plan(False, reason)
    return replay_plan(model, regions, FrozenRows(model, [regions], granted(model, budget)))


def check_engine(engine: Engine) -> None:
    """Raise unless an engine is one that there is.

    Raises:
        ValueError: an unknown engine.
    """
    if engine not in ("auto", "full"):
        raise ValueError(f'engine must be "auto" or "full", got {engine!r}')


def reason_against_replays(model: TransformerBridge, engine: Engine) -> str | None:
    """Why nothing of this model is replayed; None if it can be.

    Raises:
        ValueError: an unknown engine.
    """
    check_engine(engine)
    if engine == "full":
        return "it was asked for"
    if not can_replay(model):
        return "only decoders whose tokens share keys and values alone are replayed"
    return None


def reason_against_replaying(model: TransformerBridge, regions: RegionsOfRows) -> str | None:
    """Why these rows are not replayed; None if that is exact, and saves something."""
    longest = int((regions.batch.answer_end - regions.batch.prompt_start).max())
    most = length_of_other_angles(model)
    if most is not None and longest > most:
        return (
            f"a row has {longest} tokens, and beyond {most} the model's rotary angles are those of "
            "the longest row beside which a row is run"
        )
    share = work(model, regions)
    if share > 1 - _LEAST_SAVING:
        return f"the region is {share:.0%} of the model's work on these rows"
    return None


def work(model: TransformerBridge, regions: RegionsOfRows) -> float:
    """The share of the model's work on some rows that lies in their regions."""
    layers = model.cfg.n_layers
    return (layers - regions.layer) / layers * _share_of_tokens(regions)


def replay_plan(model: TransformerBridge, regions: RegionsOfRows, frozen: FrozenRows) -> Plan:
    """The plan for rows whose constants are known, in words that say what is kept."""
    share, layers = work(model, regions), model.cfg.n_layers
    kept = frozen.kept_bytes
    if frozen.kept < len(frozen) and is_sharded(model):
        # Which rows a step would have to freeze again differs between processes.
        return Plan(
            False,
            f"of a sharded model all rows are replayed or none, and the constants of all take "
            f"{frozen.nbytes / 1e6:,.0f} MB",
        )
    reason = (
        f"{_share_of_tokens(regions):.0%} of the tokens from layer {regions.layer} of {layers} "
        f"on, {share:.0%} of the full work; {kept / 1e6:,.0f} MB of constants"
    )
    if frozen.shared_tokens:
        reason += f", the first {frozen.shared_tokens} tokens once for all rows"
    if frozen.kept < len(frozen):
        reason += (
            f" for {frozen.kept} of {len(frozen)} rows ({frozen.nbytes / 1e6:,.0f} MB would hold "
            "all); the others are computed again for each batch, without gradient"
        )
    return Plan(True, reason, share, kept, (regions.layer, layers))


def _share_of_tokens(regions: RegionsOfRows) -> float:
    batch = regions.batch
    inside = int((regions.ends - regions.starts).sum())
    return inside / int((batch.answer_end - batch.prompt_start).sum())


@torch.no_grad()
def disagreement(
    model: TransformerBridge,
    batch: TokenizedBatch,
    edits: Sequence[Edit],
    regions: Sequence[Region],
) -> str | None:
    """In what a replay of a batch differs from the plain run; None if in the dtype's rounding."""
    answered = bool((batch.answer_end > batch.prompt_end).all())
    at = answer_positions(model, batch) if answered else prompt_ends(batch)
    replayed, plain = replay(model, batch, edits, regions, at), run(model, batch, edits, at=at)
    # An intervention that gives NaN gives it in both.
    finite = plain.isfinite()
    if not torch.equal(replayed.isfinite(), finite):
        return "a replay gave NaN or infinity elsewhere than the plain run"
    measured = difference(model, replayed[None].nan_to_num(), plain[None].nan_to_num())
    return None if measured.ok else f"a replay did not give what the plain run gives: {measured}"


def granted(model: TransformerBridge, budget: int | None) -> int:
    """Bytes that constants may take: what was given, or a share of what is free.

    Processes that torchrun or accelerate launched on a machine share its memory; those that share
    a model grant the same.

    Raises:
        ValueError: a negative budget.
    """
    if budget is None:
        device = device_of(model)
        # Each has a GPU of its own.
        sharing = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        free = int(free_memory(device) * MEMORY_SHARE / sharing)
        return least_of_all(free, device) if is_sharded(model) else free
    if budget < 0:
        raise ValueError(f"memory_budget must be at least 0 bytes, got {budget}")
    return budget


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, as its driver or the operating system says.

    Of the main memory that includes what the system keeps files in and gives back when asked, and
    no more than what is left of the limits of the process's groups (as SLURM and docker set them).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = left_by_groups()
    free = psutil.virtual_memory().available
    return free if left is None else min(free, left)
