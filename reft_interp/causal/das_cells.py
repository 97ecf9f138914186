"""Many distributed alignment searches over the same pairs, trained together.

Layers, tokens, ranks, seeds and learning rates of a study are its cells. Each ends where `fit_das`
would take it alone (learning rate falling linearly to zero, gradients clipped to norm 1); other
schedules and early stopping are options of `training.Cell`. Prompts are frozen once, sources
recorded once, and the rows of many cells share each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.das import DASResult
from reft_interp.causal.interchanges import On, rows_of_one_source
from reft_interp.causal.rows import Pairs
from reft_interp.causal.shuffling import drawn_rows
from reft_interp.interventions import DistributedInterchange
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import Over, PreparedRows, prepare_each
from reft_interp.runtime.sources import Sources
from reft_interp.sites import Site, check_site
from reft_interp.subspace import Subspace, check_rank
from reft_interp.training import Cell, train_cells
from reft_interp.training.hyperparameters import check_hyperparameters, hyperparameters_of
from reft_interp.training.results import saved_settings
from reft_interp.whole_numbers import at_least, at_least_one


@dataclass(frozen=True)
class DASCell:
    """One search: where, and how it is trained (the defaults are those of `fit_das`).

    Args:
        site: where to look.
        on: which tokens of base and source.
        rank: how many directions.
        seed: of where the search begins, of the order of pairs, and of shuffled labels.
        start: where the search begins; a random subspace by default.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        shuffled_labels: train on labels that were dealt out again at random, and say nothing
            about the true ones, as a control: what is found then, any labels would have found.
        resampled_pairs: train on as many pairs drawn again with replacement, by this seed: what
            another sample of pairs would have led to.

    Raises:
        TypeError: `site` is no Site; rank, epochs, batch_size, seed or resampled_pairs are no whole
            number.
        ValueError: rank is below 1; epochs, learning_rate or batch_size are not above 0; the seed
            or resampled_pairs are below 0.
    """

    site: Site
    on: On
    rank: int = 1
    seed: int = 0
    start: Subspace | None = field(default=None, kw_only=True)
    epochs: int = field(default=3, kw_only=True)
    learning_rate: float = field(default=5e-3, kw_only=True)
    batch_size: int = field(default=16, kw_only=True)
    shuffled_labels: bool = field(default=False, kw_only=True)
    resampled_pairs: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_site(self.site)
        object.__setattr__(self, "rank", check_rank(self.rank))
        hold_settings(self)


def hold_settings(cell: Any) -> None:
    """Check how a cell is trained, and on which pairs, and hold it as Python's values: a sweep
    writes down its cells as JSON.

    Args:
        cell: with the settings of a training, `shuffled_labels` and `resampled_pairs`.

    Raises:
        TypeError: epochs, batch_size, seed or resampled_pairs are no whole number.
        ValueError: epochs, learning_rate or batch_size are not above 0; the seed or
            resampled_pairs are below 0.
    """
    told = hyperparameters_of(cell)
    check_hyperparameters(**told, whole_epochs=True)
    told["shuffled_labels"] = bool(cell.shuffled_labels)
    if cell.resampled_pairs is not None:
        told["resampled_pairs"] = at_least(cell.resampled_pairs, 0, "resampled_pairs")
    for name, value in told.items():
        object.__setattr__(cell, name, value)


def fit_das_each(
    model: TransformerBridge,
    pairs: Pairs,
    cells: Sequence[DASCell],
    *,
    rows_at_once: int = 128,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    over: Over = "vocabulary",
    progress: bool = True,
) -> list[DASResult]:
    """`fit_das` for many cells over the same pairs, trained together.

    Args:
        model: a TransformerBridge, as `load_model` gives it.
        pairs: counterfactual rows: base, source, label, and spans where `on` names one.
        cells: the searches.
        rows_at_once: pairs of one step, over the cells that share it. A cell of larger batches
            is trained by itself.
        engine: "full" forces the plain run.
        memory_budget: bytes that constants of all cells may take; 40 % of the free memory by
            default. See `PreparedRows`.
        over: "vocabulary" compares the label with all tokens, "choices" with the row's choices
            alone: another loss, and less work.
        progress: show progress bars.

    Returns:
        A result for each cell, in their order.

    Raises:
        TypeError: rows_at_once is no whole number.
        ValueError: no cells; rows_at_once below 1; a site that the model lacks, a rank above its
            width or unlike that of `start`, tokens that a pair does not have: all before the first
            step.
    """
    at_least_one(rows_at_once, "rows_at_once")
    prepared = prepare_das(
        model,
        pairs,
        cells,
        engine=engine,
        memory_budget=memory_budget,
        over=over,
        progress=progress,
    )
    return train_prepared(prepared, rows_at_once=rows_at_once, progress=progress)


@dataclass(frozen=True)
class PreparedDAS:
    """A search that is in place, its pairs tokenized and their constants computed."""

    cell: DASCell
    intervened: IntervenedModel
    rows: PreparedRows
    settings: dict[str, Any]


def prepare_das(
    model: TransformerBridge,
    pairs: Pairs,
    cells: Sequence[DASCell],
    *,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    over: Over = "vocabulary",
    progress: bool = False,
) -> list[PreparedDAS]:
    """The first half of `fit_das_each`: constants of all cells, which may then train in parts.

    Raises:
        ValueError: as `fit_das_each`.
    """
    if not cells:
        raise ValueError("cells must hold at least one cell, got none")
    bases, sources = rows_of_one_source(pairs)
    known: dict[tuple[int | None, int | None], tuple[Sequence[Any], Sources]] = {}
    placed = [place_das(model, cell) for cell in cells]
    wanted = []
    for cell, intervened in zip(cells, placed, strict=True):
        # Rows that are the same object are tokenized once, for all cells that train on them.
        drawn = cell.resampled_pairs, cell.seed if cell.shuffled_labels else None
        if drawn not in known:
            known[drawn] = drawn_rows(bases, sources, *drawn)
        wanted.append((intervened, *known[drawn]))
    prepared = prepare_each(
        wanted, engine=engine, memory_budget=memory_budget, over=over, progress=progress
    )
    return [
        PreparedDAS(cell, intervened, rows, _settings(cell, len(bases), engine, over))
        for cell, intervened, rows in zip(cells, placed, prepared, strict=True)
    ]


def train_prepared(
    prepared: Sequence[PreparedDAS], *, rows_at_once: int = 128, progress: bool = True
) -> list[DASResult]:
    """The second half of `fit_das_each`: train searches that were prepared together."""
    losses = train_cells(
        [Cell(one.intervened, one.rows, **hyperparameters_of(one.cell)) for one in prepared],
        rows_at_once=rows_at_once,
        progress=progress,
    )
    return [
        DASResult(one.intervened, frame, one.settings)
        for one, frame in zip(prepared, losses, strict=True)
    ]


def place_das(model: TransformerBridge, cell: DASCell) -> IntervenedModel:
    """A search where it begins.

    Raises:
        ValueError: a site that the model lacks, a rank above its width or unlike that of `start`.
    """
    start = cell.start
    if start is None:
        start = Subspace.random(cell.site.width(model), cell.rank, seed=cell.seed)
    elif start.rank != cell.rank:
        raise ValueError(
            f"cells: {cell.site} has rank {cell.rank}, but its start has rank {start.rank}"
        )
    interchange = DistributedInterchange(start, trainable=True)
    return IntervenedModel(model, Placement(interchange, cell.site, cell.on))


def _settings(cell: DASCell, pairs: int, engine: Engine, over: Over) -> dict[str, Any]:
    return saved_settings(
        rank=cell.rank,
        start="random" if cell.start is None else "given",
        **hyperparameters_of(cell),
        shuffled_labels=cell.shuffled_labels,
        resampled_pairs=cell.resampled_pairs,
        pairs=pairs,
        engine=engine,
        over=over,
    )
