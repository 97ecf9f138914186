"""Sweeps: DAS at many sites, tokens, ranks and seeds, every finished cell on disk at once.

A sweep is a folder. Killed, it goes on where it was; started by several processes, they share the
work, and the table is the same as that of one. Cells train together in the engine's joint replays.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals, DASCell
from reft_interp.causal.counterfactuals import check_counterfactuals
from reft_interp.causal.interchanges import On
from reft_interp.causal.task_done import check_does_task
from reft_interp.evaluation import Accuracy
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.sweeps.das_sweep_run import SweepRun, cell_files
from reft_interp.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_SETTINGS = ["epochs", "learning rate", "batch size", "resampled pairs"]
"""How a cell is trained: columns where cells differ in it."""
_SCORES = ["iia", "low", "high"]
_ERRORS = 3
"""Of cells that failed, those that are printed."""


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

    Raises:
        TypeError: one site or selection in place of several; `rank` or `seed` in place of several.
    """
    if isinstance(sites, Site):
        raise TypeError(f"sites must be several, as [{sites!r}], got {sites!r}")
    if isinstance(on, str | int | PositionSelector):
        raise TypeError(f"on must be several, as [{on!r}], got {on!r}")
    for one in ("rank", "seed"):
        if one in arguments:
            raise TypeError(f"{one}: a grid has {one}s, as {one}s=({arguments[one]},)")
    return [
        # Numbers of an array are no int, which is what a cell says of itself as JSON.
        DASCell(site, tokens, index(rank), index(seed), **arguments)
        for site, tokens, rank, seed in itertools.product(sites, on, ranks, seeds)
    ]


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """What a sweep found, as it is on disk.

    All cells are scored on the same held-out pairs, so the best of many is best by luck, too, and
    its interval does not know that it was chosen: a claim about it needs pairs that the sweep has
    not seen (`gather_evidence` on others, `DASResult.evaluate`).
    """

    folder: Path
    frame: pd.DataFrame = field(repr=False)
    """One row a cell, in the order of the cells, and one a site and selection for the whole
    vector: cell, method, site, component, layer, tokens, rank, seed, shuffled labels, iia (on
    held-out pairs), low, high (95 %, Wilson), n, error. Where cells differ in them also epochs,
    learning rate, batch size, resampled pairs. Of a cell that failed, the numbers are NaN and
    `error` says why."""
    no_intervention: Accuracy
    """What the model does without any interchange."""

    def subspace(self, cell: int) -> Subspace:
        """What a cell found, by its number in `frame`.

        Raises:
            FileNotFoundError: the cell failed, or there is none of that number.
        """
        path = cell_files(self.folder, cell)[1]
        if not path.is_file():
            raise FileNotFoundError(f"cell {cell} has no subspace in {self.folder}")
        return Subspace.load(path)

    def recall(self, kept: Sequence[DASCell]) -> float:
        """The share of this sweep's good places that a screening keeps.

        A place, a site with a selection of tokens, is good where a cell's IIA is at least the lower
        bound of the best cell's; cells with shuffled labels or resampled pairs do not count. A
        screening that knows nothing keeps as large a share of them as of all places.

        Args:
            kept: what `screen_cells` left of this sweep's cells.

        Raises:
            ValueError: a cell at a place that the sweep has not, or a sweep all of whose cells
                failed.
        """
        some = _without_controls(self.frame[self.frame["method"] == "DAS"])
        known = set(zip(some["site"], some["tokens"], strict=True))
        places = {(str(cell.site), str(parse_positions(cell.on))) for cell in kept}
        if unknown := sorted(places - known):
            raise ValueError(f"kept must be cells of this sweep, which has none at {unknown[0]}")
        finished = some[some["iia"].notna()]
        if finished.empty:
            raise ValueError("no cell of this sweep came to its end, so that no place is good")
        best = finished.loc[finished["iia"].idxmax(), "low"]
        found = finished[finished["iia"] >= best]
        good = set(zip(found["site"], found["tokens"], strict=True))
        return len(good & places) / len(good)

    def plot(self, *, method: str = "DAS", ax: "Axes | None" = None, **chosen: Any) -> "Axes":
        """A heat map of IIA: layers up (sites, where a layer has several), tokens across.

        Of cells that differ in what is not drawn (ranks, seeds), the mean, and an interval that
        reaches from the lowest lower bound to the highest upper bound.

        Args:
            method: "DAS" or "whole vector".
            ax: where to draw; a figure of its own by default.
            chosen: only cells with these values of columns, as `rank=1`. Cells with shuffled
                labels or resampled pairs are left out unless they are asked for, by
                `**{"shuffled labels": True}`.

        Raises:
            ValueError: an unknown column, no such cells, or some that were trained in different
                ways (epochs, learning rate, batch size), of which one is to be chosen.
        """
        from reft_interp import plotting

        some: Any = _without_controls(self.frame[self.frame["method"] == method], chosen)
        for column, value in chosen.items():
            if column not in some:
                raise ValueError(f"{column!r} is no column of the sweep; it has {list(some)}")
            some = some[some[column] == value]
        if some.empty:
            raise ValueError(f"no cells of method {method!r} with {chosen}")
        _check_trained_alike(some)
        several = (some.groupby("layer")["site"].nunique() > 1).any()
        row = "site" if several else "layer"
        drawn = some.groupby([row, "tokens"], sort=False).agg(
            {"iia": "mean", "low": "min", "high": "max"}
        )
        words = ", ".join([method, *(f"{name} {value}" for name, value in chosen.items())])
        return plotting.heatmap(
            drawn.reset_index(),
            x="tokens",
            y=row,
            value="iia",
            low="low",
            high="high",
            title=words,
            value_label="IIA [95 %]",
            ax=ax,
        )

    def save(self) -> tuple[Path, Path]:
        """Write the table and a heat map into the sweep's folder: `table.csv`, `iia.png`.

        Raises:
            ValueError: cells were trained in different ways, of which `plot` draws one; the table
                is written.
        """
        from reft_interp import plotting

        table, picture = self.folder / "table.csv", self.folder / "iia.png"
        write_whole(table, self.frame.to_csv(index=False))
        plotting.save_figure(self.plot(), picture)
        return table, picture

    def __str__(self) -> str:
        finished: Any = self.frame[self.frame["error"].isna()]
        best = finished.sort_values("iia", ascending=False).head(5)
        count = len(self.frame) - len(finished)
        failed = f", {count} failed" if count else ""
        varied = [name for name in _SETTINGS if name in best]
        shown = best[
            ["method", "site", "tokens", "rank", "seed", *varied, "iia", "low", "high", "n"]
        ]
        lines = [
            f"{len(self.frame)} rows in {self.folder}{failed}; no intervention "
            f"{self.no_intervention}",
            shown.to_string(index=False, formatters=dict.fromkeys(_SCORES, "{:.3f}".format)),
            "The best of many are best by luck, too, and an interval does not know that it was "
            "chosen:\na claim about one needs pairs that the sweep has not seen",
        ]
        errors: Any = self.frame[self.frame["error"].notna()]
        lines += [
            f"{_called(one)} at {one['site']}, {one['tokens']}: {one['error']}"
            for _, one in errors.head(_ERRORS).iterrows()
        ]
        if count > _ERRORS:
            lines.append(f"and {count - _ERRORS} more, in the column error")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

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
    retry_failed: bool = True,
    minimum_accuracy: float | int = 0.7,
    progress: bool = True,
) -> Sweep:
    """Train and score every cell, and go on with what is in the folder already.

    An error of a cell is recorded in the table, and the others go on.

    Several processes may run the same sweep at once.

    Args:
        model: the hooked model.
        pairs: cells train on `pairs.train` and are scored on `pairs.test`.
        cells: what is searched; see `grid`.
        folder: of the sweep; made if needed.
        rows_at_once: pairs of one step, over the cells that share it.
        memory_budget: bytes that constants of all cells may take; see `PreparedRows`.
        retry_failed: run cells of the folder again that failed, instead of keeping their errors.
        minimum_accuracy: share of held-out bases that the model must get right without an
            intervention, where the pairs were made for another model, or of rows without asking
            any; 0 asks nothing.
        progress: show a progress bar, with the time left.

    Raises:
        TypeError: `pairs` are no `Counterfactuals`.
        ValueError: pairs with several sources, or of which the model gets too few bases right; no
            cells, cells with a start of their own, or a folder that holds another sweep
            (other cells, pairs or model: the message says which).
    """
    check_counterfactuals(pairs)
    run = SweepRun(model, pairs, list(cells), Path(folder), rows_at_once)
    check_does_task(model, pairs, minimum_accuracy)
    run.claim()
    with tqdm(total=len(cells), disable=not progress, desc="sweep") as bar:
        run.run(bar, memory_budget, retry_failed=retry_failed)
    return Sweep(run.folder, _frame(run.finished()), run.no_intervention())


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with their scores, in the columns of `Sweep.frame`."""
    frame = pd.DataFrame(rows)
    frame.insert(0, "method", frame.pop("method"))
    frame.insert(0, "cell", frame.pop("cell").astype("Int64"))
    # The whole vector has neither: as NaN it would make floats of the others.
    whole = ["rank", "seed", "epochs", "batch size", "resampled pairs"]
    frame = frame.astype(dict.fromkeys(whole, "Int64"))
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
    searched: Any = frame[frame["method"] == "DAS"]
    alike = [name for name in _SETTINGS if searched[name].nunique(dropna=False) == 1]
    return frame.drop(columns=alike)


def _without_controls(rows: Any, chosen: Mapping[str, Any] | None = None) -> Any:
    """Without cells of shuffled labels or resampled pairs, but for those that are chosen."""
    chosen = chosen or {}
    if "shuffled labels" not in chosen:
        rows = rows[~rows["shuffled labels"].isin([True])]
    if "resampled pairs" in rows and "resampled pairs" not in chosen:
        rows = rows[rows["resampled pairs"].isna()]
    return rows


def _check_trained_alike(rows: Any) -> None:
    """Raise rather than average over cells that were trained in different ways.

    Raises:
        ValueError: they differ in a setting.
    """
    for name in _SETTINGS[:3]:
        values = rows[name].dropna().unique() if name in rows else []
        if len(values) > 1:
            raise ValueError(
                f"cells differ in {name} ({', '.join(f'{one:g}' for one in sorted(values))}), over "
                f"which no mean is drawn: choose one, as by plot(**{{{name!r}: {max(values):g}}})"
            )


def _called(row: Any) -> str:
    """A search by its rank and seed; the whole vector has neither."""
    if row["method"] != "DAS":
        return row["method"]
    return f"DAS (rank {row['rank']}, seed {row['seed']})"
