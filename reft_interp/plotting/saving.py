"""A figure as a file."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.axes


def save_figure(ax: "matplotlib.axes.Axes", file: str | Path) -> None:
    """Write the figure that axes are in, without the empty margin around it.

    Args:
        ax: as the functions of this package return them.
        file: its ending says the format, as ".png".
    """
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.savefig(file, dpi=150, bbox_inches="tight")
