"""Shapes of tensors that users give: torch would broadcast a wrong one, or say nothing of whose."""

from collections.abc import Sequence

from torch import Tensor


def check_shape(called: str, given: Tensor, expected: Sequence[int | str], why: str = "") -> None:
    """Raise unless a tensor has the expected shape.

    Args:
        called: the argument's name, for the message.
        given: the tensor.
        expected: the size of each axis; a letter for one of any size, as in `("n", 768)`.
        why: where the sizes come from, for the message.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape.
    """
    if not isinstance(given, Tensor):
        raise TypeError(f"{called} must be a tensor, as torch.as_tensor gives, got {given!r:.60}")
    shape = tuple(given.shape)
    if len(shape) != len(expected) or any(
        isinstance(wanted, int) and size != wanted
        for size, wanted in zip(shape, expected, strict=True)
    ):
        written = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
        reason = f", {why}" if why else ""
        raise ValueError(f"{called} must have shape ({written}){reason}, got {shape}")
