"""Steps that fail: a loss that is no number, and memory that does not suffice.

Both are told of with the rows of the step, and leave the last good weights in the model.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.training import memory
from reft_interp.training.collating import RowsOfBatch
from reft_interp.training.streaming import StreamedBatch

# Of the free memory, what a step may take: batches of the same length do not take quite the same.
_SAFE = 0.9


class TrainingStopped(ValueError):
    """A training that ended before its last step.

    Attributes:
        trained: what was trained, an `IntervenedModel` or a `Classifier` (of `compare`'s other
            methods the adapted model), with the last good weights in place.
        step: the step that failed, counted from 1.
        rows: the numbers of the rows at fault.
    """

    def __init__(self, message: str, trained: nn.Module, step: int, rows: list[int]):
        super().__init__(message)
        self.trained = trained
        self.step = step
        self.rows = rows

    @property
    def intervened(self) -> IntervenedModel | None:
        """The model with its interventions, of a classifier the one that it reads; None where
        nothing was edited."""
        found = getattr(self.trained, "intervened", self.trained)
        return found if isinstance(found, IntervenedModel) else None


class GoodWeights:
    """The weights at the last step whose loss was a number.

    Args:
        module: what is trained. Its frozen parameters are left out.
    """

    def __init__(self, module: nn.Module):
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._now = self._good = self._copy()
        self._step = self._good_step = 0

    @property
    def step(self) -> int:
        """How many steps had been taken when these were the weights."""
        return self._good_step

    def are_finite(self) -> bool:
        """Whether the present weights are numbers."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters)

    def begin(self, step: int) -> None:
        """Before anything of a step runs: the one before it went well.

        Args:
            step: how many steps have been taken.
        """
        if step != self._step:
            self._good, self._good_step = self._now, self._step
            self._now, self._step = self._copy(), step

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back into the model."""
        for parameter, held in zip(self._parameters, self._good, strict=True):
            parameter.copy_(held)

    def _copy(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]


@torch.no_grad()
def gives_number(module: nn.Module, chosen: RowsOfBatch) -> bool:
    """Whether the loss of a batch is a number with the present weights; so it is of no rows.

    The model runs once, whatever the batch holds: other processes may run it with this one.

    Args:
        module: what is trained; called with the inputs of a batch it gives a `loss`.
        chosen: the rows of the batch.
    """
    try:
        loss = module(**chosen.prepared.inputs(chosen.numbers or [0]))["loss"]
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return False
    return not chosen.numbers or bool(torch.isfinite(loss))


@torch.no_grad()
def rows_without_number(module: nn.Module, chosen: RowsOfBatch, runs: int = 0) -> list[int]:
    """The rows of a batch whose own loss is no number, or infinite, with the present weights.

    Args:
        module: what is trained; called with the inputs of a batch it gives a `loss`.
        chosen: the rows of the batch.
        runs: how often the model runs at least, where other processes must run it with this one.
    """
    found = []
    for row in chosen.numbers:
        try:
            loss = module(**chosen.prepared.inputs([row]))["loss"]
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            return list(chosen.numbers)
        if not torch.isfinite(loss):
            found.append(row)
    for _ in range(len(chosen.numbers), runs):
        module(**chosen.prepared.inputs([0]))
    return found


def memory_advice(
    intervened: IntervenedModel, chosen: RowsOfBatch, args: TrainingArguments, *, recompute: bool
) -> str:
    """How many rows a step would have room for, from what steps of one and two rows take.

    The longest row of the batch runs alone and doubled; memory grows evenly with their number.

    Args:
        intervened: what is trained.
        chosen: the rows of the step for which there was no memory.
        args: of the training.
        recompute: whether the step ran with gradient checkpointing.
    """
    parameters = [p for p in intervened.parameters() if p.requires_grad]
    prepared = cast("PreparedRows | StreamedBatch", chosen.prepared)
    longest = max(chosen.numbers, key=lambda row: prepared.region_length([row]))

    def step(rows: int) -> None:
        inputs = prepared.inputs([longest] * rows)
        loss = intervened(**inputs, recompute=recompute)["loss"]
        # Not `backward`: other processes do not take part in this.
        torch.autograd.grad(loss, parameters, allow_unused=True)

    tokens = f"of {prepared.region_length([longest])} tokens"
    peaks: list[list[int]] = []
    for rows in (1, 2):
        try:
            peaks.append(peak_memory(partial(step, rows)))
        except torch.OutOfMemoryError:
            break
    if not peaks:
        return (
            f"not even one row {tokens} fits. Shorten the rows (max_length=), or load the model in "
            "bfloat16 or with quantization_config="
        )
    fits = 1
    if len(peaks) == 2:
        more = [
            int((free * _SAFE - one) // max(two - one, 1))
            for free, one, two in zip(available_memory(), *peaks, strict=True)
        ]
        fits += max(0, min(more))
    size = args.per_device_train_batch_size
    fits = min(fits, len(chosen.numbers) - 1, size - 1)
    advice = (
        f"one row {tokens} takes {sum(peaks[0]) / 1e6:,.0f} MB, so that {max(fits, 1)} would fit"
    )
    if fits < 1:
        return f"{advice} at most, beside what else takes memory"
    part = max(n for n in range(1, fits + 1) if size % n == 0)
    steps = args.gradient_accumulation_steps * size // part
    return (
        f"{advice}. The same training with less memory: per_device_train_batch_size={part}, "
        f"gradient_accumulation_steps={steps}"
    )


def peak_memory(step: Callable[[], None]) -> list[int]:
    """Bytes that a step takes on each GPU at most, beside what was there before."""
    torch.cuda.empty_cache()
    with memory.peak_memory(torch.device("cuda")) as peak:
        step()
    return peak.of_gpus


def available_memory() -> list[int]:
    """Bytes of each GPU that a step can have."""
    torch.cuda.empty_cache()
    return [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
