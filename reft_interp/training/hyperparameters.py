"""The numbers of a training, checked where they are given: no training can have others."""

from math import inf
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from reft_interp.whole_numbers import whole_number


def check_hyperparameters(
    *,
    epochs: SupportsFloat,
    learning_rate: SupportsFloat,
    batch_size: int,
    whole_epochs: bool = False,
) -> None:
    """Raise unless a training could have these numbers.

    Args:
        epochs: passes over the rows.
        learning_rate: of the optimiser.
        batch_size: rows a step.
        whole_epochs: whether part of a pass is refused.

    Raises:
        TypeError: a number that has to be whole is not.
        ValueError: a number is not above 0 (as NaN is not), or is infinite.
    """
    whole_number(batch_size, f"batch_size must be a whole number, got {batch_size!r}")
    if whole_epochs:
        whole_number(epochs, f"epochs must be a whole number, got {epochs!r}")
    numbers = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    for name, number in numbers.items():
        if not float(number) > 0:
            raise ValueError(f"{name} must be above 0, got {number}")
        if float(number) == inf:
            raise ValueError(f"{name} must be finite, got {number}")


@runtime_checkable
class Training(Protocol):
    """What says how it is trained: a cell, or a method."""

    @property
    def epochs(self) -> Any: ...

    @property
    def learning_rate(self) -> float: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def seed(self) -> int: ...


def hyperparameters_of(training: Training) -> dict[str, Any]:
    """How something is trained, as arguments and as its settings have it."""
    return {
        "epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "batch_size": training.batch_size,
        "seed": training.seed,
    }
