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
