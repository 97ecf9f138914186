"""Ways to find the subspace of a variable, behind one call: `method.fit(model, pairs, site, on)`.

DAS asks what an interchange does; the others look at activations alone, so that what they find
is readable but need not be used. Scored by the same interchange, they stand side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.das import fit_das
from reft_interp.causal.interchanges import On, Pairs, interchange_rows, prepare_interchanges
from reft_interp.evaluation import Comparison, accuracy, prepared_accuracies
from reft_interp.interventions import (
    BoundlessInterchange,
    DistributedInterchange,
    Interchange,
    Intervention,
    MaskedInterchange,
)
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.activations import activations
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
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
            pairs: counterfactual rows to train on.
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
    """

    rank: int = 1
    epochs: int = 3
    learning_rate: float = 5e-3
    batch_size: int = 16
    seed: int = 0
    name: str = "DAS"

    def fit(self, model, pairs, variable, site, on) -> Intervention:
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
class PCA:
    """The directions along which activations vary most, whatever the variable is.

    Args:
        rank: how many.
    """

    rank: int = 1
    name: str = "PCA"

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        held, _ = labelled_activations(model, pairs, variable, site, on)
        return _inside(Subspace.from_pca(held, self.rank))


@dataclass(frozen=True)
class DifferenceOfMeans:
    """The span of the differences between the mean activations of the variable's values.

    Args:
        rank: only so many of the directions, the longest; all by default (values − 1).
    """

    rank: int | None = None
    name: str = "difference of means"

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        held, values = labelled_activations(model, pairs, variable, site, on)
        means = torch.stack(
            [held[torch.as_tensor(values == value)].mean(0) for value in np.unique(values)]
        )
        return _spanned(self, (means[1:] - means[0]).float())


@dataclass(frozen=True)
class LinearDiscriminant:
    """The directions that a linear discriminant analysis reads (scikit-learn's, its covariance
    shrunk as Ledoit and Wolf have it: there are fewer examples than dimensions).

    Args:
        rank: only so many of the directions, the longest; all by default (values − 1).
    """

    rank: int | None = None
    name: str = "LDA"

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        held, values = labelled_activations(model, pairs, variable, site, on)
        # Not shrinkage="auto", which scales every dimension by its own spread first.
        fitted = LinearDiscriminantAnalysis(solver="eigen", covariance_estimator=LedoitWolf()).fit(
            held.double().numpy(), values
        )
        return _spanned(self, torch.from_numpy(_between(fitted.coef_)).float())


@dataclass(frozen=True)
class LogisticProbe:
    """The directions that a logistic probe reads (scikit-learn's, with its usual penalty).

    Args:
        rank: only so many of the directions, the longest; all by default (values − 1).
    """

    rank: int | None = None
    name: str = "logistic probe"

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        held, values = labelled_activations(model, pairs, variable, site, on)
        centred = held.double() - held.double().mean(0)
        # One scale for all dimensions: were each scaled by its own, those that hardly vary would
        # be read most.
        scaled = centred / centred.square().mean().sqrt()
        probe = LogisticRegression(max_iter=2000).fit(scaled.numpy(), values)
        return _spanned(self, torch.from_numpy(_between(probe.coef_)).float())


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
        basis: a basis of your own, as the directions of a dictionary; instead of components.
        sparsity: what the loss grows by for a mask that takes all.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        seed: of the order of pairs.
        name: what it is called in tables.
    """

    components: int | None = None
    basis: Subspace | None = None
    sparsity: float = 0.1
    epochs: int = 3
    learning_rate: float = 5e-2
    batch_size: int = 16
    seed: int = 0
    name: str = "mask"

    def fit(self, model, pairs, variable, site, on) -> Intervention:
        if self.basis is not None:
            if self.components is not None:
                raise ValueError("components and basis are two bases: give one of them")
            basis = self.basis
        elif self.components is None:
            basis = Subspace(torch.eye(site.width(model)))
        else:
            held, _ = labelled_activations(model, pairs, variable, site, on)
            basis = Subspace.from_pca(held, self.components)
        edit = MaskedInterchange(basis, sparsity=self.sparsity)
        return _trained(self, edit, model, pairs, site, on)


def compare_methods(
    model: TransformerBridge,
    pairs: Counterfactuals,
    site: Site,
    on: On,
    methods: Sequence[Method],
) -> Comparison:
    """Interchange intervention accuracy of several methods on held-out pairs.

    Args:
        model: the hooked model.
        pairs: methods are fitted on `pairs.train` and scored on `pairs.test`.
        site: where.
        on: which tokens of base and source.
        methods: in the order in which they are listed; names must differ.

    Returns:
        A row a method, and "no intervention".

    Raises:
        ValueError: no methods, two of one name, or as a method's `fit`.
    """
    names = [method.name for method in methods]
    if not methods or len(set(names)) != len(names):
        raise ValueError(f"methods must be one or more of different names, got {names}")
    fitted = [method.fit(model, pairs.train, pairs.variable, site, on) for method in methods]
    scores = prepared_accuracies(
        prepare_interchanges(model, pairs.test, [(one, site, on) for one in fitted])
    )
    bases, _ = interchange_rows(pairs.test)
    rows = [(name, (score,)) for name, score in zip(names, scores, strict=True)]
    return Comparison(
        f"interchange intervention accuracy of {pairs.variable} at {site} on {on}",
        (*rows, ("no intervention", (accuracy(model, bases),))),
    )


def labelled_activations(
    model: TransformerBridge, pairs: Pairs, variable: str, site: Site, on: On
) -> tuple[Float[Tensor, "n d"], np.ndarray]:
    """What the model holds of bases and sources, and the variable's value in each.

    A prompt counts once, however many pairs it is in; each of its selected tokens is an example.

    Raises:
        ValueError: rows have no column with the variable's value, or it never varies.
    """
    rows = list(cast("Sequence[Mapping[str, Any]]", pairs))
    names = variable.split(" and ")
    prompts: dict[str, tuple[dict[str, Any], str]] = {}
    for i, row in enumerate(rows):
        for side in ("base", "source"):
            missing = [name for name in names if f"{side}_{name}" not in row]
            if missing:
                raise ValueError(
                    f"pairs: row {i} has no column '{side}_{missing[0]}' with the variable's "
                    f"value; it has {sorted(row)}"
                )
            value = " ".join(str(row[f"{side}_{name}"]) for name in names)
            prompt = {"prompt": row[side], "spans": row.get(f"{side}_spans")}
            prompts[row[side]] = prompt, value
    held = activations(model, [prompt for prompt, _ in prompts.values()], site, on)
    values = np.repeat([value for _, value in prompts.values()], [len(one) for one in held])
    if len(set(values)) < 2:
        raise ValueError(f"variable: {variable!r} never varies in the pairs, it is {values[0]!r}")
    return torch.cat(held).cpu(), values


def _between(weights: np.ndarray) -> np.ndarray:
    """What tells classes apart: one row for two classes, else differences from the first."""
    return weights if len(weights) == 1 else weights[1:] - weights[0]


def _trained(
    method: BoundlessDAS | MaskSearch,
    edit: Intervention,
    model: TransformerBridge,
    pairs: Pairs,
    site: Site,
    on: On,
) -> Intervention:
    bases, sources = interchange_rows(pairs)
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


def _inside(subspace: Subspace) -> Intervention:
    return DistributedInterchange(subspace)


def _spanned(
    method: DifferenceOfMeans | LinearDiscriminant | LogisticProbe, rows: Float[Tensor, "r d"]
) -> Intervention:
    if method.rank is not None:
        if not 1 <= method.rank <= len(rows):
            raise ValueError(
                f"{method.name}: rank must be from 1 to {len(rows)}, the variable's values less "
                f"one, got {method.rank}"
            )
        _, lengths, directions = torch.linalg.svd(rows.double(), full_matrices=False)
        rows = (lengths[:, None] * directions)[: method.rank].float()
    found = Subspace.spanned_by(rows)
    if found is None:
        raise ValueError(
            f"{method.name} finds no direction: activations do not differ between values"
        )
    return _inside(found)
