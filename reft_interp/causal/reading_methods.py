"""Methods that look at activations alone: what they find is readable, but need not be used."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.interchanges import On
from reft_interp.causal.labelled_activations import labelled_activations
from reft_interp.causal.rows import Pairs
from reft_interp.interventions import DistributedInterchange, Intervention
from reft_interp.rounding import in_float64, numerical_rank, within_rounding
from reft_interp.sites import Site
from reft_interp.subspace import Subspace, check_rank

# Equal activations that were computed in batches of other shapes differ by less, as a share of
# what activations vary by.
_ROUNDING = 1e-10


class ReadingMethod(ABC):
    """A method (see `methods.Method`) that is fitted to activations and the variable's values."""

    rank: Any
    reads_values: ClassVar[bool] = True
    """Whether rows need the variable's values, in `base_<variable>` and `source_<variable>`."""

    def __post_init__(self) -> None:
        if self.rank is not None:
            object.__setattr__(self, "rank", check_rank(self.rank))

    def fit(
        self, model: TransformerBridge, pairs: Pairs, variable: str, site: Site, on: On
    ) -> Intervention:
        """As `Method.fit`."""
        named = variable if self.reads_values else None
        return self.from_activations(*labelled_activations(model, pairs, named, site, on))

    @abstractmethod
    def from_activations(self, held: Float[Tensor, "n d"], values: np.ndarray) -> Intervention:
        """The interchange that it proposes, from activations and the variable's value in each.

        Raises:
            ValueError: activations have no direction to find, or fewer than its rank asks for.
        """


@dataclass(frozen=True)
class PCA(ReadingMethod):
    """The directions along which activations vary most, whatever the variable is.

    Args:
        rank: how many.
    """

    rank: int = 1
    name: str = "PCA"
    reads_values: ClassVar[bool] = False

    def from_activations(self, held: Float[Tensor, "n d"], values: np.ndarray) -> Intervention:
        return DistributedInterchange(Subspace.from_pca(held, self.rank))


@dataclass(frozen=True)
class DifferenceOfMeans(ReadingMethod):
    """The span of the differences between the mean activations of the variable's values.

    Args:
        rank: only so many directions: those along which the means vary most (their principal
            components, each value counting as often as it occurs); all by default (values − 1).
    """

    rank: int | None = None
    name: str = "difference of means"

    def from_activations(self, held: Float[Tensor, "n d"], values: np.ndarray) -> Intervention:
        means = _weighted_means(held, values)
        return _spanned(self, _by_length(means), len(means) - 1)


@dataclass(frozen=True)
class LinearDiscriminant(ReadingMethod):
    """The directions that a linear discriminant analysis reads, the covariance within each value
    shrunk as Ledoit and Wolf have it: there are fewer examples than dimensions. Where activations
    do not differ within a value, as at a token before which all prompts of a value are the same,
    these are the differences between the values' means, to which shrinking leads.

    Args:
        rank: only so many directions: the discriminants that tell most, by the ratio of what
            varies between values to what varies within them; all by default (values − 1).
    """

    rank: int | None = None
    name: str = "LDA"

    def from_activations(self, held: Float[Tensor, "n d"], values: np.ndarray) -> Intervention:
        """As `ReadingMethod.from_activations`.

        Raises:
            ValueError: activations do not differ between values, the rank is above the values less
                one, or the covariance within values has no inverse, as there are too few examples.
        """
        means = _weighted_means(held, values)
        exact = in_float64(held)
        groups = [exact[torch.as_tensor(values == value)] for value in np.unique(values)]
        within = sum(float((group - group.mean(0)).square().sum()) for group in groups)
        if within <= _ROUNDING * float((exact - exact.mean(0)).square().sum()):
            return _spanned(self, _by_length(means), len(means) - 1)
        # Not scikit-learn's discriminants: it takes the scatter between values to be the shrunken
        # total less the shrunken within, which has more directions than there are differences.
        covariance = torch.zeros(exact.shape[1], exact.shape[1], dtype=exact.dtype)
        for group in groups:
            shrunk = LedoitWolf().fit(group.numpy()).covariance_
            covariance += len(group) / len(exact) * torch.from_numpy(shrunk)
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise ValueError(
                f"{self.name}: activations within a value vary along fewer directions than there "
                f"are dimensions ({len(covariance)}), and {len(exact)} examples are too few to "
                "shrink their covariance; give more pairs"
            )
        whitened = torch.linalg.solve_triangular(root, means.T, upper=False).T
        _, _, directions = torch.linalg.svd(whitened, full_matrices=False)
        told = directions[: numerical_rank(whitened.float())]
        discriminants = torch.linalg.solve_triangular(root.T, told.T, upper=True).T
        return _spanned(self, torch.nn.functional.normalize(discriminants, dim=-1), len(means) - 1)


@dataclass(frozen=True)
class LogisticProbe(ReadingMethod):
    """The directions that a logistic probe reads (scikit-learn's, with its usual penalty).

    Args:
        rank: only so many directions: those along which the weights of the values differ most;
            all by default (values − 1).
    """

    rank: int | None = None
    name: str = "logistic probe"

    def from_activations(self, held: Float[Tensor, "n d"], values: np.ndarray) -> Intervention:
        """As `ReadingMethod.from_activations`.

        Raises:
            ValueError: activations do not differ, or the rank is above the values less one.
        """
        exact = in_float64(held)
        centred = exact - exact.mean(0)
        # The mean of what is the same everywhere may differ from it by rounding.
        if within_rounding(centred, exact, torch.promote_types(held.dtype, torch.float32)).all():
            raise ValueError(f"{self.name} finds no direction: activations do not differ at all")
        # One scale for all dimensions: were each scaled by its own, those that hardly vary would
        # be read most.
        scaled = centred / centred.square().mean().sqrt()
        probe = LogisticRegression(max_iter=2000).fit(scaled.numpy(), values)
        weights = torch.from_numpy(probe.coef_)
        if len(weights) > 1:  # of two values, one row has the difference already
            # What all values have in common cancels in the softmax: it says nothing.
            weights = weights - weights.mean(0)
        return _spanned(self, _by_length(weights), max(len(weights) - 1, 1))


def _weighted_means(held: Float[Tensor, "n d"], values: np.ndarray) -> Float[Tensor, "k d"]:
    """The mean of each value less the mean of all, times the root of its share of the examples.

    Their inner products are the scatter between values, whatever the values are called.
    """
    exact = in_float64(held)
    rows = []
    for value in np.unique(values):
        of_value = torch.as_tensor(values == value)
        share = of_value.double().mean()
        rows.append(share.sqrt() * (exact[of_value].mean(0) - exact.mean(0)))
    means = torch.stack(rows)
    # Means of what is the same everywhere differ by rounding, and by nothing else.
    constant = within_rounding(means, exact, torch.promote_types(held.dtype, torch.float32)).all()
    return torch.zeros_like(means) if constant else means


def _by_length(rows: Float[Tensor, "k d"]) -> Float[Tensor, "r d"]:
    """What rows span, as orthogonal rows, the longest first."""
    _, lengths, directions = torch.linalg.svd(rows, full_matrices=False)
    return lengths[:, None] * directions


def _spanned(
    method: DifferenceOfMeans | LinearDiscriminant | LogisticProbe,
    ordered: Float[Tensor, "r d"],
    most: int,
) -> Intervention:
    """The span of the first directions, as many as the method has in its rank, or of all."""
    if method.rank is not None and not 1 <= method.rank <= most:
        raise ValueError(
            f"{method.name}: rank must be from 1 to {most}, the variable's values less one, got "
            f"{method.rank}"
        )
    found = Subspace.spanned_by(ordered[: method.rank].float())
    if found is None:
        raise ValueError(
            f"{method.name} finds no direction: activations do not differ between values"
        )
    return DistributedInterchange(found)
