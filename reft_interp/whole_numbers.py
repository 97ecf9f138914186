"""Whole numbers of any library: Python's, NumPy's, torch's."""

from operator import index
from typing import Any


def whole_number(given: Any, wrong: str) -> int:
    """A whole number as an int.

    Args:
        given: of any type that counts; True and False do not.
        wrong: what the error says.

    Raises:
        TypeError: it is no whole number.
    """
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise TypeError(wrong)
    return index(given)


def at_least_one(given: Any, name: str) -> int:
    """A number of things of which there must be one, as an int.

    Args:
        given: of any type that counts.
        name: of the argument.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 1.
    """
    return at_least(given, 1, name)


def at_least(given: Any, least: int, name: str) -> int:
    """A whole number that is not below another, as an int.

    Args:
        given: of any type that counts.
        least: what it may be.
        name: of the argument.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below `least`.
    """
    whole = whole_number(given, f"{name} must be a whole number, got {given!r}")
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {given}")
    return whole
