"""The two verbs: set the coordinates of h inside a subspace, or add along directions.

Every intervention but the whole-vector interchange is a verb applied to a value (`values`)
along rows (`rows`). The named classes are in `interchange`, `reft`, `steering`, `ablation`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reft_interp.interventions.rows import FreeRows, GivenRows, OrthonormalRows, PartOfRows
from reft_interp.interventions.values import Value, check_activation
from reft_interp.subspace import Subspace

Rows = OrthonormalRows | PartOfRows | FreeRows | GivenRows


class Intervention(nn.Module):
    """A map from activations to activations, with the subspace that it reads and writes.

    `LoReFT(rank=4)` does not know yet how wide the activations are: it is a template, and
    `for_width` makes an intervention of it. Placing a template at a site does that.

    Args:
        width: of the activations; None for a template.
        arguments: what else `from_arguments` needs, by name.

    Raises:
        ValueError: a width below 1.
    """

    needs_source: bool = False
    """Whether `forward` takes the activations of a source run."""
    width: int | None
    """Width of the activations that are edited; None for a template."""

    def __init__(self, width: int | None, arguments: Mapping[str, Any] | None = None):
        super().__init__()
        if width is not None and width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = width
        self._arguments = dict(arguments or {})

    def forward(
        self,
        base: Float[Tensor, "*batch d"],
        source: Float[Tensor, "*batch d"] | None = None,
    ) -> Float[Tensor, "*batch d"]:
        """The edited activations.

        Args:
            base: activations of the run that is edited.
            source: activations of the run that is read, aligned with `base`.

        Raises:
            ValueError: `base` or `source` is not as wide as the intervention, or a source is
                missing, superfluous or of another shape.
        """
        raise NotImplementedError

    @property
    def subspace(self) -> Subspace:
        """The row space of what is written.

        Raises:
            ValueError: the width is not known yet, or nothing is written.
        """
        raise NotImplementedError

    @property
    def reads(self) -> Subspace | None:
        """The row space of what is read of h, at numerical rank; None where nothing is read.

        Raises:
            ValueError: the width is not known yet.
        """
        raise NotImplementedError

    def anneal(self, progress: float) -> None:
        """Called before each training step with the share of the training that is done, in
        [0, 1]; for what hardens as training goes on."""

    def penalty(self) -> Float[Tensor, ""] | None:
        """What training adds to the loss whatever the data say; None for nothing."""
        return None

    def arguments(self) -> dict[str, Any]:
        """What `from_arguments` needs to build an intervention of this shape, as JSON."""
        return {
            name: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
            for name, value in {**self._arguments, "width": self.width}.items()
        }

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "Intervention":
        """An intervention of the saved shape, whose tensors `load_state_dict` then fills.

        Args:
            arguments: as `arguments` gives them.

        Raises:
            TypeError: an argument that the class does not take, or one that is missing.
            ValueError: a dtype that torch does not have, or what the constructor refuses.
        """
        given = dict(arguments)
        if "dtype" in given:
            dtype = getattr(torch, str(given["dtype"]), None)
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"dtype must be one of torch's, got {given['dtype']!r}")
            given["dtype"] = dtype
        return cls._of_shape(**given)

    @classmethod
    def _of_shape(cls, **arguments: Any) -> "Intervention":
        return cls(**arguments)

    def for_width(self, width: int) -> "Intervention":
        """This intervention, if it is as wide as that; a template made into one otherwise.

        Raises:
            ValueError: the intervention has another width.
        """
        if self.width is None:
            return self.from_arguments(self.arguments() | {"width": width})
        if self.width != width:
            raise ValueError(
                f"{type(self).__name__} edits activations {self.width} wide, but they are {width} "
                "wide here. Was it made for another model or site?"
            )
        return self

    def check_input(self, base: Tensor, source: Tensor | None) -> None:
        """Raise unless `base` and `source` are what `forward` takes.

        Raises:
            ValueError: the intervention is a template; `base` is not as wide as it is; a source is
                missing, superfluous or of another shape.
        """
        name = type(self).__name__
        if self.width is None:
            raise ValueError(
                f"{name} does not know its width yet: give width=, or place it at a site"
            )
        if base.shape[-1] != self.width:
            raise ValueError(
                f"{name}: activations are {base.shape[-1]} wide, but the intervention lives in "
                f"R^{self.width}. Was it made for another model or site?"
            )
        if self.needs_source and source is None:
            raise ValueError(f"{name} needs a source: the activations of another run")
        if not self.needs_source and source is not None:
            raise ValueError(f"{name} takes no source")
        if source is not None and source.shape != base.shape:
            raise ValueError(
                f"{name}: source has shape {tuple(source.shape)}, base {tuple(base.shape)}; "
                "they must be aligned token by token"
            )


class WholeSpace(Intervention):
    """What reads and writes all of R^d, and no subspace of it."""

    @property
    def subspace(self) -> Subspace:
        """All of R^d.

        Raises:
            ValueError: the width is not known yet.
        """
        if self.width is None:
            raise ValueError(
                f"{type(self).__name__} does not know its width yet: place it at a site"
            )
        return Subspace(torch.eye(self.width))

    @property
    def reads(self) -> Subspace:
        """All of R^d; raises as `subspace` does."""
        return self.subspace


class _Edit(Intervention):
    """What the two verbs share. A template has neither rows nor value."""

    rows: Rows
    value: Value

    def __init__(
        self,
        rows: Rows | None,
        value: Value | None,
        arguments: Mapping[str, Any],
    ):
        dropout = arguments.get("dropout", 0.0)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        check_activation(arguments.get("activation", "linear"))
        super().__init__(None if rows is None else rows.matrix.shape[1], arguments)
        # On the edit alone: pyreft's falls on all of the edited h, and zeroes the model's own too.
        self.dropout = nn.Dropout(dropout)
        if rows is not None and value is not None:
            self.rows = rows
            self.value = value

    def forward(self, base, source=None):
        self.check_input(base, source)
        rows = self.rows()
        # The edit is computed in the parameters' precision and rounded once, at the end.
        work = torch.promote_types(base.dtype, rows.dtype)
        h = base.to(work)
        moved = self.coordinates(h, None if source is None else source.to(work), rows.to(work))
        return (h + self.dropout(moved @ rows.to(work))).to(base.dtype)

    def coordinates(
        self,
        h: Float[Tensor, "*batch d"],
        source: Float[Tensor, "*batch d"] | None,
        rows: Float[Tensor, "r d"],
    ) -> Float[Tensor, "*batch r"]:
        """What is added to h along each row."""
        raise NotImplementedError

    @property
    def subspace(self) -> Subspace:
        self._check_built()
        rows = self.rows().detach()
        if isinstance(self.rows, OrthonormalRows | PartOfRows):
            return Subspace(rows)
        spanned = Subspace.spanned_by(rows)
        if spanned is None:
            raise ValueError(f"{type(self).__name__} writes nothing: its directions are all zero")
        return spanned

    @property
    def reads(self) -> Subspace | None:
        self._check_built()
        read = self.value.reads(self._subtracted())
        return None if read is None else Subspace.spanned_by(read)

    def _subtracted(self) -> Tensor | None:
        raise NotImplementedError

    def _check_built(self) -> None:
        if self.width is None:
            raise ValueError(
                f"{type(self).__name__} does not know its width yet, so it has no subspace: "
                "give width=, or place it at a site"
            )


class Set(_Edit):
    """h ← h + Rᵀ(v − Rh): with orthonormal rows, the coordinates of h in the subspace become v."""

    def coordinates(self, h, source, rows):
        return self.value.change(h, source, rows)

    def _subtracted(self):
        return self.rows().detach()


class Add(_Edit):
    """h ← h + Dᵀv: v is added along the rows of D, which need not be orthonormal."""

    def coordinates(self, h, source, rows):
        return self.value(h, source, rows)

    def _subtracted(self):
        return None
