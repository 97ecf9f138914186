"""Lines over an index: principal angles, losses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pandas as pd
from jaxtyping import Float

from reft_interp.plotting.columns import column, interval_columns, numbers
from reft_interp.plotting.style import (
    DASHES,
    FAINT,
    MARKERS,
    PALETTE,
    WIDTH,
    add_legend,
    as_words,
    new_axes,
    set_title,
    short_name,
)

if TYPE_CHECKING:
    import matplotlib.axes


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
    y = numbers(frame, angle, "angle")
    if np.any((y < 0) | (y > 90 + 1e-4)):  # arccos in float32 may round past 90
        raise ValueError(
            f"angle must be in degrees between 0 and 90, but column {angle!r} "
            f"goes from {np.nanmin(y):g} to {np.nanmax(y):g}"
        )
    x = numbers(frame, index, "index")
    steps = np.unique(x[np.isfinite(x)])
    ax = ax if ax is not None else new_axes(WIDTH, 3.9)
    if expected is not None:
        _draw_expected(ax, _expected_frame(expected, steps, angle, index), expected_label)
    _draw_lines(ax, x, y, column(frame, series, "series"), markers=True)
    ax.set_ylim(-3, 93)
    ax.set_yticks([0, 15, 30, 45, 60, 75, 90], ["0°", "15°", "30°", "45°", "60°", "75°", "90°"])
    ax.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    ax.set_xticks(steps[:: max(1, len(steps) // 12)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("index of the angle, smallest first")
    ax.set_ylabel("angle (0° shared, 90° orthogonal)")
    ax.grid(axis="y", color=FAINT, linewidth=0.7)
    set_title(ax, title, "Principal angles")
    add_legend(ax)
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
    x, y = numbers(frame, step, "step"), numbers(frame, loss, "loss")
    names = [""] * len(frame) if series is None else column(frame, series, "series")
    ax = ax if ax is not None else new_axes(WIDTH, 3.4)
    _draw_lines(ax, x, y, names, markers=len(np.unique(x)) <= 20)
    if np.nanmin(y, initial=0.0) >= 0:
        ax.set_ylim(bottom=0)  # a loss that has not moved should look so
    ax.set_xlabel(as_words(step))
    ax.set_ylabel(as_words(loss) if ylabel is None else ylabel)
    ax.grid(axis="y", color=FAINT, linewidth=0.7)
    set_title(ax, title, f"{as_words(loss)} during training")
    if series is not None:
        add_legend(ax)
    return ax


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
            label=short_name(name, 48),
        )


def _expected_frame(
    expected: Any, steps: Float[np.ndarray, " n"], angle: str, index: str
) -> pd.DataFrame:
    """Expected angles as a frame with `index`, `angle`, `low` and `high` (perhaps NaN)."""
    if isinstance(expected, pd.DataFrame):
        low, high = (name if name in expected.columns else None for name in ("low", "high"))
        data = interval_columns(expected, angle, low, high).rename(columns={"value": "angle"})
        return data.assign(index=numbers(expected, index, "index")).sort_values("index")
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
