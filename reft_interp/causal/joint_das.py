"""Distributed alignment search for several variables at once, each with a source of its own.

Variables at the same site and tokens get orthogonal subspaces: parts of one basis, which train
together (Geiger et al. 2023, arXiv:2303.02536, section 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.das import DASResult
from reft_interp.causal.interchanges import On, interchange_rows
from reft_interp.causal.rows import Pairs
from reft_interp.causal.shared_tokens import check_apart
from reft_interp.evaluation import Accuracy, accuracy
from reft_interp.interventions import DistributedInterchange
from reft_interp.interventions.edits import Set
from reft_interp.interventions.rows import OrthonormalRows, PartOfRows
from reft_interp.interventions.values import OfSource
from reft_interp.positions import parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import Over, PreparedRows
from reft_interp.runtime.sources import Sources
from reft_interp.sites import Site
from reft_interp.subspace import Subspace, check_rank
from reft_interp.training import train
from reft_interp.training.in_place import checked_settings
from reft_interp.training.results import TrainingResult, saved_settings

Places = Mapping[str, tuple[Site, On, int]]
"""For each variable a site, tokens and a rank."""


@dataclass(frozen=True, eq=False)
class JointDASResult(TrainingResult):
    """Distributed interchanges that were trained together, one a variable."""

    @property
    def subspaces(self) -> dict[str, Subspace]:
        """What was found for each variable."""
        return {
            placement.source: placement.intervention.subspace
            for placement in self.intervened.placements
        }

    def of(self, variable: str) -> DASResult:
        """The interchange of one variable alone, as `fit_das` would give it.

        Raises:
            ValueError: no such variable.
        """
        for placement in self.intervened.placements:
            if placement.source == variable:
                alone = Placement(placement.intervention, placement.site, placement.on)
                placed = IntervenedModel(self.intervened.model, alone)
                return DASResult(placed, self.losses, self.settings)
        raise ValueError(f"variable must be one of {', '.join(self.subspaces)}, got {variable!r}")

    def score(self, pairs: Pairs, *, batch_size: int = 64) -> Accuracy:
        """Interchange intervention accuracy with all variables swapped, each from its source.

        Args:
            pairs: held-out counterfactual rows with a source for each variable.
            batch_size: pairs run at once.

        Raises:
            TypeError: as `interchange_rows`.
            ValueError: as `interchange_rows`, or pairs without a source for each variable.
        """
        return accuracy(self.intervened, *interchange_rows(pairs), batch_size=batch_size)


def fit_das_jointly(
    model: TransformerBridge,
    pairs: Pairs,
    places: Places,
    *,
    epochs: int = 3,
    learning_rate: float = 5e-3,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    over: Over = "vocabulary",
) -> JointDASResult:
    """Find a subspace for each of several variables, all swapped at once from sources of their own.

    `gather_joint_evidence` does it with the controls that a claim needs.

    Args:
        model: a TransformerBridge, as `load_model` gives it.
        pairs: counterfactual rows with a source for each variable
            (`CausalTask.counterfactuals(..., own_sources=True)`).
        places: for each variable where to look: site, tokens, rank.
        epochs: passes over the pairs.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: pairs a step.
        seed: of where the search begins and of the order of pairs.
        progress: show a progress bar.
        engine: "full" forces the plain run; see `PreparedRows`.
        memory_budget: bytes that constants of the pairs may take; see `PreparedRows`.
        over: what the label is compared with; see `fit_das`.

    Raises:
        TypeError: a place is no site with its tokens and its rank; pairs a step or a seed that are
            no whole number.
        ValueError: no places; pairs without a source for each of their variables; a site that
            the model lacks; ranks at one site and selection that sum to more than its width;
            places whose selections differ and are the same tokens.
    """
    trained_with = checked_settings(
        epochs, {}, learning_rate=learning_rate, batch_size=batch_size, seed=seed
    )
    bases, sources = interchange_rows(pairs)
    places = check_places(places, sources)
    intervened = place_jointly(model, places, trained_with["seed"])
    check_apart(intervened, bases)
    rows = PreparedRows(
        intervened, bases, sources, engine=engine, memory_budget=memory_budget, over=over
    )
    settings = trained_with | saved_settings(
        ranks={name: int(rank) for name, (_, _, rank) in places.items()},
        pairs=len(bases),
        engine=engine,
        over=over,
    )
    losses = train(intervened, rows, progress=progress, **trained_with)
    return found_jointly(intervened, losses, settings)


def check_places(places: Places, sources: Sources) -> dict[str, tuple[Site, On, int]]:
    """The places, if they name the variables that have a source of their own; ranks as ints.

    Args:
        places: for each variable where to look.
        sources: of the pairs.

    Raises:
        TypeError: a place is no site with its tokens and its rank, or a rank is no whole number.
        ValueError: no places, those of other variables, or a rank below 1.
    """
    if not places:
        raise ValueError("places must hold at least one variable, got none")
    named = set(sources) if isinstance(sources, Mapping) else set()
    if named != set(places):
        raise ValueError(
            f"places must name the variables that have a source in pairs ({sorted(named)}), got "
            f"{sorted(places)}"
        )
    for name, place in places.items():
        if not isinstance(place, tuple | list) or len(place) != 3:
            raise TypeError(
                f"places[{name!r}] must be (site, tokens, rank), as (Site('resid_post', 2), "
                f"'last', 1), got {place!r}"
            )
    # Of NumPy's numbers none could be saved.
    return {name: (site, on, check_rank(rank)) for name, (site, on, rank) in places.items()}


def place_jointly(model: TransformerBridge, places: Places, seed: int) -> IntervenedModel:
    """A joint search where it begins, each variable's interchange reading its source.

    Raises:
        ValueError: a site that the model lacks; ranks at one place that sum to more than its width.
    """
    interchanges = _parts(model, places, seed)
    return IntervenedModel(
        model,
        [
            Placement(interchanges[name], site, on, source=name)
            for name, (site, on, _) in places.items()
        ],
    )


def found_jointly(
    intervened: IntervenedModel, losses: pd.DataFrame, settings: dict[str, Any]
) -> JointDASResult:
    """What a joint search ended with: each part an interchange that is trained no more.

    Args:
        intervened: as `place_jointly` placed it, trained.
        losses: of the training.
        settings: what it was trained with.
    """
    found = [
        Placement(
            DistributedInterchange(placement.intervention.subspace),
            placement.site,
            placement.on,
            source=placement.source,
        )
        for placement in intervened.placements
    ]
    return JointDASResult(IntervenedModel(intervened.model, found), losses, settings)


class _PartialInterchange(Set):
    """A distributed interchange in some of the rows of a basis that others share."""

    needs_source = True

    def __init__(self, rows: PartOfRows):
        super().__init__(rows, OfSource(), {})


def _parts(model: TransformerBridge, places: Places, seed: int) -> dict[str, _PartialInterchange]:
    """For each variable its interchange; those at one place have parts of one basis."""
    together: dict[Any, list[str]] = {}
    for name, (site, on, _) in places.items():
        site.check(model)
        together.setdefault((site, parse_positions(on)), []).append(name)
    found = {}
    for (site, _), names in together.items():
        ranks = [places[name][2] for name in names]
        whole = OrthonormalRows(Subspace.random(site.width(model), sum(ranks), seed=seed))
        start = 0
        for name, rank in zip(names, ranks, strict=True):
            found[name] = _PartialInterchange(PartOfRows(whole, start, start + rank))
            start += rank
    return found
