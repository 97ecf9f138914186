"""A figure as a file."""

from pathlib import Path
from typing import TYPE_CHECKING

from reft_interp.whole_files import replacing

if TYPE_CHECKING:
    import matplotlib.axes


def save_figure(ax: "matplotlib.axes.Axes", file: str | Path) -> None:
    """Write the figure that axes are in, without the empty margin around it.

    Args:
        ax: as the functions of this package return them.
        file: its ending says the format, as ".png"; in a folder that exists.

    Raises:
        ValueError: an ending that is no format of matplotlib's.
    """
    file = Path(file)
    figure = ax.get_figure(root=True)
    if figure is not None:
        with replacing(file) as beside:
            kind = file.suffix.removeprefix(".")
            figure.savefig(beside, format=kind, dpi=150, bbox_inches="tight")
