"""The numbers of a training, checked where they are given: no training can have others."""

from collections.abc import Mapping
from math import inf
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from reft_interp.whole_numbers import whole_number


def check_hyperparameters(
    *,
    epochs: SupportsFloat | None = None,
    steps: int | None = None,
    learning_rate: SupportsFloat,
    batch_size: int,
    seed: int = 0,
    whole_epochs: bool = False,
) -> None:
    """Raise unless a training could have these numbers.

    Args:
        epochs: passes over the rows.
        steps: of the optimiser, where those are given instead.
        learning_rate: of the optimiser.
        batch_size: rows a step.
        seed: of what is drawn.
        whole_epochs: whether part of a pass is refused.

    Raises:
        TypeError: a number that has to be whole is not.
        ValueError: a number is not above 0 (as NaN is not), or is infinite; a seed that NumPy
            cannot take.
    """
    given = {"epochs": epochs, "steps": steps, "batch_size": batch_size}
    numbers = {name: number for name, number in given.items() if number is not None}
    for name, number in numbers.items():
        if name != "epochs" or whole_epochs:
            whole_number(number, f"{name} must be a whole number, got {number!r}")
    for name, number in (numbers | {"learning_rate": learning_rate}).items():
        if not float(number) > 0:
            raise ValueError(f"{name} must be above 0, got {number}")
        if float(number) == inf:
            raise ValueError(f"{name} must be finite, got {number}")
    if not 0 <= whole_number(seed, f"seed must be a whole number, got {seed!r}") < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")


def check_warmup_and_decay(
    *, warmup_ratio: SupportsFloat | int = 0.0, weight_decay: SupportsFloat | int = 0.0
) -> None:
    """Raise unless a training could warm up and decay so.

    Args:
        warmup_ratio: share of the steps in which the learning rate rises.
        weight_decay: of AdamW.

    Raises:
        ValueError: a warm-up that is no share, or that is all of the training; a weight decay that
            is negative, NaN or infinite.
    """
    if not 0 <= float(warmup_ratio) < 1:
        raise ValueError(f"warmup_ratio must be at least 0 and below 1, got {warmup_ratio}")
    if not 0 <= float(weight_decay) < inf:
        raise ValueError(f"weight_decay must be at least 0 and finite, got {weight_decay}")


def plain_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with NumPy's and torch's single numbers as Python's: `random` and `json`, which
    transformers gives them to, take no others."""
    return {
        name: value.item() if getattr(value, "ndim", None) == 0 else value
        for name, value in settings.items()
    }


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
    """How something is trained, as arguments and as its settings have it: Python's numbers."""
    return plain_values(
        {
            "epochs": training.epochs,
            "learning_rate": training.learning_rate,
            "batch_size": training.batch_size,
            "seed": training.seed,
        }
    )
