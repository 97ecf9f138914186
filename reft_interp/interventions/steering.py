"""Steering: a given vector is added, or given coordinates are set. Nothing is learned.

Ablations, which set coordinates to nothing or to a mean, are in `ablation`.
"""

from math import isfinite
from typing import SupportsFloat

import torch
from jaxtyping import Float, Num
from torch import Tensor

from reft_interp.interventions.edits import Add, Set
from reft_interp.interventions.rows import GivenRows, OrthonormalRows
from reft_interp.interventions.values import Constant
from reft_interp.shapes import check_shape
from reft_interp.subspace import Subspace


class VectorAddition(Add):
    """h + αv: activation addition (Turner et al. 2023, arXiv:2308.10248), also called steering.

    Args:
        vector: v, a direction of any length, kept in float32 or better.
        strength: α, any number.

    Raises:
        ValueError: the vector is no vector, is zero or has values that are not finite; the
            strength is not finite.
    """

    def __init__(self, vector: Num[Tensor, "d"], *, strength: SupportsFloat = 1.0):
        check_shape("vector", vector, ("d",))
        if bad := int((~torch.isfinite(vector)).sum()):
            raise ValueError(
                f"vector must be finite and not zero, got one with {bad} of {len(vector)} numbers "
                "that are NaN or infinite"
            )
        if not vector.any():
            raise ValueError(f"vector must be finite and not zero, got {len(vector)} zeros")
        if not isfinite(strength):
            raise ValueError(f"strength must be finite, got {strength}")
        # Whole numbers and half precisions have no room for most strengths.
        vector = vector.to(torch.promote_types(vector.dtype, torch.float32))
        super().__init__(
            GivenRows(vector[None]),
            Constant(vector.new_tensor([float(strength)])),
            {"strength": float(strength)},
        )

    @classmethod
    def _of_shape(cls, *, width, **options):
        return cls(torch.ones(width), **options)


class Clamp(Set):
    """h + Rᵀ(c − Rh): the coordinates of h in the subspace become c.

    Args:
        subspace: R.
        coordinates: c, one for each row of R.

    Raises:
        ValueError: coordinates are no vector of as many as there are directions.
    """

    def __init__(self, subspace: Subspace, coordinates: Float[Tensor, "r"]):
        check_shape(
            "coordinates", coordinates, (subspace.rank,), "one for each direction of the subspace"
        )
        super().__init__(
            OrthonormalRows(subspace, trainable=False, dtype=subspace.basis.dtype),
            Constant(coordinates),
            {"rank": subspace.rank},
        )

    @classmethod
    def _of_shape(cls, *, rank, width, **options):
        return cls(Subspace.random(width, rank, seed=0), torch.zeros(rank), **options)
