"""Ways to find where a variable is: `method.fit(model, pairs, variable, site, on)`.

DAS asks what an interchange does; the others look at activations alone, so that what they find
is readable but need not be used. Scored by the same interchange, they stand side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals, check_counterfactuals
from reft_interp.causal.das import fit_das
from reft_interp.causal.interchanges import (
    On,
    Pairs,
    interchange_rows,
    prepare_interchanges,
    rows_of_one_source,
)
from reft_interp.causal.reading_methods import labelled_activations
from reft_interp.causal.task_done import check_does_task
from reft_interp.evaluation import Accuracy, Comparison, accuracy, prepared_accuracies
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
from reft_interp.models import untrained_copy
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site, check_site
from reft_interp.subspace import Subspace, check_rank
from reft_interp.training import train


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
        # Far from the seeds with which a DAS begins.
        return _inside(Subspace.random(site.width(model), self.rank, seed=10**6 + self.seed))


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
            on those of kind "cause" alone. `fit` and `compare_methods` train either on all rows
            that they are given, and refuse `isolate` where none is of that kind.
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

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        if self.isolate:
            _check_isolated(self.name, pairs)
        found = fit_das(
            model,
            pairs,
            site,
            on,
            rank=self.rank,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            seed=self.seed,
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
    """

    sparsity: float = 1.0
    epochs: int = 10
    learning_rate: float = 5e-2
    batch_size: int = 16
    seed: int = 0
    name: str = "boundless DAS"

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
        given = [self.components, self.singular, self.basis, self.features]
        if sum(one is not None for one in given) > 1:
            raise ValueError(
                "components, singular, basis and features are different bases: give one of them"
            )
        for name in ("components", "singular"):
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_rank(count, name))

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
        object.__setattr__(self, "rank", check_rank(self.rank))

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            edit = NonlinearInterchange(
                self.rank, site.width(model), hidden=self.hidden, depth=self.depth
            )
        return _trained(self, edit, model, pairs, site, on)


def compare_methods(
    model: TransformerBridge,
    pairs: Counterfactuals,
    site: Site,
    on: On,
    methods: Sequence[Method],
    *,
    minimum_accuracy: float | int = 0.7,
) -> Comparison:
    """Interchange intervention accuracy of several methods on held-out pairs.

    Args:
        model: the hooked model.
        pairs: methods are fitted on `pairs.train` and scored on `pairs.test`.
        site: where.
        on: which tokens of base and source.
        methods: in the order in which they are listed; names must differ.
        minimum_accuracy: share of held-out bases that the model must get right without an
            intervention, where the pairs were made for another model, or of rows without asking
            any; 0 asks nothing.

    Returns:
        A row a method; of those whose maps are free, one more from an untrained copy of the model;
        and "no intervention".

    Raises:
        TypeError: `pairs` are no `Counterfactuals`, `site` no Site, `methods` no list of methods.
        ValueError: no methods, two of one name, one of a rank above the site's width; pairs of
            which the model gets too few bases right; all before anything is trained. Or as a
            method's `fit`.
    """
    check_counterfactuals(pairs)
    check_site(site)
    check_methods(methods, site.width(model))
    rows_of_one_source(pairs.test)
    check_does_task(model, pairs, minimum_accuracy)
    rows = [
        (name, score)
        for of_model, named in with_untrained(model, methods)
        for name, score in zip(
            named, _scores(of_model, pairs, site, on, list(named.values())), strict=True
        )
    ]
    bases, _ = interchange_rows(pairs.test)
    return Comparison(
        f"interchange intervention accuracy of {pairs.variable} at {site} on {on}",
        (*rows, ("no intervention", (accuracy(model, bases),))),
    )


def check_methods(methods: Sequence[Method], width: int) -> None:
    """Raise unless these are methods of different names, none of a rank above a site's width.

    Raises:
        TypeError: no list of methods.
        ValueError: none, two of one name, or a rank, or count of directions, above the width.
    """
    listed = list(methods) if isinstance(methods, Sequence) else [methods]
    wrong = [one for one in listed if isinstance(one, type) or not hasattr(one, "fit")]
    if wrong or not isinstance(methods, Sequence):
        raise TypeError(
            f"methods must be a list of methods, as [DAS(rank=4), PCA(rank=4)], got {methods!r}"
        )
    names = [method.name for method in methods]
    if not methods or len(set(names)) != len(names):
        raise ValueError(f"methods must be one or more of different names, got {names}")
    for method in methods:
        for count in ("rank", "components", "singular"):
            given = getattr(method, count, None)
            if isinstance(given, int) and given > width:
                raise ValueError(
                    f"{method.name}: {count} must be between 1 and {width} (the site's width), got "
                    f"{given}"
                )


def with_untrained(
    model: TransformerBridge, methods: Sequence[Method]
) -> Iterator[tuple[TransformerBridge, dict[str, Method]]]:
    """The methods by name, on the model; and those whose maps are free once more, on an untrained
    copy of it."""
    yield model, {method.name: method for method in methods}
    free = [method for method in methods if getattr(method, "beside_untrained", False)]
    if free:
        # Made now, so that one model is in memory while the others are fitted.
        yield untrained_copy(model), {f"{one.name}, untrained model": one for one in free}


def _scores(
    model: TransformerBridge,
    pairs: Counterfactuals,
    site: Site,
    on: On,
    methods: Sequence[Method],
) -> list[tuple[Accuracy]]:
    fitted = [method.fit(model, pairs.train, pairs.variable, site, on) for method in methods]
    scores = prepared_accuracies(
        prepare_interchanges(model, pairs.test, [(one, site, on) for one in fitted])
    )
    return [(score,) for score in scores]


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
        epochs=method.epochs,
        learning_rate=method.learning_rate,
        batch_size=method.batch_size,
        seed=method.seed,
        progress=False,
    )
    return placed.eval().placements[0].intervention


def _check_isolated(name: str, pairs: Pairs) -> None:
    rows_of_one_source(pairs)  # that they are rows at all
    if not any(cast("Mapping[str, Any]", row).get("kind") == "isolate" for row in pairs):
        raise ValueError(
            f"{name}: isolate=True needs pairs some of which are of kind 'isolate', as those that "
            f"RAVELKnowledge.pairs makes; none of these {len(pairs)} is, so leave it out"
        )


def _inside(subspace: Subspace) -> Intervention:
    return DistributedInterchange(subspace)
