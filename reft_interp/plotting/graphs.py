"""A directed graph in layers: what a causal model looks like."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reft_interp.plotting.style import GREY, INK, WIDTH, new_axes, short_name

if TYPE_CHECKING:
    import matplotlib.axes


def graph(
    layers: Mapping[str, int],
    arrows: Sequence[tuple[str, str]],
    *,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Nodes in layers from bottom to top, with arrows between them.

    Args:
        layers: of each node its layer; 0 is the lowest.
        arrows: from node to node.
        ax: where to draw; a figure of its own by default.

    Raises:
        ValueError: no nodes, or an arrow from or to something that is no node.
    """
    if not layers:
        raise ValueError("layers must have at least one node, got none")
    unknown = [node for arrow in arrows for node in arrow if node not in layers]
    if unknown:
        raise ValueError(f"arrows must join nodes ({', '.join(layers)}), got {unknown}")
    rows: dict[int, list[str]] = {}
    for node, layer in layers.items():
        rows.setdefault(layer, []).append(node)
    height = max(rows) + 1
    if ax is None:
        ax = new_axes(WIDTH, 0.5 + 0.75 * height)
    at = {
        node: ((i + 0.5) / len(nodes), layer)
        for layer, nodes in rows.items()
        for i, node in enumerate(nodes)
    }
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": GREY}
    drawn = {
        node: ax.text(*place, short_name(node, 16), ha="center", va="center", color=INK, bbox=box)
        for node, place in at.items()
    }
    for cause, effect in arrows:
        ax.annotate(
            "",
            at[effect],
            at[cause],
            arrowprops={
                "arrowstyle": "-|>",
                "color": GREY,
                # The arrow begins and ends at the boxes, however large their letters make them.
                "patchA": drawn[cause].get_bbox_patch(),
                "patchB": drawn[effect].get_bbox_patch(),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.5, height - 0.5)
    ax.set_axis_off()
    return ax
