"""Sweeps: DAS at many sites, tokens, ranks and seeds, every finished cell on disk at once.

A sweep is a folder. Killed, it goes on where it was; started by several processes, they share the
work, and the table is the same as that of one. Cells train together in the engine's joint replays.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals, DASCell, interchange_rows
from reft_interp.causal.das_cells import PreparedDAS, place_das, prepare_das, train_prepared
from reft_interp.causal.interchanges import On
from reft_interp.evaluation import Accuracy, accuracy, prepared_accuracies
from reft_interp.interventions import Interchange
from reft_interp.models import identify
from reft_interp.positions import parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows, preparation_errors, prepare_each
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training.cells import groups_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT_VERSION = 1
_PATIENCE = 0.5
"""Seconds between looks at what other processes have finished."""


def grid(
    sites: Sequence[Site],
    on: Sequence[On],
    *,
    ranks: Sequence[int] = (1,),
    seeds: Sequence[int] = (0,),
    **arguments: Any,
) -> list[DASCell]:
    """A cell for every combination.

    Args:
        sites: where.
        on: selections of tokens.
        ranks: of the subspaces.
        seeds: of the searches.
        arguments: further arguments of `DASCell`, the same for all.
    """
    return [
        DASCell(site, tokens, rank, seed, **arguments)
        for site, tokens, rank, seed in itertools.product(sites, on, ranks, seeds)
    ]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sweep found, as it is on disk."""

    folder: Path
    frame: pd.DataFrame = field(repr=False)
    """One row a cell, in the order of the cells, and one a site and selection for the whole
    vector: cell, method, site, component, layer, tokens, rank, seed, shuffled labels, iia (on
    held-out pairs), low, high (95 %, Wilson), n, error. Of a cell that failed, the numbers are
    NaN and `error` says why."""
    no_intervention: Accuracy
    """What the model does without any interchange."""

    def subspace(self, cell: int) -> Subspace:
        """What a cell found, by its number in `frame`.

        Raises:
            FileNotFoundError: the cell failed, or there is none of that number.
        """
        path = _files(self.folder, cell)[1]
        if not path.is_file():
            raise FileNotFoundError(f"cell {cell} has no subspace in {self.folder}")
        return Subspace.load(path)

    def plot(self, *, method: str = "DAS", ax: "Axes | None" = None, **chosen: Any) -> "Axes":
        """A heat map of IIA: layers up, tokens across, means over whatever else varies.

        Args:
            method: "DAS" or "whole vector".
            ax: where to draw; a figure of its own by default.
            chosen: only cells with these values of columns, as `rank=1`.

        Raises:
            ValueError: an unknown column, or no such cells.
        """
        from reft_interp import plotting

        some: Any = self.frame[self.frame["method"] == method]
        for column, value in chosen.items():
            if column not in some:
                raise ValueError(f"{column!r} is no column of the sweep; it has {list(some)}")
            some = some[some[column] == value]
        if some.empty:
            raise ValueError(f"no cells of method {method!r} with {chosen}")
        mean = some.groupby(["layer", "tokens"], sort=False)["iia"].mean().reset_index()
        words = ", ".join([method, *(f"{name} {value}" for name, value in chosen.items())])
        return plotting.heatmap(
            mean, x="tokens", y="layer", value="iia", title=words, value_label="IIA", ax=ax
        )

    def save(self) -> tuple[Path, Path]:
        """Write the table and a heat map into the sweep's folder: `table.csv`, `iia.png`."""
        table, picture = self.folder / "table.csv", self.folder / "iia.png"
        self.frame.to_csv(table, index=False)
        figure = self.plot().get_figure(root=True)
        if figure is not None:
            figure.savefig(picture, dpi=150, bbox_inches="tight")
        return table, picture

    def __str__(self) -> str:
        finished: Any = self.frame[self.frame["error"].isna()]
        best = finished.sort_values("iia", ascending=False).head(5)
        count = len(self.frame) - len(finished)
        failed = f", {count} failed" if count else ""
        shown = best[["method", "site", "tokens", "rank", "seed", "iia", "low", "high", "n"]]
        return (
            f"{len(self.frame)} rows in {self.folder}{failed}; no intervention "
            f"{self.no_intervention}\n{shown.to_string(index=False, float_format='{:.3f}'.format)}"
        )

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, float_format="{:.3f}".format)


def sweep(
    model: TransformerBridge,
    pairs: Counterfactuals,
    cells: Sequence[DASCell],
    folder: str | Path,
    *,
    rows_at_once: int = 128,
    memory_budget: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train and score every cell, and go on with what is in the folder already.

    Several processes may run the same sweep at once.

    Args:
        model: the hooked model.
        pairs: cells train on `pairs.train` and are scored on `pairs.test`.
        cells: what is searched; see `grid`.
        folder: of the sweep; made if needed.
        rows_at_once: pairs of one step, over the cells that share it.
        memory_budget: bytes that constants of all cells may take; see `PreparedRows`.
        progress: show a progress bar, with the time left.

    Raises:
        ValueError: no cells, cells with a start of their own, or a folder that holds another sweep
            (other cells, pairs or model: the message says which).
    """
    study = _Study(model, pairs, list(cells), Path(folder), rows_at_once)
    study.claim()
    with tqdm(total=len(cells), disable=not progress, desc="sweep") as bar:
        study.run(bar, memory_budget)
    return study.result()


class _Study:
    """A sweep that is being run, by this process and perhaps by others."""

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
        # Always the same, whatever is done already, so that a sweep that was killed trains its
        # cells as one that was not.
        self.groups = groups_of(
            [cell.site.layer for cell in cells], [cell.batch_size for cell in cells], rows_at_once
        )
        self.description = {
            "format": FORMAT_VERSION,
            "model": asdict(identify(model)),
            "pairs": pairs.hash,
            "variable": pairs.variable,
            "rows at once": rows_at_once,
            "cells": [_described(cell) for cell in cells],
        }

    def claim(self) -> None:
        """Make the folder this sweep's, or see that it is."""
        (self.folder / "cells").mkdir(parents=True, exist_ok=True)
        path = self.folder / "sweep.json"
        with FileLock(self.folder / "sweep.lock"):
            if not path.is_file():
                _write(path, self.description)
                return
        held = json.loads(path.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(self.description))
        other = [name for name in wanted if held.get(name) != wanted[name]]
        if other:
            raise ValueError(
                f"folder {str(self.folder)!r} holds another sweep: {', '.join(other)} differ. Give "
                "a new folder, or the same cells and pairs"
            )

    def run(self, bar: "tqdm[Any]", memory_budget: int | None) -> None:
        """Finish what nobody else is at, until all is finished."""
        with _locked(self.folder / "baselines.lock") as mine:
            if mine and not self._baselines.is_file():
                _write(self._baselines, self._score_baselines(memory_budget))
        ready: dict[int, _Ready] | None = None
        while left := [group for group in self.groups if not self._done(group)]:
            worked = False
            for group in left:
                with _locked(self.folder / f"group-{group[0]:05}.lock") as mine:
                    if not mine or self._done(group):
                        continue
                    if ready is None:
                        ready = self._prepare([i for one in left for i in one], memory_budget)
                    self._run_group(group, ready, memory_budget)
                    worked = True
                bar.update(self._count() - bar.n)
            if not worked:
                time.sleep(_PATIENCE)
        while not self._baselines.is_file():
            time.sleep(_PATIENCE)
        bar.update(self._count() - bar.n)

    def result(self) -> Sweep:
        """What is on disk."""
        baselines = json.loads(self._baselines.read_text(encoding="utf-8"))
        rows = [
            {**_row(cell), **_read(_files(self.folder, i)[0])} for i, cell in enumerate(self.cells)
        ]
        for row in rows:
            row["method"] = "DAS"
        frame = pd.DataFrame([*rows, *baselines["whole vector"]])
        frame.insert(0, "method", frame.pop("method"))
        frame.insert(0, "cell", frame.pop("cell").astype("Int64"))
        scores = [
            Accuracy(int(hits), int(n)) if pd.notna(hits) else None
            for hits, n in zip(frame.pop("hits"), frame["n"], strict=True)
        ]
        bounds = [one.interval if one else (float("nan"), float("nan")) for one in scores]
        at = frame.columns.get_loc("n")
        assert isinstance(at, int)
        frame.insert(at, "iia", [one.value if one else float("nan") for one in scores])
        frame.insert(at + 1, "low", [low for low, _ in bounds])
        frame.insert(at + 2, "high", [high for _, high in bounds])
        return Sweep(self.folder, frame, Accuracy(**baselines["no intervention"]))

    @property
    def _baselines(self) -> Path:
        return self.folder / "baselines.json"

    def _done(self, group: Sequence[int]) -> bool:
        return all(_files(self.folder, i)[0].is_file() for i in group)

    def _count(self) -> int:
        return sum(self._done([i]) for i in range(len(self.cells)))

    def _score_baselines(self, budget: int | None) -> dict[str, Any]:
        """The whole vector at every site and selection, and no intervention."""
        bases, sources = interchange_rows(self.pairs.test)
        rows: list[dict[str, Any]] = []
        wanted: dict[int, tuple[IntervenedModel, Sequence[Any], Sequence[Any]]] = {}
        for (site, on), row in {
            (cell.site, parse_positions(cell.on)): _row(cell) for cell in self.cells
        }.items():
            own = {"rank": None, "seed": None, "method": "whole vector", "cell": None}
            rows.append({**row, **own, "hits": None, "n": None, "error": None})
            try:
                placed = IntervenedModel(self.model, Placement(Interchange(), site, on))
                wanted[len(rows) - 1] = placed, bases, sources
            except ValueError as error:
                rows[-1]["error"] = str(error)
        for i, error in zip(list(wanted), preparation_errors(list(wanted.values())), strict=True):
            if error is not None:
                rows[i]["error"] = str(error)
                del wanted[i]
        if wanted:
            prepared = prepare_each(list(wanted.values()), memory_budget=budget)
            placed = [intervened for intervened, _, _ in wanted.values()]
            scores = prepared_accuracies(list(zip(placed, prepared, strict=True)))
            for i, found in zip(wanted, scores, strict=True):
                rows[i] |= {"hits": found.hits, "n": found.n}
        return {"whole vector": rows, "no intervention": asdict(accuracy(self.model, bases))}

    def _prepare(self, numbers: Sequence[int], budget: int | None) -> "dict[int, _Ready]":
        """The constants of all cells at once; of a cell that cannot be run, the error."""
        ready: dict[int, _Ready] = {}
        placed: dict[int, IntervenedModel] = {}
        for i in numbers:
            try:
                placed[i] = place_das(self.model, self.cells[i])
            except (ValueError, TypeError) as error:
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
            if ready[i].error is not None:
                self._write_error(i, ready[i].error)
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
        except (RuntimeError, ValueError) as error:
            # What breaks a joint run breaks it for all of its cells; alone, only one fails.
            if len(good) == 1:
                self._write_error(good[0], error)
                return
            again = self._prepare(good, budget)
            for i in good:
                self._run_group([i], again, budget)
            return
        for i, one, score in zip(good, found, scores, strict=True):
            cell, subspace = _files(self.folder, i)
            beside = subspace.with_name(f"{subspace.name}.part")
            one.subspace.save(beside)
            os.replace(beside, subspace)
            # Last, so that a cell that counts as done is whole.
            _write(cell, {"cell": i, "hits": score.hits, "n": score.n, "error": None})

    def _write_error(self, cell: int, error: Exception | None) -> None:
        said = f"{type(error).__name__}: {error}"
        _write(_files(self.folder, cell)[0], {"cell": cell, "hits": None, "n": None, "error": said})


@dataclass(frozen=True)
class _Ready:
    """A cell whose rows are prepared, or why they cannot be."""

    training: PreparedDAS | None = None
    held_out: PreparedRows | None = None
    error: Exception | None = None


def _described(cell: DASCell) -> dict[str, Any]:
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


def _files(folder: Path, cell: int) -> tuple[Path, Path]:
    """Where a cell's numbers are, and its subspace."""
    return folder / "cells" / f"{cell:05}.json", folder / "cells" / f"{cell:05}.safetensors"


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Within it, whether this process has the lock; another one's is not waited for."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, held: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
