"""Many joint searches over the same pairs, trained together, as `das_cells` trains single ones.

Each ends where `fit_das_jointly` would take it alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.das_cells import hold_settings
from reft_interp.causal.interchanges import interchange_rows
from reft_interp.causal.joint_das import (
    JointDASResult,
    Places,
    check_places,
    found_jointly,
    place_jointly,
)
from reft_interp.causal.rows import Pairs
from reft_interp.causal.shared_tokens import check_apart
from reft_interp.causal.shuffling import drawn_rows
from reft_interp.runtime.prepared import prepare_each
from reft_interp.training import Cell, train_cells
from reft_interp.training.hyperparameters import hyperparameters_of
from reft_interp.training.results import saved_settings


@dataclass(frozen=True)
class JointCell:
    """One joint search: as `fit_das_jointly` takes it, on pairs as `DASCell` draws them.

    Raises:
        TypeError: epochs, batch_size, seed or resampled_pairs are no whole number.
        ValueError: epochs, learning_rate or batch_size are not above 0; the seed or
            resampled_pairs are below 0.
    """

    places: Places
    seed: int = 0
    epochs: int = field(default=3, kw_only=True)
    learning_rate: float = field(default=5e-3, kw_only=True)
    batch_size: int = field(default=16, kw_only=True)
    shuffled_labels: bool = field(default=False, kw_only=True)
    resampled_pairs: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        hold_settings(self)


def fit_das_jointly_each(
    model: TransformerBridge, pairs: Pairs, cells: Sequence[JointCell], *, progress: bool = True
) -> list[JointDASResult]:
    """`fit_das_jointly` for many cells over the same pairs, trained together.

    Args:
        model: the hooked model.
        pairs: counterfactual rows with a source for each variable.
        cells: the searches.
        progress: show progress bars.

    Returns:
        A result for each cell, in their order.

    Raises:
        ValueError: as `fit_das_jointly`; labels that cannot be shuffled.
    """
    bases, sources = interchange_rows(pairs)
    # Cells of one study mostly share their places.
    checked = {id(cell.places): check_places(cell.places, sources) for cell in cells}
    cells = [replace(cell, places=checked[id(cell.places)]) for cell in cells]
    placed = [place_jointly(model, cell.places, cell.seed) for cell in cells]
    at = {id(cell.places): intervened for cell, intervened in zip(cells, placed, strict=True)}
    for intervened in at.values():
        check_apart(intervened, bases)
    wanted = []
    for cell, intervened in zip(cells, placed, strict=True):
        shuffled = cell.seed if cell.shuffled_labels else None
        wanted.append((intervened, *drawn_rows(bases, sources, cell.resampled_pairs, shuffled)))
    prepared = prepare_each(wanted, progress=progress)
    losses = train_cells(
        [
            Cell(intervened, rows, **hyperparameters_of(cell))
            for cell, intervened, rows in zip(cells, placed, prepared, strict=True)
        ],
        progress=progress,
    )
    return [
        found_jointly(
            intervened,
            frame,
            saved_settings(
                ranks={name: int(rank) for name, (_, _, rank) in cell.places.items()},
                **hyperparameters_of(cell),
                shuffled_labels=cell.shuffled_labels,
                resampled_pairs=cell.resampled_pairs,
                pairs=len(bases),
            ),
        )
        for cell, intervened, frame in zip(cells, placed, losses, strict=True)
    ]
