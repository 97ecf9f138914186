"""A frame as the cells of a table that people read.

Numbers are cut to three significant places here and nowhere else: the CSV file beside the report
keeps all of them. Escaping is the template's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

DASH = "—"


@dataclass(frozen=True)
class Column:
    """One column as text, with how it wants to be set."""

    name: str
    cells: tuple[str, ...]
    kind: str
    """`number` (aligned on the right), `text`, or `long` text that needs room."""


def columns(frame: pd.DataFrame) -> list[Column]:
    """The frame's columns as text; a pair `low`, `high` becomes one column `interval`.

    So does a pair `x_low`, `x_high`: it becomes `x interval`.
    """
    frame = with_index(frame)
    names = [str(name) for name in frame.columns]
    entries = {name: frame.iloc[:, at].tolist() for at, name in enumerate(names)}
    result: list[Column] = []
    for name in names:
        low = _other_end(name, "high", "low")
        if low in entries:
            continue
        if (high := _other_end(name, "low", "high")) in entries:
            pairs = zip(entries[name], entries[high], strict=True)
            title = f"{name.removesuffix('low')}interval".replace("_", " ")
            result.append(Column(title, tuple(_interval(*pair) for pair in pairs), "number"))
        else:
            result.append(_column(name, entries[name]))
    return result


def _other_end(name: str, ending: str, other: str) -> str | None:
    """The name of the column at the other end of the interval, if `name` is one end."""
    if name == ending or name.endswith(f"_{ending}"):
        return name.removesuffix(ending) + other
    return None


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its index as columns, where the index says something, and flat names.

    Raises:
        ValueError: two columns would have one name.
    """
    frame = frame.copy()
    if isinstance(frame.columns, pd.MultiIndex):
        frame.columns = [" ".join(str(part) for part in name if part != "") for name in frame]
    named = any(name is not None for name in frame.index.names)
    if named or not pd.api.types.is_integer_dtype(frame.index):
        frame = frame.reset_index(names=None if named else "")
    names = [str(name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"frame must not have two columns of one name, got {twice[0]!r} twice")
    return frame


def text(value: Any, decimals: int | None = None) -> str:
    """One cell: yes and no, integers as they are, three significant places, pairs in brackets.

    Args:
        value: what is in the cell.
        decimals: as many as the cells of this column need; default: as this value needs.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return _significant(float(value), decimals)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        if len(value) == 2 and all(isinstance(end, float) for end in value):
            return _interval(*value)
        return ", ".join(text(entry) for entry in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text(entry)}" for key, entry in value.items())
    return DASH if value is None or value is pd.NA or value is pd.NaT else str(value)


def _column(name: str, entries: list) -> Column:
    # [0.91, 0.9, 0.123] needs three decimals, [0.91, 0.9] only two: numbers below each other
    # line up, and none shows a place that no number of its column has.
    decimals = max((_needed(x) for x in entries if isinstance(x, float)), default=0)
    cells = tuple(text(entry, decimals) for entry in entries)
    name = name.replace("_", " ")
    if all(x == DASH or _is_number(entry) for x, entry in zip(cells, entries, strict=True)):
        return Column(name, cells, "number")
    return Column(name, cells, "long" if max(map(len, cells)) > 40 else "text")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _interval(low: Any, high: Any) -> str:
    if pd.isna(low) or pd.isna(high):
        return DASH
    # As many decimals at both ends, as proportions are written, unless it would vanish in them.
    if max(abs(low), abs(high)) <= 1 and (high - low >= 0.01 or low == high):
        return f"[{low:.3f}, {high:.3f}]"
    return f"[{text(low)}, {text(high)}]"


def _significant(number: float, decimals: int | None) -> str:
    if math.isnan(number):
        return DASH
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    if number == 0:
        return "0"
    if not _is_plain(number):
        digits, exponent = f"{number:.2e}".split("e")
        return f"{digits}e{int(exponent)}"
    needed = max(2, _needed(number) if decimals is None else decimals)
    # All of something, below shares of it that have three decimals, is as exact as they are.
    return f"{number:.{needed if number == 1 else min(_places(number), needed)}f}"


def _is_plain(number: float) -> bool:
    return 1e-3 <= abs(number) < 999_500


def _places(number: float) -> int:
    """How many decimals three significant places are."""
    size = abs(float(f"{number:.2e}"))  # rounded first: 0.9996 is 1.00, not 1.000
    return max(0, 2 - math.floor(math.log10(size)))


def _needed(number: float) -> int:
    """How many decimals are left of three significant places without the zeros at the end."""
    if not math.isfinite(number) or not _is_plain(number):
        return 0
    return len(f"{number:.{_places(number)}f}".partition(".")[2].rstrip("0"))
