"""What an edit puts into its coordinates: of the source, affine in h, or constant.

A value says what the coordinates become (`forward`), how far that is from what they are
(`change`, for edits that set), and along which directions it looks at h (`reads`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from reft_interp.rounding import in_float64


class Value(nn.Module):
    """Coordinates as a function of h, and of the source where there is one."""

    def forward(
        self,
        h: Float[Tensor, "*batch d"],
        source: Float[Tensor, "*batch d"] | None,
        rows: Float[Tensor, "r d"],
    ) -> Float[Tensor, "*batch r"]:
        """The coordinates v along `rows`."""
        raise NotImplementedError

    def change(
        self,
        h: Float[Tensor, "*batch d"],
        source: Float[Tensor, "*batch d"] | None,
        rows: Float[Tensor, "r d"],
    ) -> Float[Tensor, "*batch r"]:
        """v − Rh: how far the coordinates have to move to become v."""
        return self(h, source, rows) - h @ rows.T

    def reads(self, subtracted: Float[Tensor, "r d"] | None) -> Float[Tensor, "k d"] | None:
        """Directions of h on which the edit depends.

        Args:
            subtracted: R for an edit that sets (it subtracts Rh), None for one that adds.
        """
        raise NotImplementedError


class OfSource(Value):
    """v = Rs: what the source run holds."""

    def forward(self, h, source, rows):
        assert source is not None  # Intervention.check_input lets none through
        return source @ rows.T

    def change(self, h, source, rows):
        assert source is not None
        # The difference first: one projection, and s = h gives exactly no change.
        return (source - h) @ rows.T

    def reads(self, subtracted):
        return subtracted


class ChangeToSource(Value):
    """v = Rs − Rh: what an interchange inside R would change, for edits that add it elsewhere.

    Args:
        rows: R.
    """

    rows: Tensor

    def __init__(self, rows: Float[Tensor, "r d"]):
        super().__init__()
        self.register_buffer("rows", rows.detach().clone())

    def forward(self, h, source, rows):
        assert source is not None  # Intervention.check_input lets none through
        return (source - h) @ self.rows.to(h.dtype).T

    def reads(self, subtracted):
        return self.rows


class Mixed(Value):
    """v = m ⊙ Rs + (1 − m) ⊙ Rh: of each coordinate, a share of the source's.

    Args:
        mask: gives m, one number a coordinate.
    """

    def __init__(self, mask: nn.Module):
        super().__init__()
        self.mask = mask

    def forward(self, h, source, rows):
        return h @ rows.T + self.change(h, source, rows)

    def change(self, h, source, rows):
        assert source is not None  # Intervention.check_input lets none through
        return self.mask().to(h.dtype) * ((source - h) @ rows.T)

    def reads(self, subtracted):
        return subtracted


class Affine(Value):
    """v = f(Wh + b) − c, learned; f is the identity by default, c exists only where asked for.

    Args:
        weight: W to start from. b and c start at zero.
        activation: name of f in transformers' `ACT2FN`.
        offset: whether there is a c (pyreft's NoReFT has one, as the bias of its projection).
        dtype: of the parameters.

    Raises:
        ValueError: unknown activation.
    """

    def __init__(
        self,
        weight: Float[Tensor, "r d"],
        *,
        activation: str = "linear",
        offset: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        check_activation(activation)
        self.activation = activation
        self.weight = nn.Parameter(weight.to(dtype, copy=True).contiguous())
        self.bias = nn.Parameter(torch.zeros(len(weight), dtype=dtype, device=weight.device))
        self.offset = nn.Parameter(torch.zeros_like(self.bias)) if offset else None
        self._function = ACT2FN[activation]

    def forward(self, h, source, rows):
        v = self._function(h @ self.weight.to(h.dtype).T + self.bias.to(h.dtype))
        return v if self.offset is None else v - self.offset.to(h.dtype)

    def reads(self, subtracted):
        weight = self.weight.detach()
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if subtracted is None:
            return weight
        # v − Rh = (W − R)h + b where f is linear; W and W − R span what W and R do.
        difference = in_float64(weight) - in_float64(subtracted)
        _, values, directions = torch.linalg.svd(difference, full_matrices=False)
        # What rounding leaves of W = R is no direction; it is at most ε‖W‖.
        rounding = 2 * torch.finfo(self.weight.dtype).eps * weight.norm()
        kept = values[:, None] * directions
        kept = kept[values > rounding.to(values.device)].to(weight)
        return kept if self.activation == "linear" else torch.cat([weight, kept])


class Constant(Value):
    """v = c: the same for every h.

    Args:
        coordinates: c, or where it starts.
        trainable: whether c is a parameter; a buffer otherwise.
    """

    def __init__(self, coordinates: Float[Tensor, "r"], *, trainable: bool = False):
        super().__init__()
        if trainable:
            self.coordinates = nn.Parameter(coordinates.clone())
        else:
            self.register_buffer("coordinates", coordinates.clone())

    def forward(self, h, source, rows):
        c = self.coordinates.to(h.dtype)
        return c.expand(*h.shape[:-1], len(c))

    def reads(self, subtracted):
        return subtracted


def check_activation(name: str) -> None:
    """Raise unless transformers knows an activation of that name.

    Raises:
        ValueError: it does not; the message lists those that it knows.
    """
    if name not in ACT2FN:
        raise ValueError(f"activation must be one of {sorted(ACT2FN)}, got {name!r}")
