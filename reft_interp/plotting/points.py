"""What something reaches against what it costs."""

from typing import TYPE_CHECKING, Optional

import numpy as np
import pandas as pd

from reft_interp.plotting.columns import column, interval_columns, numbers
from reft_interp.plotting.style import (
    FAINT,
    GREY,
    MARKERS,
    PALETTE,
    WIDTH,
    add_legend,
    new_axes,
    set_title,
    short_name,
)

if TYPE_CHECKING:
    import matplotlib.axes


def trade_off(
    frame: pd.DataFrame,
    *,
    cost: str,
    value: str,
    label: str,
    low: str | None = "low",
    high: str | None = "high",
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str | None = None,
    ax: Optional["matplotlib.axes.Axes"] = None,
) -> "matplotlib.axes.Axes":
    """A point with its interval for each row, costs on a logarithmic axis.

    What costs nothing has no place on such an axis: it is a line over its whole width.

    Args:
        frame: one row for each point.
        cost: column of the costs, 0 or more.
        value: column of what is reached.
        label: column of the names.
        low: column of the lower ends of the intervals; None or NaN for none.
        high: column of the upper ends.
        xlabel: what the cost is; default: the column's name.
        ylabel: what is reached; default: the column's name.
        title: default: `value` against `cost`; `""` for none.
        ax: where to draw. Default: a new figure.

    Raises:
        ValueError: a column does not exist, the frame is empty, or a cost is below 0.
        TypeError: a column that should hold numbers does not.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

    costs = numbers(frame, cost, "cost")
    if np.any(costs < 0):
        raise ValueError(f"cost must be 0 or more, but column {cost!r} has {np.nanmin(costs):g}")
    data = interval_columns(frame, value, low, high)
    names = column(frame, label, "label")
    ax = ax if ax is not None else new_axes(WIDTH, 2.6 + 0.24 * len(names))
    for k, (x, name) in enumerate(zip(costs, names, strict=True)):
        y, bottom, top = (float(data[one].iloc[k]) for one in ("value", "low", "high"))
        color = PALETTE[k % len(PALETTE)]
        if x == 0:
            line = GREY if k == 0 else color
            ax.axhline(y, color=line, linewidth=1.5, linestyle="--", label=short_name(name, 40))
            continue
        spread = None if np.isnan(bottom) else np.array([[y - bottom], [top - y]])
        ax.errorbar(
            x, y, yerr=spread, color=color, marker=MARKERS[(k + k // len(PALETTE)) % len(MARKERS)],
            # Hollow: of two at one place both are seen.
            markersize=7, markerfacecolor="none", markeredgewidth=1.8,
            linestyle="none", capsize=3, elinewidth=1.5, label=short_name(name, 40),
        )  # fmt: skip
    ax.set_xscale("log")
    paid = costs[costs > 0]
    if len(paid) and paid.max() < 30 * paid.min():  # too few powers of ten to read the axis by
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.15)
    ax.grid(axis="y", color=FAINT, linewidth=0.7)
    ax.set_xlabel(xlabel or cost)
    ax.set_ylabel(ylabel or value)
    set_title(ax, title, f"{value} against {cost}")
    add_legend(ax)
    return ax
