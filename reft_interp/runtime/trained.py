"""A model with interventions, or the result of a training that holds one: either may be given.

Next door: `intervened` is the model; results (`fit_reft`, `fit_das`) are made further up.
"""

from typing import Any, Protocol, runtime_checkable

from torch import nn

from reft_interp.runtime.intervened import IntervenedModel


@runtime_checkable
class Result(Protocol):
    """What a training gave, as `ReFTResult` and `DASResult`."""

    @property
    def intervened(self) -> IntervenedModel: ...

    @property
    def settings(self) -> dict[str, Any]:
        """What it was trained with."""
        ...


Trained = IntervenedModel | Result


def intervened_of(given: Trained, argument: str) -> IntervenedModel:
    """The model with interventions that was given, or that the given result holds.

    Args:
        given: either.
        argument: what it is called in the message.

    Raises:
        TypeError: it is neither. A classifier is none: its interventions belong to its head.
    """
    if isinstance(given, IntervenedModel):
        return given
    found = None if isinstance(given, nn.Module) else getattr(given, "intervened", None)
    if isinstance(found, IntervenedModel):
        return found
    raise TypeError(
        f"{argument} must be an IntervenedModel, or a result that holds one as its .intervened, "
        f"got {type(given).__name__}"
    )
