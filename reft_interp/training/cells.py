"""Train many small interventions of one frozen model together, each as if it were alone.

One batch holds the rows of all cells, each row edited by its own cell, so that the model's
weights stream through memory once for all. The order of rows, the learning rate, the schedule,
clipping and early stopping are each cell's own. transformers' Trainer knows one loss, one
clipping and one schedule, and so cannot do this; optimiser, schedules, clipping and the order of
rows are those that it would use, and a cell ends where `train` would take it.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from reft_interp.encoding import IGNORED
from reft_interp.models.devices import device_of
from reft_interp.runtime.answer_loss import place_among
from reft_interp.runtime.intervened import common_model
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import can_score_tokens, token_logits
from reft_interp.training.cell import Cell
from reft_interp.training.cell_run import CellRun, share_of
from reft_interp.training.collating import check_precision
from reft_interp.whole_numbers import at_least_one


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
    runs = [CellRun(number, cell) for number, cell in enumerate(cells)]
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


def _train_together(runs: Sequence[CellRun], bar: "tqdm[Any]") -> None:
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
    runs: Sequence[CellRun], shares: Sequence[Share]
) -> tuple[list[CellRun], list[Tensor]]:
    """The losses of cells, and of which; one whose directions have become dependent or no numbers
    has none, and stops."""
    try:
        return list(runs), _losses(shares)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        told = error
    whole: list[tuple[CellRun, Share]] = []
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


def _evaluate(runs: Sequence[CellRun]) -> None:
    """One pass over the evaluation rows of each of these cells, together."""
    if not runs:
        return
    totals = dict.fromkeys(runs, 0.0)
    rows: dict[CellRun, PreparedRows] = {run: run.cell.evaluation_rows for run in runs}  # pyright: ignore[reportAssignmentType]
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
            shares = [share_of(run.cell.intervened, rows[run], chosen[run]) for run in here]
            here, losses = _with_directions(here, shares)
        for run, loss in zip(here, losses, strict=True):
            totals[run] += float(loss) * len(chosen[run])
    for run in runs:
        run.cell.intervened.train()
        if not run.stopped:
            run.evaluated(totals[run] / len(rows[run]))


def _look_once_more(runs: Sequence[CellRun]) -> None:
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
