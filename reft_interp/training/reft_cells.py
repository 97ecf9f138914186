"""Many ReFTs on the same rows, trained together: seeds, layers, ranks, learning rates, classes.

Each ends where `fit_reft` would take it alone; prompts are frozen once, and the rows of many cells
share each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interventions import Intervention
from reft_interp.positions import PositionSelector
from reft_interp.runtime.batching import Rows, as_list
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import Over, prepare_each
from reft_interp.sites import Site
from reft_interp.training.cell import Cell
from reft_interp.training.cells import train_cells
from reft_interp.training.hyperparameters import check_hyperparameters, hyperparameters_of
from reft_interp.training.reft import ReFTResult, place_reft
from reft_interp.training.results import saved_settings
from reft_interp.whole_numbers import at_least_one


@dataclass(frozen=True)
class ReFTCell:
    """One ReFT among many: what, where, and how it is trained (the defaults are `fit_reft`'s).

    Args:
        intervention: a template, as `LoReFT(rank=4)`; cells may share it.
        site: where; one or several.
        on: which tokens of the prompt are edited.
        seed: of where the weights start, and of the order of rows.
        shared: one module for all sites, rather than one for each.
        epochs: passes over the rows.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: rows a step.

    Raises:
        TypeError: epochs, batch_size or seed are no whole number.
        ValueError: epochs, learning_rate or batch_size are not above 0, or the seed is below 0.
    """

    intervention: Intervention
    site: Site | Sequence[Site]
    on: str | int | Sequence[int] | PositionSelector = "f3+l3"
    seed: int = 0
    shared: bool = field(default=False, kw_only=True)
    epochs: int = field(default=3, kw_only=True)
    learning_rate: float = field(default=4e-3, kw_only=True)
    batch_size: int = field(default=16, kw_only=True)

    def __post_init__(self) -> None:
        check_hyperparameters(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            seed=self.seed,
            whole_epochs=True,
        )


def fit_reft_each(
    model: TransformerBridge,
    rows: Rows,
    cells: Sequence[ReFTCell],
    *,
    rows_at_once: int = 128,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    over: Over = "vocabulary",
    progress: bool = True,
) -> list[ReFTResult]:
    """`fit_reft` for many cells over the same rows, trained together.

    Dropout is drawn for all cells at once: with it a cell ends elsewhere than alone, as it would
    with another seed.

    Args:
        model: a TransformerBridge, as `load_model` gives it.
        rows: with `prompt` and `answer`.
        cells: the ReFTs.
        rows_at_once: rows of one step, over the cells that share it. A cell of larger batches is
            trained by itself.
        engine: "full" forces the plain run.
        memory_budget: bytes that constants of all cells may take; 40 % of the free memory by
            default. See `PreparedRows`.
        over: "vocabulary" compares the answer with all tokens, "choices" with the row's choices
            alone: another loss, and less work.
        progress: show progress bars.

    Returns:
        A result for each cell, in their order.

    Raises:
        TypeError: rows_at_once is no whole number.
        ValueError: no cells; rows_at_once is below 1; a site that the model lacks, a row without
            answer, positions that a row does not have, a module that two cells would both train:
            all before the first step.
    """
    if not cells:
        raise ValueError("cells must hold at least one cell, got none")
    at_least_one(rows_at_once, "rows_at_once")
    count = len(as_list(rows))
    placed = [
        place_reft(model, cell.intervention, cell.site, cell.on, shared=cell.shared, seed=cell.seed)
        for cell in cells
    ]
    prepared = prepare_each(
        [(intervened, rows, None) for intervened in placed],
        engine=engine,
        memory_budget=memory_budget,
        over=over,
        progress=progress,
    )
    losses = train_cells(
        [
            Cell(intervened, of_cell, **hyperparameters_of(cell))
            for cell, intervened, of_cell in zip(cells, placed, prepared, strict=True)
        ],
        rows_at_once=rows_at_once,
        progress=progress,
    )
    return [
        ReFTResult(
            intervened,
            frame,
            saved_settings(
                **hyperparameters_of(cell),
                rows=count,
                shared=cell.shared,
                engine=engine,
                over=over,
            ),
        )
        for cell, intervened, frame in zip(cells, placed, losses, strict=True)
    ]
