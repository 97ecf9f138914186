"""Linear subspaces of an activation space, as values.

A `Subspace` is what an intervention edits, what a probe reads, and what two studies compare.
It holds no gradient: rows that are trained live inside an intervention (`interventions.rows`),
start from a `Subspace` and are handed out as one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reft_interp.rounding import check_finite, in_float64, numerical_rank, within_rounding
from reft_interp.saved_files import read_metadata, read_numbers, reading, write_tensors
from reft_interp.shapes import check_shape
from reft_interp.whole_files import replacing
from reft_interp.whole_numbers import whole_number

# Rows written in float32 and orthonormalised there are off by a few 1e-7 in each inner product.
_TOLERANCE = 1e-4
_FORMAT = "Subspace 1"


def check_rank(rank: SupportsIndex, called: str = "rank") -> int:
    """The rank as an int, if it can be that of some subspace.

    Args:
        rank: what was given.
        called: the argument's name, for the message.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is below 1.
    """
    whole = whole_number(rank, f"{called} must be a whole number, got {rank!r}")
    if whole < 1:
        raise ValueError(f"{called} must be at least 1, got {rank}")
    return whole


@dataclass(frozen=True, eq=False, repr=False)
class Subspace:
    """The span of r orthonormal rows in R^d.

    Args:
        basis: the rows. Use `from_matrix` for rows that are not orthonormal.

    Raises:
        ValueError: `basis` is no matrix, has more rows than columns, no rows, values that are
            not finite, or rows that are not orthonormal.
    """

    basis: Float[Tensor, "r d"]

    def __post_init__(self):
        check_shape("basis", self.basis, ("r", "d"))
        basis = self.basis.detach()
        r, d = basis.shape
        if not 1 <= r <= d:
            raise ValueError(f"basis must have between 1 and {d} rows (its width), got {r}")
        if not basis.is_floating_point():
            raise ValueError(f"basis must be floating point, got {basis.dtype}")
        check_finite("basis", basis)
        wide = basis.to(torch.promote_types(basis.dtype, torch.float32))
        error = (wide @ wide.T - torch.eye(r, dtype=wide.dtype, device=wide.device)).abs().max()
        if error > _TOLERANCE:
            raise ValueError(
                f"basis must have orthonormal rows: their inner products are off by {error:.1e}. "
                "Subspace.from_matrix orthonormalises."
            )
        # A copy, so that nobody's in-place change reaches the value.
        object.__setattr__(self, "basis", wide.clone(memory_format=torch.contiguous_format))

    @property
    def rank(self) -> int:
        """How many directions the subspace has."""
        return self.basis.shape[0]

    @property
    def width(self) -> int:
        """The dimension of the space around it."""
        return self.basis.shape[1]

    def __repr__(self) -> str:
        return f"Subspace(rank={self.rank}, width={self.width})"

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "r d"]) -> "Subspace":
        """The row space of `matrix`: its first row keeps its direction, and so on (QR).

        Raises:
            ValueError: `matrix` is no matrix, or its rows are linearly dependent at their precision
                (the message says the numerical rank), or not finite.
        """
        rank = numerical_rank(matrix)
        if rank < matrix.shape[0]:
            raise ValueError(
                f"matrix has {matrix.shape[0]} rows but rank {rank}: its rows are linearly "
                "dependent. Give fewer rows, or Subspace.spanned_by for what they span."
            )
        # float64: the value is computed once and then relied on.
        q, upper = torch.linalg.qr(in_float64(matrix.detach()).T)
        q = q * torch.sign(torch.diagonal(upper))
        return cls(_stored_like(matrix, q.T))

    @classmethod
    def spanned_by(cls, matrix: Float[Tensor, "r d"]) -> "Subspace | None":
        """The row space of `matrix` at its numerical rank; None where that rank is 0.

        Raises:
            ValueError: `matrix` is no matrix, or has values that are not finite.
        """
        rank = numerical_rank(matrix)
        if rank == 0:
            return None
        _, _, v = torch.linalg.svd(in_float64(matrix.detach()), full_matrices=False)
        return cls(_stored_like(matrix, v[:rank]))

    @classmethod
    def random(
        cls, width: int, rank: int, *, seed: int, dtype: torch.dtype = torch.float32
    ) -> "Subspace":
        """Drawn uniformly from all subspaces of that rank (the Haar measure), float32 at least.

        Raises:
            TypeError: rank or seed is not a whole number.
            ValueError: rank is not between 1 and width.
        """
        if check_rank(rank) > width:
            raise ValueError(f"rank must be between 1 and {width} (the width), got {rank}")
        seed = whole_number(seed, f"seed must be a whole number, got {seed!r}")
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(rank, width, generator=generator, dtype=torch.float64)
        return cls(cls.from_matrix(rows).basis.to(torch.promote_types(dtype, torch.float32)))

    @classmethod
    def from_pca(cls, activations: Float[Tensor, "n d"], rank: int) -> "Subspace":
        """The first `rank` principal components of `activations`, centred.

        Raises:
            TypeError: rank is not a whole number.
            ValueError: activations are no matrix, are not finite, or rank is not between 1 and the
                rank of the centred activations.
        """
        check_shape("activations", activations, ("n", "d"))
        if len(activations) < 2:
            raise ValueError(f"activations must have at least 2 rows, got {len(activations)}")
        values = in_float64(activations.detach())
        centred = values - values.mean(0)
        # What the mean leaves of rows that are all alike is rounding, not a component.
        constant = within_rounding(centred, values, activations.dtype).all()
        available = 0 if constant else numerical_rank(centred, "activations")
        if check_rank(rank) > available:
            raise ValueError(
                f"rank must be between 1 and {available} (the rank of the centred "
                f"activations, {tuple(activations.shape)}), got {rank}"
            )
        _, _, v = torch.linalg.svd(centred, full_matrices=False)
        return cls(_stored_like(activations, v[:rank]))

    @classmethod
    def from_svd(cls, activations: Float[Tensor, "n d"], rank: int) -> "Subspace":
        """The first `rank` right singular vectors of `activations` as they are: unlike
        `from_pca`, the direction of their mean is among what they vary along.

        Raises:
            TypeError: rank is not a whole number.
            ValueError: activations are no matrix, are not finite, or rank is not between 1 and the
                rank of the activations.
        """
        available = numerical_rank(activations, "activations")
        if check_rank(rank) > available:
            raise ValueError(
                f"rank must be between 1 and {available} (the rank of the activations, "
                f"{tuple(activations.shape)}), got {rank}"
            )
        _, _, v = torch.linalg.svd(in_float64(activations.detach()), full_matrices=False)
        return cls(_stored_like(activations, v[:rank]))

    @classmethod
    def from_difference_of_means(
        cls, positive: Float[Tensor, "n d"], negative: Float[Tensor, "m d"]
    ) -> "Subspace":
        """The line from the mean of `negative` to the mean of `positive`.

        Raises:
            ValueError: one side has no rows or is no matrix, their widths differ, or the means
                coincide.
        """
        check_shape("positive", positive, ("n", "d"))
        check_shape("negative", negative, ("m", positive.shape[1]), "as wide as `positive`")
        if not len(positive) or not len(negative):
            raise ValueError(
                f"positive and negative need a row each, got {len(positive)} and {len(negative)}"
            )
        above, below = in_float64(positive.detach()), in_float64(negative.detach())
        difference = above.mean(0) - below.mean(0)
        if within_rounding(difference[None], torch.cat([above, below]), positive.dtype).all():
            raise ValueError(
                f"the means of `positive` ({len(positive)} rows) and `negative` ({len(negative)}) "
                "coincide up to rounding, so that there is no direction from one to the other"
            )
        return cls(_stored_like(positive, cls.from_matrix(difference[None]).basis))

    def coordinates(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch r"]:
        """Rh: the coordinates of h in this basis, computed in float32 at least.

        Raises:
            TypeError: h is no tensor, or of whole numbers.
            ValueError: h of another width.
        """
        return self._coordinates(h).to(h.dtype)

    def project(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """RᵀRh: the part of h inside the subspace, computed in float32 at least.

        Raises:
            TypeError: h is no tensor, or of whole numbers.
            ValueError: h of another width.
        """
        return self._projected(h).to(h.dtype)

    def remove(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """h − RᵀRh: the part of h outside the subspace, computed in float32 at least.

        Raises:
            TypeError: h is no tensor, or of whole numbers.
            ValueError: h of another width.
        """
        return (h - self._projected(h)).to(h.dtype)

    def complement(self) -> "Subspace":
        """All that is orthogonal to the subspace, of rank width − rank.

        Raises:
            ValueError: the subspace is the whole space.
        """
        if self.rank == self.width:
            raise ValueError("a subspace that is the whole space has no complement")
        q, _ = torch.linalg.qr(in_float64(self.basis).T, mode="complete")
        return Subspace(_stored_like(self.basis, q[:, self.rank :].T))

    def union(self, *others: "Subspace") -> "Subspace":
        """The smallest subspace that holds this one and the others."""
        for other in others:
            self._check_same_space(other)
        bases = [s.basis for s in (self, *others)]
        # What two of them share agrees to the precision of the coarser one.
        coarsest = max((b.dtype for b in bases), key=lambda dtype: torch.finfo(dtype).eps)
        stacked = torch.cat([in_float64(b).cpu() for b in bases])
        joined = Subspace.spanned_by(stacked.to(coarsest))
        assert joined is not None  # orthonormal rows span something
        return joined.to(self.basis.device)

    def principal_angles(self, other: "Subspace") -> np.ndarray:
        """Angles between the two, in degrees, ascending: as many as the smaller rank.

        By Knyazev and Argentati (2002, SIAM J. Sci. Comput. 23:2008): cosines where they are
        small, sines where the cosine is near 1 and would lose half the digits.

        Raises:
            ValueError: the subspaces live in spaces of different width.
        """
        self._check_same_space(other)
        small, large = sorted((self, other), key=lambda s: s.rank)
        a, b = in_float64(small.basis).cpu(), in_float64(large.basis).cpu()
        inner = a @ b.T
        cosines = torch.linalg.svdvals(inner).clamp(0, 1)
        sines = torch.linalg.svdvals(a - inner @ b).clamp(0, 1).flip(0)
        radians = torch.where(cosines > 0.5**0.5, torch.asin(sines), torch.acos(cosines))
        return torch.rad2deg(radians).numpy()

    def overlap(self, other: "Subspace") -> float:
        """Mean squared cosine of the principal angles, in [0, 1].

        Two random subspaces of ranks p ≤ q in R^d have q/d on average.
        """
        return float(np.mean(np.cos(np.deg2rad(self.principal_angles(other))) ** 2))

    def to(self, device: torch.device | str) -> "Subspace":
        """The same subspace on another device."""
        return Subspace(self.basis.to(device))

    def save(self, path: str | Path) -> None:
        """Write the basis to one safetensors file, which is there whole or not at all.

        Raises:
            OSError: it cannot be written; what was there before stays.
        """
        with replacing(Path(path)) as beside:
            write_tensors({"basis": self.basis.cpu()}, beside, {"format": _FORMAT})

    @classmethod
    def load(cls, path: str | Path) -> "Subspace":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds no subspace, or is of another format.
        """
        path = Path(path)
        tensors = read_numbers(path)
        if "basis" not in tensors:
            raise ValueError(f"{path} holds no subspace: no tensor named 'basis'")
        if (found := read_metadata(path).get("format")) != _FORMAT:
            raise ValueError(f"{path} has format {found!r}; this version reads {_FORMAT!r}")
        with reading(path, "basis"):
            return cls(tensors["basis"])

    def _coordinates(self, h: Tensor) -> Tensor:
        if not isinstance(h, Tensor):
            raise TypeError(
                f"activations must be a tensor, as torch.as_tensor gives, got {type(h).__name__}"
            )
        self._check_width(h)
        if not h.is_floating_point():
            raise TypeError(f"activations must be floating point numbers, got {h.dtype}")
        precise = torch.promote_types(h.dtype, torch.float32)
        return h.to(precise) @ self.basis.to(h.device, precise).T

    def _projected(self, h: Tensor) -> Tensor:
        coordinates = self._coordinates(h)
        return coordinates @ self.basis.to(h.device, coordinates.dtype)

    def _check_width(self, h: Tensor) -> None:
        if h.shape[-1] != self.width:
            raise ValueError(
                f"activations are {h.shape[-1]} wide, but the subspace lives in R^{self.width}. "
                "Was it found on another model or site?"
            )

    def _check_same_space(self, other: "Subspace") -> None:
        if self.width != other.width:
            raise ValueError(
                f"the subspaces live in spaces of different width: {self.width} and {other.width}"
            )


def _stored_like(tensor: Tensor, basis: Tensor) -> Tensor:
    """`basis` where `tensor` is and as precise, but in float32 at least."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return basis.to(dtype).to(tensor.device)


def expected_overlap(p: int, q: int, width: int) -> float:
    """What `Subspace.overlap` is on average between random subspaces of two ranks in R^width.

    E‖R₁R₂ᵀ‖² = pq/d for independent Haar subspaces of ranks p and q, divided by min(p, q).

    Args:
        p: the rank of one.
        q: the rank of the other.
        width: d.

    Raises:
        TypeError: a rank is not a whole number.
        ValueError: a rank is not between 1 and width.
    """
    for called, rank in (("p", p), ("q", q)):
        if check_rank(rank, called) > width:
            raise ValueError(f"{called} must be between 1 and {width} (the width), got {rank}")
    return max(p, q) / width
