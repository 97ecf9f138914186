"""Interchange interventions: the new value comes from another run of the same model.

Learned maps of h itself are in `reft`, constants in `steering` and `ablation`. Where and when
these modules run is for `runtime` to say.
"""

import torch

from reft_interp.interventions.edits import Add, Set, WholeSpace
from reft_interp.interventions.rows import OrthonormalRows
from reft_interp.interventions.values import ChangeToSource, OfSource
from reft_interp.subspace import Subspace


class Interchange(WholeSpace):
    """Swap the whole vector: h ← s.

    The interchange intervention of Geiger et al. 2021 (arXiv:2106.02997), also called
    activation patching.

    Args:
        width: width of the activations; a template without it.
    """

    needs_source = True

    def __init__(self, width: int | None = None):
        super().__init__(width)

    def forward(self, base, source=None):
        self.check_input(base, source)
        assert source is not None  # check_input let none through
        return source.to(base.dtype)


class DistributedInterchange(Set):
    """Swap what the base run holds inside a subspace for what the source run holds.

    h ← h + Rᵀ(Rs − Rh): equation 1 of Wu et al. 2024 (arXiv:2404.03592); trained for
    a causal variable it is DAS (Geiger et al. 2023, arXiv:2303.02536).

    Args:
        subspace: r orthonormal directions of R^d: where the swap happens, or starts to.
        trainable: learn the directions. `self.subspace` always gives the present ones.
        dtype: of the directions, whatever the model's dtype.
    """

    needs_source = True

    def __init__(
        self,
        subspace: Subspace,
        *,
        trainable: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(
            OrthonormalRows(subspace, trainable=trainable, dtype=dtype),
            OfSource(),
            {"rank": subspace.rank, "trainable": trainable, "dtype": dtype},
        )

    @classmethod
    def _of_shape(cls, *, rank, width, **options):
        return cls(Subspace.random(width, rank, seed=0), **options)


class PlaceboInterchange(Add):
    """What an interchange in R would change, along other directions: h + Dᵀ(Rs − Rh).

    As D and R have orthonormal rows, h moves exactly as far as under `DistributedInterchange`. A
    control: what this does, any change of that size does.

    Args:
        subspace: R, inside which the interchange would happen.
        along: D, of the same rank, along which h moves instead.

    Raises:
        ValueError: the two have other ranks or widths.
    """

    needs_source = True

    def __init__(self, subspace: Subspace, along: Subspace):
        if (subspace.rank, subspace.width) != (along.rank, along.width):
            raise ValueError(
                f"along must have the rank and width of the subspace ({subspace.rank}, "
                f"{subspace.width}), got ({along.rank}, {along.width})"
            )
        super().__init__(
            OrthonormalRows(along, trainable=False, dtype=along.basis.dtype),
            ChangeToSource(subspace.basis),
            {"rank": subspace.rank},
        )

    @classmethod
    def _of_shape(cls, *, rank, width, **options):
        some = Subspace.random(width, rank, seed=0)
        return cls(some, some)
