"""Dots with intervals, one row a method."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np
import pandas as pd
from jaxtyping import Float

from reft_interp.plotting.columns import column, interval_columns, numbers
from reft_interp.plotting.style import (
    FAINT,
    GREY,
    INK,
    MARKERS,
    PALETTE,
    SMALL,
    WIDTH,
    as_words,
    axes_in_rows,
    in_unit_interval,
    new_axes,
    set_title,
    short_name,
    short_number,
)

if TYPE_CHECKING:
    import matplotlib.axes


def intervals(
    frame: pd.DataFrame,
    *,
    value: str,
    label: str,
    low: str | None = "low",
    high: str | None = "high",
    control: str | None = None,
    reference: float | int | None = None,
    reference_label: str = "chance",
    title: str | None = None,
    xlabel: str | None = None,
    whole: bool = True,
    ax: Optional["matplotlib.axes.Axes"] = None,
) -> "matplotlib.axes.Axes":
    """One dot with its interval for each row of the frame, the first row on top.

    Args:
        frame: one row for each method, control or site.
        value: column of the dots. Where all numbers lie in [0, 1], so does the axis.
        label: column with the names of the rows; long names are wrapped.
        low: column of the interval's lower end; `None` for no intervals. NaN draws just the dot.
        high: column of its upper end; `None` for no intervals.
        control: column that is True of controls, which are grey squares; `None` for none.
        reference: where to draw a vertical line, such as the accuracy of guessing.
        reference_label: what that line is called.
        title: default: named after the columns; `""` for none.
        xlabel: what is measured, with its unit. Default: the name of the column.
        whole: False ends the axis of numbers in [0, 1] where they end, for shares that are all
            small.
        ax: where to draw. Default: a new figure.

    Raises:
        ValueError: a column does not exist, the frame is empty, or an interval is upside down.
        TypeError: a column that should hold numbers does not.
    """
    data = interval_columns(frame, value, low, high)
    names = [short_name(name, 24) for name in column(frame, label, "label")]
    y = np.arange(len(data), dtype=float)
    lines = max(name.count("\n") + 1 for name in names)
    ax = ax if ax is not None else new_axes(WIDTH, 1.25 + len(data) * (0.18 + 0.16 * lines))
    grey = np.zeros(len(data), dtype=bool)
    if control is not None:
        grey = numbers(frame, control, "control") == 1
    for chosen, colour, marker in ((~grey, PALETTE[0], MARKERS[0]), (grey, GREY, MARKERS[1])):
        if chosen.any():
            _draw_intervals(ax, data.loc[chosen], y[chosen], colour, marker)
    _finish_rows(ax, data, y, names, bottom=len(data) - 0.4, whole=whole)
    _draw_reference(ax, reference, reference_label)
    set_title(
        ax, title, f"{as_words(value)} by {label.replace('_', ' ')}", raised=reference is not None
    )
    ax.set_xlabel(as_words(value) if xlabel is None else xlabel)
    return ax


def grouped_intervals(
    frame: pd.DataFrame,
    *,
    value: str,
    label: str,
    group: str,
    low: str | None = "low",
    high: str | None = "high",
    reference: float | int | None = None,
    reference_label: str = "chance",
    title: str | None = None,
    xlabel: str | None = None,
    ax: Optional["matplotlib.axes.Axes"] = None,
) -> "matplotlib.axes.Axes":
    """As `intervals`, in blocks: one block for each group, under its name.

    A label keeps its colour and its marker in every group, and each row its name, so there is no
    legend to look up. Groups, and rows within them, stay in the order of the frame.

    Args:
        frame: one row for each label in each group.
        value, low, high, reference, reference_label, title, xlabel, ax: as for `intervals`.
        label: column with the names of the rows within a group.
        group: column with the name of the group, such as the task or the subspace.

    Raises:
        ValueError: a column does not exist, the frame is empty, or an interval is upside down.
        TypeError: a column that should hold numbers does not.
    """
    data = interval_columns(frame, value, low, high)
    labels = column(frame, label, "label")
    groups = column(frame, group, "group")
    names = {name: short_name(name, 24) for name in dict.fromkeys(labels)}
    # Rows of one group stand together, below a line that holds the group's name.
    order, y, heads, at = [], [], {}, 0.0
    for name in dict.fromkeys(groups):
        heads[name] = at
        rows = [i for i, other in enumerate(groups) if other == name]
        order += rows
        y += [at + 0.95 + k for k in range(len(rows))]
        at += len(rows) + 1.15
    data, labels, positions = data.iloc[order], [labels[i] for i in order], np.array(y)
    lines = max(name.count("\n") + 1 for name in names.values())
    ax = ax if ax is not None else new_axes(WIDTH, 1.15 + at * (0.17 + 0.15 * lines))
    for k, name in enumerate(names):
        chosen = np.array([other == name for other in labels])
        style = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
        _draw_intervals(ax, data[chosen], positions[chosen], *style)
    _finish_rows(ax, data, positions, [names[name] for name in labels], bottom=at - 0.75)
    for name, head in heads.items():
        place = ax.get_yaxis_transform()
        text = ax.text(
            0.01,
            head,
            short_name(name, 40),
            transform=place,
            va="center",
            weight="bold",
            fontsize=10,
        )
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
        if head:
            ax.axhline(head - 0.55, color=FAINT, linewidth=1, zorder=0)
    _draw_reference(ax, reference, reference_label)
    set_title(
        ax, title, f"{as_words(value)} by {group.replace('_', ' ')}", raised=reference is not None
    )
    ax.set_xlabel(as_words(value) if xlabel is None else xlabel)
    return ax


def panels(rows: Sequence[int]) -> list["matplotlib.axes.Axes"]:
    """Axes for several `intervals` on one figure, two beside each other.

    Args:
        rows: how many each will have.
    """
    columns = min(2, len(rows))
    tallest = [max(rows[i : i + columns]) for i in range(0, len(rows), columns)]
    axes = axes_in_rows(WIDTH, [1.4 + 0.38 * n for n in tallest], columns)
    for unused in axes[len(rows) :]:
        unused.remove()
    return axes[: len(rows)]


def _draw_intervals(
    ax: "matplotlib.axes.Axes",
    data: pd.DataFrame,
    y: Float[np.ndarray, " n"],
    colour: str,
    marker: str,
) -> None:
    known = (data["low"].notna() & data["high"].notna()).to_numpy()
    ends = data[known]
    ax.hlines(y[known], ends["low"], ends["high"], color=colour, linewidth=2.4, alpha=0.65)
    # clip_on: a dot at exactly 0 or 1 stands on the edge, and is drawn whole.
    ax.plot(data["value"], y, marker, color=colour, markersize=7.5, clip_on=False, gid="value")


def _finish_rows(
    ax: "matplotlib.axes.Axes",
    data: pd.DataFrame,
    y: Float[np.ndarray, " n"],
    names: list[str],
    *,
    bottom: float,
    whole: bool = True,
) -> None:
    """Name each row on the left, write its number on the right, and scale the axis."""
    place = ax.get_yaxis_transform()
    for at, number in zip(y, data["value"], strict=True):
        ax.text(
            1.03, at, short_number(number), transform=place, va="center", fontsize=10, gid="number"
        )
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=FAINT, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.set_ylim(bottom, -0.6)
    if in_unit_interval(data.to_numpy()) and not whole:
        most = float(np.nanmax(data.to_numpy())) or 1.0
        ax.set_xlim(-0.015 * most, 1.05 * most)
        ax.locator_params(axis="x", nbins=5)
    elif in_unit_interval(data.to_numpy()):
        ax.set_xlim(-0.015, 1.015)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])


def _draw_reference(
    ax: "matplotlib.axes.Axes", reference: float | int | None, reference_label: str
) -> None:
    if reference is None:
        return
    ax.axvline(
        reference, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1, gid="reference"
    )
    left, right = ax.get_xlim()
    along = (reference - left) / (right - left)
    ax.annotate(
        f"{reference_label} {float(reference):.3g}",
        (reference, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left" if along < 0.15 else "right" if along > 0.85 else "center",
        fontsize=SMALL,
        color=INK,
    )
