"""How far one training has come, among others that share its steps."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from math import isfinite

import pandas as pd
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.joining import Share
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import answer_positions
from reft_interp.training.cell import Cell


class CellRun:
    """The state of one cell's training."""

    def __init__(self, number: int, cell: Cell):
        self.number = number
        self.cell = cell
        self.parameters = [p for p in cell.intervened.parameters() if p.requires_grad]
        self._optimiser = AdamW(self.parameters, lr=cell.learning_rate, weight_decay=0.0)
        self._schedule = _schedule(cell, self._optimiser)
        self._good = self._copy()
        self.losses: list[float] = []
        self.evaluations: list[float] = []
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.stopped = False
        self._sampler = SeedableRandomSampler(range(len(cell.rows)), data_seed=cell.seed)
        self._order: list[int] = []
        self._chosen: list[int] = []

    @property
    def active(self) -> bool:
        return not self.stopped and len(self.losses) < self.cell.steps

    def next_share(self) -> Share:
        step = len(self.losses) % self.cell.steps_per_epoch
        self.cell.intervened.anneal(len(self.losses) / self.cell.steps)
        if step == 0:
            self._order = list(self._sampler)
        size = self.cell.batch_size
        self._chosen = self._order[step * size :][:size]
        return self.last_share()

    def last_share(self) -> Share:
        """The rows of the last step once more."""
        return share_of(self.cell.intervened, self.cell.rows, self._chosen)

    def step(self, loss: Tensor) -> bool:
        """Clip this cell's gradient and take a step; False where something is no number."""
        norm = clip_grad_norm_(self.parameters, self.cell.max_grad_norm or float("inf"))
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            self.fail(f"its loss or gradient is no number (loss {float(loss)})")
            return False
        self._good = self._copy()
        try:
            self._optimiser.step()
        except RuntimeError as error:  # a step size that float32 cannot hold
            self.fail(f"its step is no number ({error})")
            return False
        self._schedule.step()
        self.losses.append(float(loss))
        return True

    def fail(self, why: str) -> None:
        """Stop, with the last weights whose loss was a number."""
        with torch.no_grad():
            for parameter, held in zip(self.parameters, self._good, strict=True):
                parameter.copy_(held)
        warnings.warn(
            f"cell {self.number} ({', '.join(map(str, self.cell.intervened.placements))}) stopped "
            f"at step {len(self.losses) + 1}: {why}. Try a learning rate below "
            f"{self.cell.learning_rate}",
            stacklevel=5,
        )
        self.stop()

    def _copy(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def stop(self) -> None:
        self.stopped = True
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def at_an_evaluation(self) -> bool:
        at_epoch_end = len(self.losses) % self.cell.steps_per_epoch == 0
        return self.cell.evaluation_rows is not None and at_epoch_end

    @property
    def at_its_end(self) -> bool:
        return not self.stopped and not self.active

    def is_finite(self) -> bool:
        """Whether the weights after a step are numbers; stops where they are not."""
        if all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters):
            return True
        self.fail("its weights are no numbers")
        return False

    def evaluated(self, loss: float) -> None:
        self.evaluations.append(loss)
        if self.cell.patience is None:
            return
        # A first loss that is no number would otherwise be the best for good.
        if isfinite(loss) and (self.best is None or loss < self.best[0]):
            self.best = loss, deepcopy(self.cell.intervened.state_dict())
        best = -1 if self.best is None else self.evaluations.index(self.best[0])
        if len(self.evaluations) - 1 - best >= self.cell.patience:
            self.stop()

    def finish(self) -> None:
        if self.best is not None:
            self.cell.intervened.load_state_dict(self.best[1])
        self.cell.intervened.eval()
        self.cell.intervened.zero_grad()

    def frame(self) -> pd.DataFrame:
        steps = range(1, len(self.losses) + 1)
        epochs = [step / self.cell.steps_per_epoch for step in steps]
        frame = pd.DataFrame({"step": steps, "epoch": epochs, "loss": self.losses})
        if self.cell.evaluation_rows is not None:
            ends = {(i + 1) * self.cell.steps_per_epoch: e for i, e in enumerate(self.evaluations)}
            frame["evaluation_loss"] = [ends.get(step) for step in steps]
        return frame


def share_of(intervened: IntervenedModel, rows: PreparedRows, some: Sequence[int]) -> Share:
    inputs = rows.inputs(some)
    return Share(intervened, inputs, answer_positions(rows.model, inputs["batch"]))


def _schedule(cell: Cell, optimiser: AdamW) -> LambdaLR:
    """The factor of a cell's learning rate at each step, as transformers has it."""
    scheduler = get_scheduler(
        cell.lr_scheduler_type,
        optimiser,
        num_warmup_steps=cell.warmup_steps,
        num_training_steps=cell.steps,
    )
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            f"lr_scheduler_type must depend on the step alone, {cell.lr_scheduler_type!r} does not"
        )
    return scheduler
