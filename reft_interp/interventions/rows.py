"""The directions inside an intervention: rows that stay orthonormal, are free, or are given.

`Subspace` is the value that they start from and are handed out as. `edits` uses them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reft_interp.rounding import in_float64
from reft_interp.subspace import Subspace


class OrthonormalRows(nn.Module):
    """r rows in R^d that stay orthonormal while an optimiser moves them freely.

    R = L⁻¹A, where A: r×d is the free parameter and L the Cholesky factor of AAᵀ = LLᵀ.
    Then RRᵀ = L⁻¹LLᵀL⁻ᵀ = I for any A of full rank: there is no drift to repair, the row
    space is that of A, and A = R gives R itself, so training starts exactly where it is told.
    One call costs O(r²d), against O(d³) for a matrix exponential or a d×d rotation, and its
    gradient exists at A = R, where (AAᵀ)^(−½)A by eigh or svd has none: all eigenvalues are 1
    there. The linear algebra runs in float64: an ill-conditioned A (rank near d, many steps)
    costs cond(A)² of the precision, and in float32 the rows would cease to be orthonormal.

    Args:
        start: the rows to start from.
        trainable: whether A is a parameter; a buffer otherwise, which is given out as it is
            unless a half precision rounded it.
        dtype: of A.
        outside: what the rows stay orthogonal to: A is projected on its complement first.
    """

    outside: Tensor | None

    def __init__(
        self,
        start: Subspace,
        *,
        trainable: bool = True,
        dtype: torch.dtype = torch.float32,
        outside: Subspace | None = None,
    ):
        super().__init__()
        self.register_buffer("outside", None if outside is None else outside.basis.clone())
        matrix = start.basis.to(dtype, copy=True)
        if trainable:
            self.matrix = nn.Parameter(matrix)
        else:
            self.register_buffer("matrix", matrix)

    def forward(self) -> Float[Tensor, "r d"]:
        """The rows R, in float32 or better."""
        dtype = torch.promote_types(self.matrix.dtype, torch.float32)
        if not isinstance(self.matrix, nn.Parameter) and self.matrix.dtype == dtype:
            return self.matrix
        matrix = in_float64(self.matrix)
        with torch.autocast(matrix.device.type, enabled=False):
            if self.outside is not None:
                kept_out = self.outside.to(matrix)
                matrix = matrix - matrix @ kept_out.T @ kept_out
            lower = torch.linalg.cholesky(matrix @ matrix.T)
            rows = torch.linalg.solve_triangular(lower, matrix, upper=False)
        return rows.to(dtype).to(self.matrix.device).contiguous()


class PartOfRows(nn.Module):
    """Some of the rows of others, which stay orthogonal to the rest while all are trained.

    Its state is its own rows as they are, in the form of an `OrthonormalRows` of its own: what is
    saved can do without the other parts.

    Args:
        whole: the rows of all parts, which share them.
        start: the first of this part.
        stop: one past its last.
    """

    def __init__(self, whole: OrthonormalRows, start: int, stop: int):
        super().__init__()
        self.whole = whole
        self._part = slice(start, stop)
        self.register_state_dict_post_hook(_keep_own_rows)
        self.register_load_state_dict_pre_hook(_put_own_rows)

    @property
    def matrix(self) -> Float[Tensor, "r d"]:
        """This part of the free parameter."""
        return self.whole.matrix[self._part]

    def forward(self) -> Float[Tensor, "r d"]:
        """The rows of this part, in float32 or better."""
        return self.whole()[self._part]


def _keep_own_rows(part: PartOfRows, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}whole.")]:
        del state[name]
    state[f"{prefix}matrix"] = part().detach().to(part.whole.matrix.dtype)


def _put_own_rows(part: PartOfRows, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    own = state.pop(f"{prefix}matrix", None)
    if own is None:
        return  # torch says what is missing
    matrix = part.whole.matrix.detach().clone()
    matrix[part._part] = own.to(matrix)
    state[f"{prefix}whole.matrix"] = matrix
    if part.whole.outside is not None:
        state[f"{prefix}whole.outside"] = part.whole.outside


class FreeRows(nn.Module):
    """r trained rows in R^d under no constraint: what is written along them is no projection.

    Args:
        start: the rows to start from.
        dtype: of the parameter.
    """

    def __init__(self, start: Float[Tensor, "r d"], *, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.matrix = nn.Parameter(start.to(dtype, copy=True).contiguous())

    def forward(self) -> Float[Tensor, "r d"]:
        """The rows, in float32 or better."""
        return self.matrix.to(torch.promote_types(self.matrix.dtype, torch.float32))


class GivenRows(nn.Module):
    """r rows in R^d that are neither trained nor orthonormal: a steering vector, a decoder."""

    matrix: Tensor

    def __init__(self, rows: Float[Tensor, "r d"]):
        super().__init__()
        self.register_buffer("matrix", rows.detach().clone())

    def forward(self) -> Float[Tensor, "r d"]:
        """The rows."""
        return self.matrix
