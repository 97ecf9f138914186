"""Columns of a frame as a figure needs them, checked before anything is drawn."""

import numpy as np
import pandas as pd
from jaxtyping import Float


def column(frame: pd.DataFrame, name: str, argument: str) -> list[str]:
    """The entries of a column as text.

    Args:
        frame: what is drawn.
        name: of the column.
        argument: what the caller calls it in a message.

    Raises:
        ValueError: the frame has no such column, or no rows.
    """
    if name not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        raise ValueError(f"{argument} must be a column of the frame (it has {known}), got {name!r}")
    if frame.empty:
        raise ValueError("frame must have at least one row, got none")
    return [str(entry) for entry in frame[name]]


def numbers(frame: pd.DataFrame, name: str, argument: str) -> Float[np.ndarray, " n"]:
    """The entries of a column as floats, NaN where one is missing; arguments as for `column`.

    Raises:
        TypeError: they are no numbers.
        ValueError: as `column`.
    """
    column(frame, name, argument)
    try:
        return frame[name].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{argument} must be a column of numbers, {name!r} is not: {error}"
        ) from None


def interval_columns(
    frame: pd.DataFrame, value: str, low: str | None, high: str | None
) -> pd.DataFrame:
    """The columns `value`, `low` and `high` as floats, NaN where there is no interval.

    Raises:
        TypeError: a column that holds no numbers.
        ValueError: no such column, no rows, one end without the other, or a low end above its high
            one.
    """
    if (low is None) != (high is None):
        raise ValueError(f"low and high must be given together, got low={low!r}, high={high!r}")
    data = pd.DataFrame({"value": numbers(frame, value, "value"), "low": np.nan, "high": np.nan})
    if low is not None and high is not None:
        data["low"], data["high"] = numbers(frame, low, "low"), numbers(frame, high, "high")
    # An interval need not hold its own value (bootstrap percentiles may not), but has a direction.
    for row, (_, left, right) in enumerate(data.to_numpy()):
        if left > right:
            raise ValueError(
                f"low must not exceed high, but in row {row} low is {left:g} and high {right:g}"
            )
    return data


def levels(frame: pd.DataFrame, name: str, argument: str) -> list:
    """The different entries of a column: numbers in their order, others as they come; arguments as
    for `column`.

    Raises:
        ValueError: as `column`.
    """
    column(frame, name, argument)
    levels = list(dict.fromkeys(frame[name]))
    return sorted(levels) if pd.api.types.is_numeric_dtype(frame[name]) else levels
