"""Ablations of a subspace: what h holds there becomes nothing, a mean, or another input's.

They are `Clamp` and `DistributedInterchange` with the value that gives each its name.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from reft_interp.interventions.interchange import DistributedInterchange
from reft_interp.interventions.steering import Clamp
from reft_interp.shapes import check_shape
from reft_interp.subspace import Subspace


class ZeroAblation(Clamp):
    """h − RᵀRh: the subspace is removed.

    Args:
        subspace: R.
    """

    def __init__(self, subspace: Subspace):
        super().__init__(subspace, subspace.basis.new_zeros(subspace.rank))

    @classmethod
    def _of_shape(cls, *, rank, width, **options):
        return cls(Subspace.random(width, rank, seed=0), **options)


class MeanAblation(Clamp):
    """h + RᵀR(μ − h): inside the subspace, h becomes the mean μ.

    Args:
        subspace: R.
        mean: μ, a mean activation of the same site.

    Raises:
        ValueError: the mean is no vector, or not as wide as the subspace.
    """

    def __init__(self, subspace: Subspace, mean: Float[Tensor, "d"]):
        check_shape("mean", mean, (subspace.width,), "the width of the subspace")
        super().__init__(subspace, subspace.coordinates(mean))

    @classmethod
    def _of_shape(cls, *, rank, width, **options):
        return cls(Subspace.random(width, rank, seed=0), torch.zeros(width), **options)


class ResampleAblation(DistributedInterchange):
    """h + Rᵀ(Rs − Rh) with s from an unrelated input: what the subspace carries is scrambled.

    Which input that is, is for the caller to say: as `sources` of the run.

    Args:
        subspace: R.
    """

    def __init__(self, subspace: Subspace):
        super().__init__(subspace, dtype=subspace.basis.dtype)

    @classmethod
    def _of_shape(cls, *, rank, width, **options):
        return cls(Subspace.random(width, rank, seed=0, dtype=options["dtype"]))
