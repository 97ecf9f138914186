"""Heat maps: one cell a setting, its value written in it."""

from typing import TYPE_CHECKING, Optional

import numpy as np
import pandas as pd
from jaxtyping import Float

from reft_interp.plotting.columns import interval_columns, levels
from reft_interp.plotting.style import (
    SMALL,
    WIDTH,
    as_words,
    in_unit_interval,
    new_axes,
    set_title,
    short_name,
    short_number,
)

if TYPE_CHECKING:
    import matplotlib.axes


def heatmap(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    value: str,
    low: str | None = None,
    high: str | None = None,
    title: str | None = None,
    value_label: str | None = None,
    ax: Optional["matplotlib.axes.Axes"] = None,
) -> "matplotlib.axes.Axes":
    """Cells of two variables, such as layers and positions, each with its number in it.

    Numbers on `y` grow upwards, as layers do; names stay in the order of the frame, from the top
    (and from the left). A cell that is not in the frame is grey, with a dash.

    Args:
        frame: one row for each cell.
        x: column that becomes the columns.
        y: column that becomes the rows.
        value: column of the numbers. Where all lie in [0, 1], so does the colour scale.
        low: column of the interval's lower end, written below the number.
        high: column of its upper end.
        title: default: named after the columns; `""` for none.
        value_label: what is measured, with its unit. Default: the name of the column.
        ax: where to draw. Default: a new figure, as large as its cells need.

    Raises:
        ValueError: a column does not exist, the frame is empty, an interval is upside down, or
            two rows describe the same cell.
        TypeError: a column that should hold numbers does not.
    """
    data = interval_columns(frame, value, low, high)
    column_names, row_names = levels(frame, x, "x"), levels(frame, y, "y")
    if pd.api.types.is_numeric_dtype(frame[y]):
        row_names = row_names[::-1]
    cells = np.full((len(row_names), len(column_names)), np.nan)
    texts = np.full(cells.shape, "–", dtype=object)
    seen = set()
    for at_x, at_y, row in zip(frame[x], frame[y], data.to_numpy(), strict=True):
        if (at_x, at_y) in seen:
            raise ValueError(f"frame has two rows for the cell {x}={at_x!r}, {y}={at_y!r}")
        seen.add((at_x, at_y))
        at = row_names.index(at_y), column_names.index(at_x)
        cells[at] = row[0]
        if np.isfinite(row[0]):
            interval = (
                f"\n[{short_number(row[1], decimals=2)}, {short_number(row[2], decimals=2)}]"
                if np.isfinite(row).all()
                else ""
            )
            texts[at] = short_number(row[0], decimals=2) + interval
    tall = any("\n" in text for text in texts.flat)
    if ax is None:
        width = max(WIDTH, 1.6 + len(column_names) * (0.95 if tall else 0.62))
        ax = new_axes(width, 1.4 + len(row_names) * (0.46 if tall else 0.34))
    _draw_cells(ax, cells, texts, as_words(value) if value_label is None else value_label)
    ax.set_xticks(range(len(column_names)), [short_name(name, 14) for name in column_names])
    if max(len(str(name)) for name in column_names) > 8 and len(column_names) > 4:
        ax.tick_params(axis="x", labelrotation=40)
        for tick in ax.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(row_names)), [short_name(name, 18) for name in row_names])
    ax.set_xlabel(as_words(x))
    ax.set_ylabel(as_words(y))
    set_title(ax, title, f"{as_words(value)} by {y.replace('_', ' ')} and {x.replace('_', ' ')}")
    return ax


def _draw_cells(
    ax: "matplotlib.axes.Axes",
    cells: Float[np.ndarray, "rows columns"],
    texts: np.ndarray,
    value_label: str,
) -> None:
    import matplotlib

    limits = (0.0, 1.0) if in_unit_interval(cells) else (np.nanmin(cells), np.nanmax(cells))
    colours = matplotlib.colormaps["YlGnBu"].with_extremes(bad="#eeeeee")
    image = ax.imshow(cells, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), text in np.ndenumerate(texts):
        # Relative luminance (WCAG 2.1): at 0.18, white and black stand out equally.
        red, green, blue = np.asarray(image.to_rgba(cells[row, column]))[:3] ** 2.2
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.18
        colour = "white" if dark and np.isfinite(cells[row, column]) else "black"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=SMALL)
    # White seams: neighbours of nearly one colour stay two cells.
    ax.set_xticks(np.arange(cells.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(cells.shape[0] + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02, aspect=30)
    bar.set_label(value_label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
