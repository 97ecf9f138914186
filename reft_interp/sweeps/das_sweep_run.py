"""A sweep at work: which cells are left, who trains them, and what of it is on disk.

Every finished cell is written at once, whole or not at all, so that a sweep that was killed goes on
where it was; groups of cells are locked, so that several processes share them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals, DASCell, interchange_rows
from reft_interp.causal.das_cells import PreparedDAS, place_das, prepare_das, train_prepared
from reft_interp.evaluation import Accuracy, accuracy, prepared_accuracies
from reft_interp.interventions import Interchange
from reft_interp.models import fingerprint, identify
from reft_interp.positions import parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows, preparation_errors, prepare_each
from reft_interp.sweeps.folder import Failures, claim, locked, read_json, write_json
from reft_interp.training.cells import groups_of
from reft_interp.whole_files import replacing

FORMAT_VERSION = 1
_WHOLE, _NONE = "whole vector", "no intervention"
_PATIENCE = 0.5
"""Seconds between looks at what other processes have finished."""


def cell_files(folder: Path, cell: int) -> tuple[Path, Path]:
    """Where a cell's numbers are, and its subspace."""
    return folder / "cells" / f"{cell:05}.json", folder / "cells" / f"{cell:05}.safetensors"


class SweepRun:
    """A sweep that is being run, by this process and perhaps by others.

    Args:
        model: the hooked model.
        pairs: cells train on `pairs.train` and are scored on `pairs.test`.
        cells: what is searched.
        folder: of the sweep.
        rows_at_once: pairs of one step, over the cells that share it.

    Raises:
        ValueError: no cells, or cells with a start of their own.
    """

    def __init__(
        self,
        model: TransformerBridge,
        pairs: Counterfactuals,
        cells: list[DASCell],
        folder: Path,
        rows_at_once: int,
    ):
        if not cells:
            raise ValueError("cells must hold at least one cell, got none")
        if any(cell.start is not None for cell in cells):
            raise ValueError("cells of a sweep begin at random: leave start out")
        self.model, self.pairs, self.cells, self.folder = model, pairs, cells, folder
        self.rows_at_once = rows_at_once
        self._failures = self._failed_baselines = Failures(())
        # Always the same, whatever is done already, so that a sweep that was killed trains its
        # cells as one that was not.
        self.groups = groups_of(
            [cell.site.layer for cell in cells], [cell.batch_size for cell in cells], rows_at_once
        )
        self.description = {
            **described_data(model, pairs),
            "rows at once": rows_at_once,
            "cells": [described_cell(cell) for cell in cells],
        }

    def claim(self) -> None:
        """Make the folder this sweep's, or see that it is."""
        claim(self.folder, self.description, "sweep")
        (self.folder / "cells").mkdir(exist_ok=True)

    def run(
        self, bar: "tqdm[Any]", memory_budget: int | None, *, retry_failed: bool = True
    ) -> None:
        """Finish what nobody else is at, until all is finished."""
        if retry_failed:
            self._failures = Failures(self._file(i) for i in range(len(self.cells)))
            self._failed_baselines = Failures([self._baselines], _WHOLE)
        ready: dict[int, _Ready] | None = None
        while left := [group for group in self.groups if self._unfinished(group)]:
            worked = False
            for group in left:
                with locked(self.folder / f"group-{group[0]:05}.lock") as mine:
                    unfinished = self._unfinished(group)
                    if not mine or not unfinished:
                        continue
                    if ready is None:
                        every = [i for one in left for i in self._unfinished(one)]
                        ready = self._prepare(every, memory_budget)
                    self._run_group(unfinished, ready, memory_budget)
                    for i in unfinished:
                        self._failures.discard(self._file(i))
                    worked = True
                bar.update(self._count() - bar.n)
            if not worked:
                time.sleep(_PATIENCE)
        # Last, so that whatever ends them loses no cell; and looked for again and again, as whoever
        # is at them may be killed.
        while not self._have_baselines():
            with locked(self.folder / "baselines.lock") as mine:
                if mine and not self._have_baselines():
                    write_json(self._baselines, self._score_baselines(memory_budget))
                    self._failed_baselines.discard(self._baselines)
            if not mine:
                time.sleep(_PATIENCE)
        bar.update(self._count() - bar.n)

    def finished(self) -> list[dict[str, Any]]:
        """What is on disk: a row a cell, in their order, then one for each whole vector.

        Keys are those of `Sweep.frame`, with `hits` in place of iia, low and high.
        """
        cells = [
            {**described_cell(cell), **read_json(cell_files(self.folder, i)[0]), "method": "DAS"}
            for i, cell in enumerate(self.cells)
        ]
        return [*cells, *read_json(self._baselines)[_WHOLE]]

    def no_intervention(self) -> Accuracy:
        """What the model does without any interchange."""
        return Accuracy(**read_json(self._baselines)[_NONE])

    @property
    def _baselines(self) -> Path:
        return self.folder / "baselines.json"

    def _have_baselines(self) -> bool:
        """Whether they are scored, and none of them is to be scored again."""
        return self._baselines.is_file() and self._baselines not in self._failed_baselines

    def _file(self, cell: int) -> Path:
        return cell_files(self.folder, cell)[0]

    def _unfinished(self, group: Sequence[int]) -> list[int]:
        """What is to be run of a group: all of it where a cell is missing, since its cells train
        together, and otherwise those that failed before."""
        if not all(self._file(i).is_file() for i in group):
            return list(group)
        return [i for i in group if self._file(i) in self._failures]

    def _count(self) -> int:
        return sum(not self._unfinished([i]) for i in range(len(self.cells)))

    def _score_baselines(self, budget: int | None) -> dict[str, Any]:
        """The whole vector at every site and selection, and no intervention; what is on disk
        already is scored again only where it failed."""
        bases, sources = interchange_rows(self.pairs.test)
        places = {(cell.site, parse_positions(cell.on)): cell for cell in self.cells}
        own = {"rank": None, "seed": None, "shuffled labels": False, "method": _WHOLE}
        rows = [
            {**_row(cell), **own, "cell": None, "hits": None, "n": None, "error": None}
            for cell in places.values()
        ]
        held = read_json(self._baselines) if self._baselines.is_file() else {_WHOLE: []}
        done = {i: row for i, row in enumerate(held[_WHOLE]) if row["hits"] is not None}
        placed: dict[int, IntervenedModel] = {}
        for i, (site, on) in enumerate(places):
            if i in done:
                rows[i] = done[i]
                continue
            try:
                placed[i] = IntervenedModel(self.model, Placement(Interchange(), site, on))
            except ValueError as error:
                rows[i]["error"] = _said(error)
        wanted = [(one, bases, sources) for one in placed.values()]
        for i, error in zip(list(placed), preparation_errors(wanted), strict=True):
            if error is not None:
                rows[i]["error"] = _said(error)
                del placed[i]
        for i, found in self._score_together(placed, budget).items():
            if isinstance(found, Exception):
                rows[i]["error"] = _said(found)
            else:
                rows[i] |= {"hits": found.hits, "n": found.n}
        return {_WHOLE: rows, _NONE: held.get(_NONE) or asdict(accuracy(self.model, bases))}

    def _score_together(
        self, placed: Mapping[int, IntervenedModel], budget: int | None
    ) -> dict[int, Accuracy | Exception]:
        """On held-out pairs; of one that cannot be scored, the error."""
        if not placed:
            return {}
        bases, sources = interchange_rows(self.pairs.test)
        try:
            wanted = [(one, bases, sources) for one in placed.values()]
            prepared = prepare_each(wanted, memory_budget=budget)
            scores = prepared_accuracies(list(zip(placed.values(), prepared, strict=True)))
            return dict(zip(placed, scores, strict=True))
        except Exception as error:
            if len(placed) == 1:
                return dict.fromkeys(placed, error)
        # What breaks a joint run breaks it for all of its places; alone, only one fails.
        return {i: self._score_together({i: one}, budget)[i] for i, one in placed.items()}

    def _prepare(self, numbers: Sequence[int], budget: int | None) -> "dict[int, _Ready]":
        """The constants of all cells at once; of a cell that cannot be run, the error."""
        try:
            return self._prepare_together(numbers, budget)
        except Exception as error:
            if len(numbers) == 1:
                return {numbers[0]: _Ready(error=error)}
        # What breaks a preparation breaks it for all of its cells; alone, only one fails.
        return {i: self._prepare([i], budget)[i] for i in numbers}

    def _prepare_together(self, numbers: Sequence[int], budget: int | None) -> "dict[int, _Ready]":
        ready: dict[int, _Ready] = {}
        placed: dict[int, IntervenedModel] = {}
        for i in numbers:
            try:
                placed[i] = place_das(self.model, self.cells[i])
            except Exception as error:
                ready[i] = _Ready(error=error)
        splits = [interchange_rows(split) for split in (self.pairs.train, self.pairs.test)]
        for bases, sources in splits:
            wanted = [(one, bases, sources) for one in placed.values()]
            for i, error in zip(list(placed), preparation_errors(wanted), strict=True):
                if error is not None:
                    ready[i] = _Ready(error=error)
                    del placed[i]
        if placed:
            cells = [self.cells[i] for i in placed]
            training = prepare_das(self.model, self.pairs.train, cells, memory_budget=budget)
            bases, sources = splits[1]
            held_out = prepare_each(
                [(one.intervened, bases, sources) for one in training], memory_budget=budget
            )
            for i, one, rows in zip(placed, training, held_out, strict=True):
                ready[i] = _Ready(one, rows)
        return ready

    def _run_group(
        self, group: Sequence[int], ready: "Mapping[int, _Ready]", budget: int | None
    ) -> None:
        good = [i for i in group if ready[i].error is None]
        for i in group:
            if (error := ready[i].error) is not None:
                self._write_error(i, error)
        if not good:
            return
        try:
            found = train_prepared(
                [training for i in good if (training := ready[i].training) is not None],
                rows_at_once=self.rows_at_once,
                progress=False,
            )
            scores = prepared_accuracies(
                [
                    (one.intervened, held_out)
                    for i, one in zip(good, found, strict=True)
                    if (held_out := ready[i].held_out) is not None
                ]
            )
        except Exception as error:
            # What breaks a joint run breaks it for all of its cells; alone, only one fails.
            if len(good) == 1:
                self._write_error(good[0], error)
                return
            again = self._prepare(good, budget)
            for i in good:
                self._run_group([i], again, budget)
            return
        for i, one, score in zip(good, found, scores, strict=True):
            cell, subspace = cell_files(self.folder, i)
            with replacing(subspace) as beside:
                one.subspace.save(beside)
            # Last, so that a cell that counts as done is whole.
            write_json(cell, {"cell": i, "hits": score.hits, "n": score.n, "error": None})

    def _write_error(self, cell: int, error: Exception) -> None:
        failed = {"cell": cell, "hits": None, "n": None, "error": _said(error)}
        write_json(cell_files(self.folder, cell)[0], failed)


@dataclass(frozen=True)
class _Ready:
    """A cell whose rows are prepared, or why they cannot be."""

    training: PreparedDAS | None = None
    held_out: PreparedRows | None = None
    error: Exception | None = None


def _said(error: Exception) -> str:
    """An error as a cell of the table."""
    return f"{type(error).__name__}: {error}"


def described_data(model: TransformerBridge, pairs: Counterfactuals) -> dict[str, Any]:
    """What is searched, as JSON: the model and the pairs."""
    return {
        "format": FORMAT_VERSION,
        "model": asdict(identify(model)),
        "weights": fingerprint(model),
        "pairs": pairs.hash,
        "variable": pairs.variable,
    }


def described_cell(cell: DASCell) -> dict[str, Any]:
    """A cell as JSON: what makes it another one."""
    return {
        **_row(cell),
        "epochs": cell.epochs,
        "learning rate": cell.learning_rate,
        "batch size": cell.batch_size,
        "resampled pairs": cell.resampled_pairs,
    }


def _row(cell: DASCell) -> dict[str, Any]:
    return {
        "site": str(cell.site),
        "component": cell.site.component,
        "layer": cell.site.layer,
        "tokens": str(parse_positions(cell.on)),
        "rank": cell.rank,
        "seed": cell.seed,
        "shuffled labels": cell.shuffled_labels,
    }
