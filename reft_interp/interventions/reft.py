"""Representation finetuning (ReFT): the new value is learned, a map of h or a constant.

All of Wu et al. 2024, "ReFT: Representation Finetuning for Language Models"
(arXiv:2404.03592), and the variants of its code, pyreft. Values from another run are in
`interchange`; `interop.pyreft` reads pyreft's own folders.

Every class but ConsReFT starts as the identity (W = R and b = 0 where the edit sets, W = 0
and b = 0 where it adds), so that training starts at the untouched model; pyreft starts from a
random W. This is exact in float32 and float64 (half precision cannot hold W = R), and for a
linear activation (with another f, an edit starts at f(Rh) − Rh or f(0)). Dropout falls on the
edit; pyreft's falls on the edited h, which zeroes activations of the base model too.

All take `rank` (how many directions are learned), `width` (of the activations; without it the
object is a template, see `Intervention`), `start` (the subspace to start from; random by
default, from torch's generator), and `dtype` (of the parameters: float32 by default, also
under a bfloat16 model). All raise ValueError where neither rank nor start is given, where they
contradict each other, where rank exceeds width, and for an unknown activation.
"""

from typing import SupportsIndex

import torch

from reft_interp.interventions.edits import Add, Set
from reft_interp.interventions.rows import FreeRows, OrthonormalRows
from reft_interp.interventions.values import Affine, Constant
from reft_interp.subspace import Subspace, check_rank


def _begin(
    rank: SupportsIndex | None, width: int | None, start: Subspace | None, dtype: torch.dtype
) -> tuple[int, Subspace | None]:
    """The rank, and where the rows begin; no subspace for a template."""
    if start is not None:
        if rank not in (None, start.rank) or width not in (None, start.width):
            raise ValueError(
                f"start has rank {start.rank} and width {start.width}, but rank={rank} and "
                f"width={width} were given"
            )
        return start.rank, start
    if rank is None:
        raise ValueError("give rank=, how many directions to learn, or start=, a Subspace")
    rank = check_rank(rank)
    if width is None:
        return rank, None
    seed = int(torch.randint(2**31, ()))
    return rank, Subspace.random(width, rank, seed=seed, dtype=dtype)


class LoReFT(Set):
    """Low-rank linear subspace ReFT: h + Rᵀ(Wh + b − Rh), the rows of R orthonormal.

    Equation 2 of Wu et al. 2024. A distributed interchange whose source is learned: inside
    the row space of R, what h holds becomes Wh + b.

    Args:
        rank: r, how many directions are learned.
        width: d, the width of the activations; without it a template.
        start: the subspace that R starts from.
        activation: of Wh + b, a name in transformers' `ACT2FN`; the paper's is linear.
        dropout: probability with which a component of the edit is dropped in training (pyreft
            drops those of the whole edited h).
        dtype: of the parameters.
    """

    def __init__(
        self,
        rank: SupportsIndex | None = None,
        width: int | None = None,
        *,
        start: Subspace | None = None,
        activation: str = "linear",
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        rank, begin = _begin(rank, width, start, dtype)
        rows = begin and OrthonormalRows(begin, dtype=dtype)
        super().__init__(
            rows,
            # R as it is used, not as it was given: so Wh − Rh starts at exactly 0.
            rows and Affine(rows().detach(), activation=activation, dtype=dtype),
            {"rank": rank, "activation": activation, "dropout": dropout, "dtype": dtype},
        )


class NoReFT(Set):
    """LoReFT without orthonormal rows: h + W₂ᵀ(W₁h + b − W₂h), so no projection.

    pyreft's NoreftIntervention.

    Args:
        rank: r, how many directions are learned.
        width: d, the width of the activations; without it a template.
        start: the subspace that W₁ and W₂ start from.
        activation: of W₁h + b.
        offset: subtract a learned c beside W₂h, as pyreft does with the bias of its
            projection. With a linear activation it says nothing that b does not.
        dropout: probability with which a component of the edit is dropped in training (pyreft
            drops those of the whole edited h).
        dtype: of the parameters.
    """

    def __init__(
        self,
        rank: SupportsIndex | None = None,
        width: int | None = None,
        *,
        start: Subspace | None = None,
        activation: str = "linear",
        offset: bool = False,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        rank, begin = _begin(rank, width, start, dtype)
        super().__init__(
            begin and FreeRows(begin.basis, dtype=dtype),
            begin and Affine(begin.basis, activation=activation, offset=offset, dtype=dtype),
            {
                "rank": rank,
                "activation": activation,
                "offset": offset,
                "dropout": dropout,
                "dtype": dtype,
            },
        )


class ConsReFT(Set):
    """A learned constant inside a learned subspace: h + Rᵀ(c − Rh).

    pyreft's ConsreftIntervention. It starts at c = 0, which removes the subspace.

    Args:
        rank: r, how many directions are learned.
        width: d, the width of the activations; without it a template.
        start: the subspace that R starts from.
        dropout: probability with which a component of the edit is dropped in training.
        dtype: of the parameters.
    """

    def __init__(
        self,
        rank: SupportsIndex | None = None,
        width: int | None = None,
        *,
        start: Subspace | None = None,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        rank, begin = _begin(rank, width, start, dtype)
        super().__init__(
            begin and OrthonormalRows(begin, dtype=dtype),
            begin and Constant(torch.zeros(rank, dtype=dtype), trainable=True),
            {"rank": rank, "dropout": dropout, "dtype": dtype},
        )


class DiReFT(Add):
    """Direct ReFT: h + W₂ᵀ(W₁h + b), LoReFT without orthonormality and without the difference.

    Equation 3 of Wu et al. 2024. pyreft calls it NodireftIntervention; with `orthonormal`
    rows in place of W₂ it is pyreft's DireftIntervention.

    Args:
        rank: r, how many directions are learned.
        width: d, the width of the activations; without it a template.
        start: the subspace that W₂ starts from; W₁ starts at zero.
        orthonormal: keep the rows of W₂ orthonormal.
        activation: of W₁h + b.
        dropout: probability with which a component of the edit is dropped in training (pyreft
            drops those of the whole edited h).
        dtype: of the parameters.
    """

    def __init__(
        self,
        rank: SupportsIndex | None = None,
        width: int | None = None,
        *,
        start: Subspace | None = None,
        orthonormal: bool = False,
        activation: str = "linear",
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        rank, begin = _begin(rank, width, start, dtype)
        rows = value = None
        if begin is not None:
            rows = (
                OrthonormalRows(begin, dtype=dtype)
                if orthonormal
                else FreeRows(begin.basis, dtype=dtype)
            )
            value = Affine(torch.zeros_like(begin.basis), activation=activation, dtype=dtype)
        super().__init__(
            rows,
            value,
            {
                "rank": rank,
                "orthonormal": orthonormal,
                "activation": activation,
                "dropout": dropout,
                "dtype": dtype,
            },
        )


NodiReFT = DiReFT
"""pyreft's name for DiReFT as the paper has it: with a free W₂."""


class LobiReFT(Add):
    """A learned bias along learned directions: h + Rᵀb, the same for every h.

    pyreft's LobireftIntervention.

    Args:
        rank: r, how many directions are learned.
        width: d, the width of the activations; without it a template.
        start: the subspace that R starts from.
        dropout: probability with which a component of the edit is dropped in training (pyreft
            drops those of the whole edited h).
        dtype: of the parameters.
    """

    def __init__(
        self,
        rank: SupportsIndex | None = None,
        width: int | None = None,
        *,
        start: Subspace | None = None,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        rank, begin = _begin(rank, width, start, dtype)
        super().__init__(
            begin and OrthonormalRows(begin, dtype=dtype),
            begin and Constant(torch.zeros(rank, dtype=dtype), trainable=True),
            {"rank": rank, "dropout": dropout, "dtype": dtype},
        )
