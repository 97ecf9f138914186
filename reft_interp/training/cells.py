"""Train many small interventions of one frozen model together, each as if it were alone.

One batch holds the rows of all cells, each row edited by its own cell, so that the model's
weights stream through memory once for all. The order of rows, the learning rate, the schedule,
clipping and early stopping are each cell's own. transformers' Trainer knows one loss, one
clipping and one schedule, and so cannot do this; optimiser, schedules, clipping and the order of
rows are those that it would use, and a cell ends where `train` would take it.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import pandas as pd
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm
from transformers import get_scheduler

from reft_interp.encoding import IGNORED
from reft_interp.models.devices import device_of
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.answer_loss import place_among
from reft_interp.runtime.intervened import common_model
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import answer_positions, can_score_tokens, token_logits
from reft_interp.training.collating import check_precision, check_trainable
from reft_interp.training.hyperparameters import check_hyperparameters
from reft_interp.whole_numbers import at_least_one, whole_number


@dataclass(frozen=True)
class Cell:
    """One training among many: what is trained, on what, and how.

    Args:
        intervened: trained in place. No two cells share an intervention.
        rows: what it is trained on, prepared for it (`prepare_each` shares constants).
        evaluation_rows: what early stopping looks at, once an epoch.
        epochs: passes over the rows.
        learning_rate: of AdamW.
        batch_size: rows a step.
        seed: of the order of rows.
        lr_scheduler_type: a schedule of transformers' `get_scheduler`.
        warmup_steps: steps in which the learning rate rises from zero.
        max_grad_norm: the gradient of this cell is scaled down to this norm; 0 for no limit.
        patience: stop after so many epochs without a lower evaluation loss, and go back to the
            best weights; never by default.

    Raises:
        TypeError: epochs, batch_size, warmup_steps or patience are no whole number.
        ValueError: nothing to train; rows that were prepared for other placements; early stopping
            without evaluation rows; a number out of range.
    """

    intervened: IntervenedModel
    rows: PreparedRows
    evaluation_rows: PreparedRows | None = None
    epochs: int = field(default=1, kw_only=True)
    learning_rate: float = field(default=4e-3, kw_only=True)
    batch_size: int = field(default=16, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    lr_scheduler_type: str = field(default="linear", kw_only=True)
    warmup_steps: int = field(default=0, kw_only=True)
    max_grad_norm: float = field(default=1.0, kw_only=True)
    patience: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_trainable(self.intervened)
        self.rows.check_made_for(self.intervened)
        if self.evaluation_rows is not None:
            self.evaluation_rows.check_made_for(self.intervened, "evaluation_rows")
        check_hyperparameters(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            whole_epochs=True,
        )
        steps = self.warmup_steps
        if whole_number(steps, f"warmup_steps must be a whole number, got {steps!r}") < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {steps}")
        if not self.max_grad_norm >= 0:  # not so for NaN
            raise ValueError(f"max_grad_norm must be at least 0, got {self.max_grad_norm}")
        if self.patience is not None:
            at_least_one(self.patience, "patience")
            if self.evaluation_rows is None:
                raise ValueError(f"patience={self.patience} needs evaluation_rows, got none")

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the rows; the last may be smaller."""
        return -(-len(self.rows) // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.steps_per_epoch * self.epochs


def train_cells(
    cells: Sequence[Cell], *, rows_at_once: int = 128, progress: bool = True
) -> list[pd.DataFrame]:
    """Train cells together, in groups; each ends where `train` would take it alone.

    Args:
        cells: all of one frozen model.
        rows_at_once: rows of one step of a group, over its cells. More save less and less, and
            cost memory.
        progress: show a progress bar.

    Returns:
        For each cell its losses: step, epoch, loss. A cell whose loss, gradient or step is no
        number stops there, with the last weights whose loss was one, and a warning that names the
        cell by its place in `cells`; the others go on. So does one whose last step led to weights
        that give no number.

    Raises:
        TypeError: `rows_at_once` is no whole number.
        ValueError: no cells, cells of several models, or two that share an intervention;
            `rows_at_once` below 1; a `lr_scheduler_type` that transformers does not know, or that
            depends on more than the step; mixed precision (`torch.autocast`).
    """
    _check(cells)
    runs = [_Run(number, cell) for number, cell in enumerate(cells)]
    groups = groups_of(
        [_lowest(cell) for cell in cells], [cell.batch_size for cell in cells], rows_at_once
    )
    total = sum(run.cell.steps for run in runs)
    with tqdm(total=total, disable=not progress, desc="training cells") as bar:
        for group in groups:
            _train_together([runs[i] for i in group], bar)
    return [run.frame() for run in runs]


def groups_of(
    layers: Sequence[int], batch_sizes: Sequence[int], rows_at_once: int
) -> list[list[int]]:
    """Which cells share each step, by their numbers: those whose regions begin at similar layers,
    as they share the most work, while their rows fit.

    Raises:
        TypeError: `rows_at_once` is no whole number.
        ValueError: it is below 1.
    """
    at_least_one(rows_at_once, "rows_at_once")
    groups: list[list[int]] = [[]]
    for i in sorted(range(len(layers)), key=layers.__getitem__):
        size = sum(batch_sizes[j] for j in groups[-1])
        if groups[-1] and size + batch_sizes[i] > rows_at_once:
            groups.append([])
        groups[-1].append(i)
    return groups


class _Run:
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
        return _share(self.cell.intervened, self.cell.rows, self._chosen)

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


def _train_together(runs: Sequence[_Run], bar: "tqdm[Any]") -> None:
    for run in runs:
        run.cell.intervened.train()
    try:
        while active := [run for run in runs if run.active]:
            bar.update(len(active))
            active, losses = _with_directions(active, [run.next_share() for run in active])
            if not active:
                continue
            for run in active:
                run.cell.intervened.zero_grad()
            torch.stack(losses).sum().backward()
            moving = [
                run for run, loss in zip(active, losses, strict=True) if run.step(loss.detach())
            ]
            _evaluate([run for run in moving if run.at_an_evaluation and run.is_finite()])
            # What goes back to its best weights has been evaluated there.
            _look_once_more([run for run in moving if run.at_its_end and run.best is None])
    finally:
        for run in runs:
            run.finish()


def _with_directions(
    runs: Sequence[_Run], shares: Sequence[Share]
) -> tuple[list[_Run], list[Tensor]]:
    """The losses of cells, and of which; one whose directions have become dependent or no numbers
    has none, and stops."""
    try:
        return list(runs), _losses(shares)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        told = error
    whole: list[tuple[_Run, Share]] = []
    for run, share in zip(runs, shares, strict=True):
        try:
            with torch.no_grad():
                _losses([share])
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            run.fail("the trained directions are no longer independent or no numbers")
        else:
            whole.append((run, share))
    if len(whole) == len(runs):
        raise told
    return [run for run, _ in whole], _losses([share for _, share in whole]) if whole else []


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


def _evaluate(runs: Sequence[_Run]) -> None:
    """One pass over the evaluation rows of each of these cells, together."""
    if not runs:
        return
    totals = dict.fromkeys(runs, 0.0)
    rows: dict[_Run, PreparedRows] = {run: run.cell.evaluation_rows for run in runs}  # pyright: ignore[reportAssignmentType]
    for run in runs:
        run.cell.intervened.eval()
    steps = max(-(-len(held) // run.cell.batch_size) for run, held in rows.items())
    for step in range(steps):
        chosen = {
            run: range(len(held))[step * run.cell.batch_size :][: run.cell.batch_size]
            for run, held in rows.items()
            if not run.stopped
        }
        here = [run for run, some in chosen.items() if some]
        if not here:
            break
        with torch.no_grad():
            shares = [_share(run.cell.intervened, rows[run], chosen[run]) for run in here]
            here, losses = _with_directions(here, shares)
        for run, loss in zip(here, losses, strict=True):
            totals[run] += float(loss) * len(chosen[run])
    for run in runs:
        run.cell.intervened.train()
        if not run.stopped:
            run.evaluated(totals[run] / len(rows[run]))


def _look_once_more(runs: Sequence[_Run]) -> None:
    """Run the last rows of cells that have come to their end once more: what the last step did is
    seen in no further loss."""
    runs = [run for run in runs if run.is_finite()]
    if not runs:
        return
    with torch.no_grad():
        whole, losses = _with_directions(runs, [run.last_share() for run in runs])
    for run, loss in zip(whole, losses, strict=True):
        if not torch.isfinite(loss):
            run.fail(f"its last step led to a loss that is no number ({float(loss)})")


def _share(intervened: IntervenedModel, rows: PreparedRows, some: Sequence[int]) -> Share:
    inputs = rows.inputs(some)
    return Share(intervened, inputs, answer_positions(rows.model, inputs["batch"]))


def _losses(shares: Sequence[Share]) -> list[Tensor]:
    """Of each share the cross-entropy of its answer tokens, averaged over them, and what its
    interventions ask for beside it while they train."""
    model = shares[0].intervened.model
    # Without the output layer only where nobody compares with all tokens.
    few = can_score_tokens(model) and all(s.inputs["choices"] is not None for s in shares)
    losses = []
    for share, result in zip(shares, joint_logits(shares, unembed=not few), strict=True):
        labels, choices = share.inputs["batch"].labels, share.inputs["choices"]
        targets, logits = labels[labels != IGNORED], result
        if choices is not None:
            targets = place_among(choices, targets)
            logits = token_logits(model, result, choices) if few else result.gather(1, choices)
        loss, penalty = cross_entropy(logits.float(), targets), share.intervened.penalty()
        losses.append(loss if penalty is None else loss + penalty)
    return losses


def _lowest(cell: Cell) -> int:
    return min(placement.site.layer for placement in cell.intervened.placements)


def _check(cells: Sequence[Cell]) -> None:
    if not cells:
        raise ValueError("cells must hold at least one cell, got none")
    model = common_model("cells", [cell.intervened for cell in cells])
    check_precision("no", device_of(model))
    seen: dict[int, int] = {}
    for i, cell in enumerate(cells):
        for parameter in cell.intervened.parameters():
            first = seen.setdefault(id(parameter), i)
            if first != i:
                raise ValueError(f"cells: numbers {first} and {i} share an intervention")
