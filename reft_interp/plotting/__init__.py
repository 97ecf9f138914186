"""Every figure of the library: intervals, principal angles, loss curves, heatmaps, graphs.

These functions take pandas frames and know none of our classes, so any result object can draw
itself with one line. Next door: `report`, which puts figures into a page. Deliberately not here:
statistics (an interval is a pair of columns that somebody else computed), and matplotlib itself
until something is drawn.

Each function draws on `ax` if given, on a new figure otherwise, and returns the Axes. Series
differ by colour, by marker and by dash, so that nothing is lost to colour blindness or to a grey
printer; figures are narrow and their letters large, so that nothing is lost on a phone.
"""

from reft_interp.plotting.cells import heatmap
from reft_interp.plotting.graphs import graph
from reft_interp.plotting.lines import angles, loss_curve
from reft_interp.plotting.points import trade_off
from reft_interp.plotting.rows import grouped_intervals, intervals, panels
from reft_interp.plotting.saving import save_figure

__all__ = [
    "angles",
    "graph",
    "grouped_intervals",
    "heatmap",
    "intervals",
    "loss_curve",
    "panels",
    "save_figure",
    "trade_off",
]
