"""Whether a model does a task at all, before anybody looks for how."""

from reft_interp.evaluation.results import Accuracy


def check_share(name: str, given: float | int) -> None:
    """Raise unless a number is a share.

    Args:
        name: what the user calls it.
        given: the number.

    Raises:
        ValueError: it is below 0 or above 1, or NaN.
    """
    if not 0 <= given <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {given}")


def check_accuracy(found: Accuracy, minimum: float | int, choices: int, advice: str = "") -> None:
    """Raise where a model does too little of a task for its pairs to say anything.

    Args:
        found: on single prompts.
        minimum: the share of them that it must get right.
        choices: answers that it has to choose from.
        advice: follows.

    Raises:
        ValueError: it gets less.
    """
    if found.value < minimum:
        raise ValueError(
            f"model must get a share of {minimum} of the prompts right (minimum_accuracy), got "
            f"{found} among {choices} answers. What a model does not do, no intervention can find "
            f"in it{advice}"
        )
