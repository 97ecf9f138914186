"""Every figure of the library: dots with intervals, principal angles, loss curves, heatmaps.

These functions take pandas frames and know none of our classes, so any result object can draw
itself with one line. Next door: `report`, which puts figures into a page. Deliberately not here:
statistics (an interval is a pair of columns that somebody else computed), and matplotlib itself
until something is drawn.

Each function draws on `ax` if given, on a new figure otherwise, and returns the Axes. Series
differ by colour, by marker and by dash, so that nothing is lost to colour blindness or to a grey
printer; figures are narrow and their letters large, so that nothing is lost on a phone.
"""

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pandas as pd
from jaxtyping import Float

if TYPE_CHECKING:
    import matplotlib.axes

__all__ = ["angles", "grouped_intervals", "heatmap", "intervals", "loss_curve"]

# Okabe and Ito's colours, ordered so that neighbours differ in lightness too.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
INK, GREY, FAINT = "#1a1a1a", "#6b6b6b", "#dddddd"
SMALL = 9
WIDTH = 4.7  # inches: on a phone, letters shrink by a quarter and no more
_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "semibold",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def intervals(
    frame: pd.DataFrame,
    *,
    value: str,
    label: str,
    low: str | None = "low",
    high: str | None = "high",
    reference: float | int | None = None,
    reference_label: str = "chance",
    title: str | None = None,
    xlabel: str | None = None,
    ax: Optional["matplotlib.axes.Axes"] = None,
) -> "matplotlib.axes.Axes":
    """One dot with its interval for each row of the frame, the first row on top.

    Args:
        frame: one row for each method, control or site.
        value: column of the dots. Where all numbers lie in [0, 1], so does the axis.
        label: column with the names of the rows; long names are wrapped.
        low: column of the interval's lower end; `None` for no intervals. NaN draws just the dot.
        high: column of its upper end; `None` for no intervals.
        reference: where to draw a vertical line, such as the accuracy of guessing.
        reference_label: what that line is called.
        title: default: named after the columns; `""` for none.
        xlabel: what is measured, with its unit. Default: the name of the column.
        ax: where to draw. Default: a new figure.

    Raises:
        ValueError: a column does not exist, the frame is empty, or an interval is upside down.
        TypeError: a column that should hold numbers does not.
    """
    data = _interval_columns(frame, value, low, high)
    names = [_name(name, 24) for name in _column(frame, label, "label")]
    y = np.arange(len(data), dtype=float)
    lines = max(name.count("\n") + 1 for name in names)
    ax = ax if ax is not None else _new_axes(WIDTH, 1.25 + len(data) * (0.18 + 0.16 * lines))
    _draw_intervals(ax, data, y, PALETTE[0], MARKERS[0])
    _finish_rows(ax, data, y, names, bottom=len(data) - 0.4)
    _draw_reference(ax, reference, reference_label)
    _title(ax, title, f"{_words(value)} by {label.replace('_', ' ')}", raised=reference is not None)
    ax.set_xlabel(_words(value) if xlabel is None else xlabel)
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
    data = _interval_columns(frame, value, low, high)
    labels = _column(frame, label, "label")
    groups = _column(frame, group, "group")
    names = {name: _name(name, 24) for name in dict.fromkeys(labels)}
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
    ax = ax if ax is not None else _new_axes(WIDTH, 1.15 + at * (0.17 + 0.15 * lines))
    for k, name in enumerate(names):
        chosen = np.array([other == name for other in labels])
        style = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
        _draw_intervals(ax, data[chosen], positions[chosen], *style)
    _finish_rows(ax, data, positions, [names[name] for name in labels], bottom=at - 0.75)
    for name, head in heads.items():
        place = ax.get_yaxis_transform()
        text = ax.text(
            0.01, head, _name(name, 40), transform=place, va="center", weight="bold", fontsize=10
        )
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
        if head:
            ax.axhline(head - 0.55, color=FAINT, linewidth=1, zorder=0)
    _draw_reference(ax, reference, reference_label)
    _title(ax, title, f"{_words(value)} by {group.replace('_', ' ')}", raised=reference is not None)
    ax.set_xlabel(_words(value) if xlabel is None else xlabel)
    return ax


def angles(
    frame: pd.DataFrame,
    *,
    angle: str = "angle",
    series: str = "series",
    index: str = "index",
    expected: float
    | int
    | Sequence[float | int]
    | Float[np.ndarray, " n"]
    | pd.DataFrame
    | None = None,
    expected_label: str = "random subspaces",
    title: str | None = None,
    ax: Optional["matplotlib.axes.Axes"] = None,
) -> "matplotlib.axes.Axes":
    """Principal angles in degrees: one line for each pair of subspaces.

    Args:
        frame: one row for each angle.
        angle: column of the angles, in degrees from 0 (a shared direction) to 90 (orthogonal).
        series: column that names the pair of subspaces.
        index: column with the number of the angle, smallest angle first.
        expected: what random subspaces of these ranks have: one number, one for each index, or a
            frame with the columns `index` and `angle` (as named above), and `low` and `high`
            where there is a band to draw.
        expected_label: what that line or band is called.
        title: default: "Principal angles"; `""` for none.
        ax: where to draw. Default: a new figure.

    Raises:
        ValueError: a column does not exist, the frame is empty, an angle is outside [0, 90], or
            there are more or fewer expected angles than indices.
        TypeError: a column that should hold numbers does not.
    """
    y = _numbers(frame, angle, "angle")
    if np.any((y < 0) | (y > 90 + 1e-4)):  # arccos in float32 may round past 90
        raise ValueError(
            f"angle must be in degrees between 0 and 90, but column {angle!r} "
            f"goes from {np.nanmin(y):g} to {np.nanmax(y):g}"
        )
    x = _numbers(frame, index, "index")
    steps = np.unique(x[np.isfinite(x)])
    ax = ax if ax is not None else _new_axes(WIDTH, 3.9)
    if expected is not None:
        _draw_expected(ax, _expected_frame(expected, steps, angle, index), expected_label)
    _draw_lines(ax, x, y, _column(frame, series, "series"), markers=True)
    ax.set_ylim(-3, 93)
    ax.set_yticks([0, 15, 30, 45, 60, 75, 90], ["0°", "15°", "30°", "45°", "60°", "75°", "90°"])
    ax.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    ax.set_xticks(steps[:: max(1, len(steps) // 12)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("index of the angle, smallest first")
    ax.set_ylabel("angle (0° shared, 90° orthogonal)")
    ax.grid(axis="y", color=FAINT, linewidth=0.7)
    _title(ax, title, "Principal angles")
    _legend(ax)
    return ax


def loss_curve(
    frame: pd.DataFrame,
    *,
    step: str,
    loss: str,
    series: str | None = None,
    title: str | None = None,
    ylabel: str | None = None,
    ax: Optional["matplotlib.axes.Axes"] = None,
) -> "matplotlib.axes.Axes":
    """The loss during training, one line for each run.

    Args:
        frame: one row for each logged step.
        step: column of the steps (or epochs).
        loss: column of the loss; NaN leaves a gap.
        series: column that names the run, where there are several.
        title: default: named after the columns; `""` for none.
        ylabel: what the loss is, with its unit, such as "cross-entropy (nats per token)".
            Default: the name of the column.
        ax: where to draw. Default: a new figure.

    Raises:
        ValueError: a column does not exist, or the frame is empty.
        TypeError: a column that should hold numbers does not.
    """
    x, y = _numbers(frame, step, "step"), _numbers(frame, loss, "loss")
    names = [""] * len(frame) if series is None else _column(frame, series, "series")
    ax = ax if ax is not None else _new_axes(WIDTH, 3.4)
    _draw_lines(ax, x, y, names, markers=len(np.unique(x)) <= 20)
    if np.nanmin(y, initial=0.0) >= 0:
        ax.set_ylim(bottom=0)  # a loss that has not moved should look so
    ax.set_xlabel(_words(step))
    ax.set_ylabel(_words(loss) if ylabel is None else ylabel)
    ax.grid(axis="y", color=FAINT, linewidth=0.7)
    _title(ax, title, f"{_words(loss)} during training")
    if series is not None:
        _legend(ax)
    return ax


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
    data = _interval_columns(frame, value, low, high)
    column_names, row_names = _levels(frame, x, "x"), _levels(frame, y, "y")
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
            interval = f"\n[{_short(row[1])}, {_short(row[2])}]" if np.isfinite(row).all() else ""
            texts[at] = _short(row[0]) + interval
    tall = any("\n" in text for text in texts.flat)
    if ax is None:
        width = max(WIDTH, 1.6 + len(column_names) * (0.95 if tall else 0.62))
        ax = _new_axes(width, 1.4 + len(row_names) * (0.46 if tall else 0.34))
    _draw_cells(ax, cells, texts, _words(value) if value_label is None else value_label)
    ax.set_xticks(range(len(column_names)), [_name(name, 14) for name in column_names])
    if max(len(str(name)) for name in column_names) > 8 and len(column_names) > 4:
        ax.tick_params(axis="x", labelrotation=40)
        for tick in ax.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(row_names)), [_name(name, 18) for name in row_names])
    ax.set_xlabel(_words(x))
    ax.set_ylabel(_words(y))
    _title(ax, title, f"{_words(value)} by {y.replace('_', ' ')} and {x.replace('_', ' ')}")
    return ax


def _new_axes(width: float, height: float) -> "matplotlib.axes.Axes":
    """Axes on a figure of their own, in inches.

    In a notebook the figure is pyplot's, which shows it below the cell and closes it; anywhere
    else it belongs to the Axes alone, so that nothing has to be closed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        if "ipykernel" in sys.modules and "inline" in matplotlib.get_backend():
            from matplotlib import pyplot

            return pyplot.subplots(figsize=(width, height), layout="constrained")[1]
        return Figure(figsize=(width, height), layout="constrained").subplots()


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
) -> None:
    """Name each row on the left, write its number on the right, and scale the axis."""
    place = ax.get_yaxis_transform()
    for at, number in zip(y, data["value"], strict=True):
        ax.text(1.03, at, _short(number), transform=place, va="center", fontsize=10, gid="number")
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=FAINT, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.set_ylim(bottom, -0.6)
    if _in_unit(data.to_numpy()):
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
        f"{reference_label} {_short(float(reference))}",
        (reference, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left" if along < 0.15 else "right" if along > 0.85 else "center",
        fontsize=SMALL,
        color=INK,
    )


def _draw_lines(
    ax: "matplotlib.axes.Axes",
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    names: list[str],
    *,
    markers: bool,
) -> None:
    for k, name in enumerate(dict.fromkeys(names)):
        chosen = np.flatnonzero([other == name for other in names])
        chosen = chosen[np.argsort(x[chosen], kind="stable")]
        ax.plot(
            x[chosen],
            y[chosen],
            color=PALETTE[k % len(PALETTE)],
            linestyle=DASHES[k % len(DASHES)],
            marker=MARKERS[k % len(MARKERS)] if markers else None,
            markersize=6,
            linewidth=1.8,
            label=_name(name, 48),
        )


def _expected_frame(
    expected: Any, steps: Float[np.ndarray, " n"], angle: str, index: str
) -> pd.DataFrame:
    """Expected angles as a frame with `index`, `angle`, `low` and `high` (perhaps NaN)."""
    if isinstance(expected, pd.DataFrame):
        low, high = (name if name in expected.columns else None for name in ("low", "high"))
        data = _interval_columns(expected, angle, low, high).rename(columns={"value": "angle"})
        return data.assign(index=_numbers(expected, index, "index")).sort_values("index")
    line = np.asarray(expected, dtype=float)
    if line.ndim > 0 and line.shape != steps.shape:
        raise ValueError(
            f"expected must be one angle or one for each of the {len(steps)} indices, "
            f"got shape {line.shape}"
        )
    return pd.DataFrame({"index": steps, "angle": line, "low": np.nan, "high": np.nan})


def _draw_expected(ax: "matplotlib.axes.Axes", data: pd.DataFrame, label: str) -> None:
    # Half a step further on both sides: for a rank of 1 it is still a line, not a dot.
    x = data["index"].to_numpy(dtype=float)
    x = np.concatenate([x[:1] - 0.4, x, x[-1:] + 0.4])
    line, low, high = np.pad(
        data[["angle", "low", "high"]].to_numpy(float).T, ((0, 0), (1, 1)), "edge"
    )
    ax.fill_between(x, low, high, color="#bbbbbb", alpha=0.55, linewidth=0, gid="expected band")
    ax.plot(x, line, color="#555555", linewidth=2.2, alpha=0.8, label=label, gid="expected")


def _draw_cells(
    ax: "matplotlib.axes.Axes",
    cells: Float[np.ndarray, "rows columns"],
    texts: np.ndarray,
    value_label: str,
) -> None:
    import matplotlib

    limits = (0.0, 1.0) if _in_unit(cells) else (np.nanmin(cells), np.nanmax(cells))
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


def _title(
    ax: "matplotlib.axes.Axes", title: str | None, default: str, *, raised: bool = False
) -> None:
    """Left-aligned with the axes, above the name of a reference line if there is one."""
    # The names of the rows leave the axes less of the figure: about 54 letters fit in all.
    names = [line for tick in ax.get_yticklabels() for line in tick.get_text().split("\n")]
    width = max(20, 54 - max(map(len, names), default=0))
    text = _wrap(default if title is None else title, width)
    ax.set_title(text, loc="left", pad=20 if raised else 8)


def _legend(ax: "matplotlib.axes.Axes") -> None:
    """Below the axes, where it hides no data."""
    ax.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.2), frameon=False, fontsize=9.5, handlelength=3
    )


def _column(frame: pd.DataFrame, name: str, argument: str) -> list[str]:
    if name not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        raise ValueError(f"{argument} must be a column of the frame (it has {known}), got {name!r}")
    if frame.empty:
        raise ValueError("frame must have at least one row, got none")
    return [str(entry) for entry in frame[name]]


def _numbers(frame: pd.DataFrame, name: str, argument: str) -> Float[np.ndarray, " n"]:
    _column(frame, name, argument)
    try:
        return frame[name].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{argument} must be a column of numbers, {name!r} is not: {error}"
        ) from None


def _interval_columns(
    frame: pd.DataFrame, value: str, low: str | None, high: str | None
) -> pd.DataFrame:
    """The columns `value`, `low` and `high` as floats, NaN where there is no interval."""
    if (low is None) != (high is None):
        raise ValueError(f"low and high must be given together, got low={low!r}, high={high!r}")
    data = pd.DataFrame({"value": _numbers(frame, value, "value"), "low": np.nan, "high": np.nan})
    if low is not None and high is not None:
        data["low"], data["high"] = _numbers(frame, low, "low"), _numbers(frame, high, "high")
    # An interval need not hold its own value (bootstrap percentiles may not), but has a direction.
    for row, (_, left, right) in enumerate(data.to_numpy()):
        if left > right:
            raise ValueError(
                f"low must not exceed high, but in row {row} low is {left:g} and high {right:g}"
            )
    return data


def _levels(frame: pd.DataFrame, name: str, argument: str) -> list:
    _column(frame, name, argument)
    levels = list(dict.fromkeys(frame[name]))
    return sorted(levels) if pd.api.types.is_numeric_dtype(frame[name]) else levels


def _in_unit(numbers: np.ndarray) -> bool:
    numbers = numbers[np.isfinite(numbers)]
    return bool(np.all((numbers >= 0) & (numbers <= 1)))


def _short(number: float) -> str:
    """Two decimals up to 1, three significant places beyond; a dash for NaN."""
    if not np.isfinite(number):
        return "–"
    return f"{number:.2f}" if abs(number) <= 1 else f"{number:.3g}"


def _words(name: str) -> str:
    """A column's name as a reader would write it: `probe_accuracy`, `iia` → Probe accuracy, IIA."""
    return name.upper() if len(name) <= 3 else name[0].upper() + name[1:].replace("_", " ")


def _name(entry: object, width: int) -> str:
    """An entry of the frame as a label: wrapped, and a dollar is a dollar, not mathematics."""
    return _wrap(str(entry).replace("$", r"\$"), width)


def _wrap(text: str, width: int) -> str:
    """Text in as few lines as `width` allows, all of about one length."""
    lines = len(textwrap.wrap(text, width))
    longest_word = max(map(len, text.split()), default=1)
    while width > longest_word and len(textwrap.wrap(text, width - 1)) == lines:
        width -= 1
    return textwrap.fill(text, width)
