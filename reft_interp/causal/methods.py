"""Ways to find where a variable is: `method.fit(model, pairs, variable, site, on)`.

DAS asks what an interchange does; the others look at activations alone, so that what they find
is readable but need not be used. Scored by the same interchange, they stand side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.das import fit_das
from reft_interp.causal.interchanges import On, Pairs, rows_of_one_source
from reft_interp.causal.labelled_activations import labelled_activations
from reft_interp.evaluation.controls import control_subspaces
from reft_interp.interventions import (
    BoundlessInterchange,
    DistributedInterchange,
    FeatureInterchange,
    Interchange,
    Intervention,
    MaskedInterchange,
    NonlinearInterchange,
    SparseAutoencoder,
)
from reft_interp.interventions.masks import check_sparsity
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace, check_rank
from reft_interp.training import train
from reft_interp.training.hyperparameters import check_hyperparameters, hyperparameters_of
from reft_interp.training.seeding import seeded


@runtime_checkable
class Method(Protocol):
    """A way to find where a variable is."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    def fit(
        self, model: TransformerBridge, pairs: Pairs, variable: str, site: Site, on: On
    ) -> Intervention:
        """The interchange that it proposes.

        Args:
            model: the hooked model.
            pairs: counterfactual rows to train on, as `Counterfactuals.train`.
            variable: whose values are in the columns `base_<variable>` and
                `source_<variable>`, for methods that look at activations.
            site: where.
            on: which tokens of base and source.
        """
        ...


@dataclass(frozen=True)
class FullVector:
    """The whole vector is swapped; nothing is searched."""

    name: str = "whole vector"

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        return Interchange(site.width(model))


@dataclass(frozen=True)
class RandomSubspace:
    """A random subspace.

    Args:
        rank: of the subspace.
        seed: of the draw.
    """

    rank: int = 1
    seed: int = 0
    name: str = "random subspace"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", check_rank(self.rank))

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        (drawn,) = control_subspaces(site.width(model), self.rank, 1, seed=self.seed)
        return _inside(drawn)


@dataclass(frozen=True)
class DAS:
    """Distributed alignment search (Geiger et al. 2023, arXiv:2303.02536); see `fit_das`.

    Args:
        rank: of the subspace.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        seed: of where the search begins, and of the order of pairs.
        isolate: multi-task DAS (Huang et al. 2024, arXiv:2402.17700): `disentanglement` trains it
            on the rows of kind "isolate", too, whose answer should stay what it was, and plain DAS
            on those of kind "cause" alone. `fit`, `compare_methods` and `gather_evidence` train
            either on all rows that they are given, and refuse `isolate` where none is of that kind.

    Raises:
        TypeError: rank or batch_size are no whole number.
        ValueError: rank is below 1; epochs, learning_rate or batch_size are not above 0.
    """

    rank: int = 1
    epochs: int = 3
    learning_rate: float = 5e-3
    batch_size: int = 16
    seed: int = 0
    isolate: bool = False
    name: str = "DAS"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", check_rank(self.rank))
        check_hyperparameters(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size
        )

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        if self.isolate:
            check_isolated(self.name, pairs)
        found = fit_das(
            model,
            pairs,
            site,
            on,
            rank=self.rank,
            **hyperparameters_of(self),
            progress=False,
        )
        return _inside(found.subspace)


@dataclass(frozen=True)
class BoundlessDAS:
    """DAS that finds its own dimension (Wu et al. 2023, arXiv:2305.08809); see
    `BoundlessInterchange`. Until the boundary has settled it takes some hundred steps.

    Args:
        sparsity: what the loss grows by for a subspace that is the whole space.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        seed: of where the search begins, and of the order of pairs.

    Raises:
        TypeError: batch_size is no whole number.
        ValueError: sparsity is negative; epochs, learning_rate or batch_size are not above 0.
    """

    sparsity: float = 1.0
    epochs: int = 10
    learning_rate: float = 5e-2
    batch_size: int = 16
    seed: int = 0
    name: str = "boundless DAS"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        check_hyperparameters(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size
        )

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        width = site.width(model)
        start = Subspace.random(width, width, seed=self.seed)
        edit = BoundlessInterchange(start, sparsity=self.sparsity)
        return _trained(self, edit, model, pairs, site, on)


@dataclass(frozen=True)
class MaskSearch:
    """Which coordinates of a given basis carry the variable: desiderata-based masking (Davies et
    al. 2023, arXiv:2307.03637); see `MaskedInterchange`.

    Args:
        components: the basis is so many principal components of the activations; neurons, the
            dimensions as they are, by default.
        singular: so many right singular vectors of the activations, which are not centred, instead.
        basis: an orthonormal basis of your own instead.
        features: the features of a sparse autoencoder instead; see `FeatureInterchange`.
        sparsity: what the loss grows by for a mask that takes all.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        seed: of the order of pairs.
        name: what it is called in tables.

    Raises:
        TypeError: components, singular or batch_size are no whole number.
        ValueError: several bases; components or singular are below 1; sparsity is negative;
            epochs, learning_rate or batch_size are not above 0.
    """

    components: int | None = None
    singular: int | None = None
    basis: Subspace | None = None
    features: SparseAutoencoder | None = None
    sparsity: float = 0.1
    epochs: int = 3
    learning_rate: float = 5e-2
    batch_size: int = 16
    seed: int = 0
    name: str = "mask"

    def __post_init__(self) -> None:
        bases = ("components", "singular", "basis", "features")
        if len(given := [name for name in bases if getattr(self, name) is not None]) > 1:
            raise ValueError(
                "components, singular, basis and features are different bases: give one of them, "
                f"got {' and '.join(given)}"
            )
        for name in ("components", "singular"):
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_rank(count, name))
        check_sparsity(self.sparsity)
        check_hyperparameters(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size
        )

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        if self.features is not None:
            edit = FeatureInterchange(self.features, sparsity=self.sparsity)
            return _trained(self, edit, model, pairs, site, on)
        edit = MaskedInterchange(self._basis(model, pairs, site, on), sparsity=self.sparsity)
        return _trained(self, edit, model, pairs, site, on)

    def _basis(self, model: TransformerBridge, pairs: Pairs, site: Site, on: On) -> Subspace:
        if self.basis is not None:
            return self.basis
        if self.components is None and self.singular is None:
            return Subspace(torch.eye(site.width(model)))
        held, _ = labelled_activations(model, pairs, None, site, on)
        if self.components is not None:
            return Subspace.from_pca(held, self.components)
        assert self.singular is not None
        return Subspace.from_svd(held, self.singular)


@dataclass(frozen=True)
class NonlinearAlignment:
    """DAS in coordinates that a small invertible network makes; see `NonlinearInterchange`.

    Such maps reach full accuracy on untrained networks (Sutter et al. 2025, arXiv:2507.08802), so
    that `compare_methods` scores it on an untrained copy of the model, too. A low score there does
    not clear it: it may change more than base and source differ by, and so reaches full accuracy
    at places of `tasks.plantings` where no linear swap does ("decoy", "two layers, between").

    Args:
        rank: how many coordinates are swapped.
        hidden: width of the network.
        depth: of the network.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        seed: of where the search begins, and of the order of pairs.

    Raises:
        TypeError: rank, hidden, depth or batch_size are no whole number.
        ValueError: rank, hidden or depth are below 1; epochs, learning_rate or batch_size are not
            above 0.
    """

    rank: int = 1
    hidden: int = 64
    depth: int = 4
    epochs: int = 10
    learning_rate: float = 5e-3
    batch_size: int = 16
    seed: int = 0
    name: str = "nonlinear alignment"
    beside_untrained = True

    def __post_init__(self) -> None:
        for name in ("rank", "hidden", "depth"):
            object.__setattr__(self, name, check_rank(getattr(self, name), name))
        check_hyperparameters(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size
        )

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        with seeded(self.seed):
            edit = NonlinearInterchange(
                self.rank, site.width(model), hidden=self.hidden, depth=self.depth
            )
        return _trained(self, edit, model, pairs, site, on)


def _trained(
    method: BoundlessDAS | MaskSearch | NonlinearAlignment,
    edit: Intervention,
    model: TransformerBridge,
    pairs: Pairs,
    site: Site,
    on: On,
) -> Intervention:
    bases, sources = rows_of_one_source(pairs)
    placed = IntervenedModel(model, Placement(edit, site, on))
    train(
        placed,
        PreparedRows(placed, bases, sources),
        **hyperparameters_of(method),
        progress=False,
    )
    return placed.eval().placements[0].intervention


def check_isolated(name: str, pairs: Pairs) -> None:
    """Raise unless some of the pairs are such whose answer should stay what it was.

    Args:
        name: of the method that asks for them.
        pairs: that it is fitted to.

    Raises:
        TypeError: as `rows_of_one_source`.
        ValueError: as `rows_of_one_source`; or none is.
    """
    rows_of_one_source(pairs)  # that they are rows at all
    if not any(cast("Mapping[str, Any]", row).get("kind") == "isolate" for row in pairs):
        raise ValueError(
            f"{name}: isolate=True needs pairs some of which are of kind 'isolate', as those that "
            f"RAVELKnowledge.pairs makes; none of these {len(pairs)} is, so leave it out"
        )


def _inside(subspace: Subspace) -> Intervention:
    return DistributedInterchange(subspace)
