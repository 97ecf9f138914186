"""How all figures look: colours, letters, axes, titles."""

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import matplotlib.axes

# Okabe and Ito's colours, ordered so that neighbours differ in lightness too.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
INK, GREY, FAINT = "#1a1a1a", "#6b6b6b", "#dddddd"
SMALL = 9
WIDTH = 4.7  # inches: on a phone, letters shrink by a quarter and no more
STYLE: dict[Any, Any] = {
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


def new_axes(width: float, height: float) -> "matplotlib.axes.Axes":
    """Axes on a figure of their own, in inches."""
    return axes_in_rows(width, [height])[0]


def axes_in_rows(
    width: float, heights: Sequence[float], columns: int = 1
) -> list["matplotlib.axes.Axes"]:
    """Axes on a figure of their own, row by row, each `width` inches wide.

    In a notebook the figure is pyplot's, which shows it below the cell and closes it; anywhere
    else it belongs to the Axes alone, so that nothing has to be closed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    size: dict[str, Any] = {"figsize": (width * columns, sum(heights)), "layout": "constrained"}
    grid: dict[str, Any] = {"height_ratios": heights, "squeeze": False}
    shape = len(heights), columns
    if "ipykernel" in sys.modules and "inline" in matplotlib.get_backend():
        from matplotlib import pyplot

        with matplotlib.rc_context(STYLE):
            axes = pyplot.subplots(*shape, **size, **grid)[1]
            # The first figure of a notebook turns interactive drawing on, without which later
            # figures are not shown; leaving the context would turn it off again.
            interactive = matplotlib.is_interactive()
        matplotlib.interactive(interactive)
        return list(axes.flat)
    with matplotlib.rc_context(STYLE):
        return list(Figure(**size).subplots(*shape, **grid).flat)


def set_title(
    ax: "matplotlib.axes.Axes", title: str | None, default: str, *, raised: bool = False
) -> None:
    """Left-aligned with the axes, above the name of a reference line if there is one."""
    # The names of the rows leave the axes less of the figure: about 54 letters fit in all.
    names = [line for tick in ax.get_yticklabels() for line in tick.get_text().split("\n")]
    width = max(20, 54 - max(map(len, names), default=0))
    text = wrapped(default if title is None else title, width)
    ax.set_title(text, loc="left", pad=20 if raised else 8)


def add_legend(ax: "matplotlib.axes.Axes") -> None:
    """Below the axes, where it hides no data."""
    ax.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.2), frameon=False, fontsize=9.5, handlelength=3
    )


def wrapped(text: str, width: int) -> str:
    """Text in as few lines as `width` allows, all of about one length."""
    lines = len(textwrap.wrap(text, width))
    longest_word = max(map(len, text.split()), default=1)
    while width > longest_word and len(textwrap.wrap(text, width - 1)) == lines:
        width -= 1
    return textwrap.fill(text, width)


def as_words(name: str) -> str:
    """A column's name as a reader would write it: `probe_accuracy`, `iia` → Probe accuracy, IIA."""
    return name.upper() if len(name) <= 3 else name[0].upper() + name[1:].replace("_", " ")


def short_name(entry: object, width: int) -> str:
    """An entry of the frame as a label: wrapped, and a dollar is a dollar, not mathematics."""
    return wrapped(str(entry).replace("$", r"\$"), width)


def short_number(number: float, decimals: int = 3) -> str:
    """So many decimals up to 1, three significant places beyond; a dash for NaN."""
    if not np.isfinite(number):
        return "–"
    return f"{number:.{decimals}f}" if abs(number) <= 1 else f"{number:.3g}"


def in_unit_interval(numbers: np.ndarray) -> bool:
    """Whether all numbers are between 0 and 1, as shares are; what is not finite does not count."""
    numbers = numbers[np.isfinite(numbers)]
    return bool(np.all((numbers >= 0) & (numbers <= 1)))
