"""Interchanges of learned size: a soft mask over coordinates decides how much of each is swapped.

While training the mask is soft and hardens as its temperature falls; afterwards a coordinate is
swapped or is not. What is trained has a price for each coordinate, so that few are swapped.
"""

from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reft_interp.interventions.edits import Set
from reft_interp.interventions.rows import OrthonormalRows
from reft_interp.interventions.values import Mixed, Value
from reft_interp.subspace import Subspace


class SigmoidMask(nn.Module):
    """m = σ(l / T), a logit for each coordinate; T falls exponentially from 1 to 0.01.

    Args:
        size: coordinates.
        dtype: of the logits.
    """

    temperature: Tensor

    def __init__(self, size: int, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(size, dtype=dtype))
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self) -> Float[Tensor, "n"]:
        """Soft while training, zeros and ones otherwise."""
        if self.training:
            return torch.sigmoid(self.logits / self.temperature)
        return self.chosen().to(self.logits.dtype)

    def chosen(self) -> Bool[Tensor, "n"]:
        """Which coordinates are swapped, once training is over."""
        return self.logits.detach() > 0

    def anneal(self, progress: float) -> None:
        """Set the temperature for a share of the training in [0, 1]."""
        self.temperature.fill_(0.01**progress)


class BoundaryMask(nn.Module):
    """The first b of n coordinates: m_i = σ((b − i − ½) / T); T falls exponentially from n/16
    to 0.1, where it is after two thirds of the training, so that b can still settle.

    b = nσ(l), so that it stays between 0 and n wherever its logit l goes.

    Args:
        size: n.
        dtype: of the logit.
    """

    temperature: Tensor

    def __init__(self, size: int, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.size = size
        self.logit = nn.Parameter(torch.zeros((), dtype=dtype))
        self.register_buffer("temperature", torch.tensor(size / 16))

    def forward(self) -> Float[Tensor, "n"]:
        """Soft while training, zeros and ones otherwise."""
        if not self.training:
            return self.chosen().to(self.logit.dtype)
        return torch.sigmoid(self._ahead() / self.temperature)

    def chosen(self) -> Bool[Tensor, "n"]:
        """Which coordinates are swapped, once training is over."""
        return self._ahead().detach() > 0

    def _ahead(self) -> Float[Tensor, "n"]:
        """How far the boundary is ahead of the middle of each coordinate."""
        dtype = torch.promote_types(self.logit.dtype, torch.float32)
        places = torch.arange(self.size, device=self.logit.device, dtype=dtype) + 0.5
        return torch.sigmoid(self.logit.to(dtype)) * self.size - places

    def anneal(self, progress: float) -> None:
        """Set the temperature for a share of the training in [0, 1]."""
        begin = self.size / 16
        self.temperature.fill_(begin * (0.1 / begin) ** min(1.0, 1.5 * progress))


def check_sparsity(sparsity: int | float) -> None:
    """Raise unless a loss can grow by that.

    Raises:
        ValueError: it is negative, NaN or infinite.
    """
    if not sparsity >= 0:  # not so for NaN
        raise ValueError(f"sparsity must be at least 0, got {sparsity}")
    if sparsity == inf:
        raise ValueError("sparsity must be finite, got inf")


class LearnedMask:
    """What interventions share whose value has a mask that is trained, at a price.

    For subclasses of `Intervention`: they call `_set_sparsity` once they are built.
    """

    value: Value

    def _set_sparsity(self, sparsity: int | float) -> None:
        check_sparsity(sparsity)
        self.sparsity = sparsity

    @property
    def _mask(self) -> SigmoidMask | BoundaryMask:
        mask = self.value.mask
        assert isinstance(mask, SigmoidMask | BoundaryMask)
        return mask

    @property
    def chosen(self) -> Bool[Tensor, "n"]:
        """Which coordinates are swapped."""
        return self._mask.chosen()

    def anneal(self, progress: float) -> None:
        """See `Intervention.anneal`."""
        self._mask.anneal(progress)

    def penalty(self) -> Float[Tensor, ""]:
        """See `Intervention.penalty`."""
        return self.sparsity * self._mask().mean()

    def _chosen_of(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
        chosen = self.chosen
        if not chosen.any():
            raise ValueError(
                f"{type(self).__name__} swaps no coordinate, so it has no subspace; was sparsity "
                f"({self.sparsity}) too high?"
            )
        return rows[chosen]


class _Masked(LearnedMask, Set):
    """What masked interchanges of orthonormal coordinates share."""

    needs_source = True

    def __init__(
        self, rows: OrthonormalRows, mask: SigmoidMask | BoundaryMask, sparsity: int | float, **own
    ):
        super().__init__(rows, Mixed(mask), {"sparsity": sparsity, **own})
        self._set_sparsity(sparsity)

    @property
    def subspace(self) -> Subspace:
        """The span of the chosen coordinates.

        Raises:
            ValueError: none is chosen.
        """
        return Subspace(self._chosen_of(self.rows().detach()))

    @property
    def reads(self) -> Subspace | None:
        """The span of the chosen coordinates; None where none is chosen."""
        return self.subspace if self.chosen.any() else None


class MaskedInterchange(_Masked):
    """h + Rᵀ(m ⊙ (Rs − Rh)): coordinates of a given basis are swapped or are not.

    Desiderata-based masking (Davies et al. 2023, arXiv:2307.03637), as in RAVEL (Huang et al. 2024,
    arXiv:2402.17700): only the mask is learned.

    Args:
        basis: R. `Subspace(torch.eye(d))` for neurons, `Subspace.from_pca` for principal
            components, `Subspace.from_svd` for singular vectors.
        sparsity: the loss grows by this for a mask that is all ones.
        dtype: of the mask's logits.

    Raises:
        ValueError: negative sparsity.
    """

    def __init__(
        self,
        basis: Subspace,
        *,
        sparsity: int | float = 0.1,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(
            OrthonormalRows(basis, trainable=False, dtype=basis.basis.dtype),
            SigmoidMask(basis.rank, dtype=dtype),
            sparsity,
            rank=basis.rank,
            dtype=dtype,
        )

    @classmethod
    def _of_shape(cls, *, rank, width, **options):
        return cls(Subspace.random(width, rank, seed=0), **options)


class BoundlessInterchange(_Masked):
    """h + Rᵀ(m ⊙ (Rs − Rh)), R a learned rotation of the whole space and m its first b rows, b
    learned: boundless DAS (Wu et al. 2023, arXiv:2305.08809), which finds the dimension itself.

    Args:
        start: R to start from, of full rank.
        sparsity: the loss grows by this for a b that is the whole space.
        dtype: of R and of the boundary, whatever the model's dtype.

    Raises:
        ValueError: `start` is not of full rank, negative sparsity.
    """

    def __init__(
        self,
        start: Subspace,
        *,
        sparsity: int | float = 1.0,
        dtype: torch.dtype = torch.float32,
    ):
        if start.rank != start.width:
            raise ValueError(
                f"start must be of full rank ({start.width}), got rank {start.rank}: what is "
                "swapped is found among all directions"
            )
        super().__init__(
            OrthonormalRows(start, dtype=dtype),
            BoundaryMask(start.rank, dtype=dtype),
            sparsity,
            dtype=dtype,
        )

    @classmethod
    def _of_shape(cls, *, width, **options):
        return cls(Subspace.random(width, width, seed=0), **options)
