"""What of a matrix is more than rounding: finite numbers, and ranks at their own precision."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reft_interp.shapes import check_shape


def numerical_rank(matrix: Float[Tensor, "r d"], called: str = "matrix") -> int:
    """How many singular values stand above rounding at the matrix's own precision.

    The threshold is NumPy's, largest singular value times max(r, d) times epsilon; for half
    precisions, where that can exceed 1, epsilon times the Frobenius norm, a bound on rounding.

    Args:
        matrix: what is asked about.
        called: the argument's name, for messages.

    Raises:
        ValueError: the matrix is none, or has values that are not finite.
    """
    check_shape(called, matrix, ("r", "d"))
    check_finite(called, matrix)
    values = torch.linalg.svdvals(in_float64(matrix.detach()))
    if values.numel() == 0:
        return 0
    given = matrix.dtype if matrix.is_floating_point() else torch.float64
    computed = torch.promote_types(given, torch.float32)
    threshold = max(
        values[0] * max(matrix.shape) * torch.finfo(computed).eps,
        values.norm() * torch.finfo(given).eps,
    )
    return int((values > threshold).sum())


def check_finite(called: str, matrix: Float[Tensor, "r d"]) -> None:
    """Raise where a number is infinite or NaN.

    Args:
        called: the argument's name, for the message.
        matrix: what is asked about.

    Raises:
        ValueError: it has one; the message says how many, and the first row.
    """
    bad = ~torch.isfinite(matrix)
    if bad.any():
        rows = bad.any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"{called} must be finite, got {int(bad.sum())} of {bad.numel()} numbers that are not "
            f"finite, the first in row {rows[0]}"
        )


def in_float64(tensor: Tensor) -> Tensor:
    """In float64, and on the CPU where the device (mps) has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def within_rounding(
    change: Float[Tensor, "m d"], values: Float[Tensor, "n d"], dtype: torch.dtype
) -> Bool[Tensor, "d"]:
    """Which columns change by no more than `dtype` rounds values as large as theirs."""
    return change.abs().amax(0) <= torch.finfo(dtype).eps * values.abs().amax(0)
