"""What is drawn is what the frame says: numbers are read back from the artists."""

import subprocess
import sys
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from reft_interp import plotting
from reft_interp.plotting import style

METHODS = pd.DataFrame(
    {
        "method": ["DAS rank 4", "no intervention", "random subspace of the same rank, 10 seeds"],
        "iia": [0.91, 0.03, 1.0],
        "low": [0.84, 0.01, np.nan],
        "high": [0.95, 0.08, np.nan],
    }
)
PROBES = pd.DataFrame(
    {
        "subspace": ["writes", "reads", "writes", "reads"],
        "probe": ["inside", "inside", "random", "random"],
        "accuracy": [0.93, 0.88, 0.61, 0.56],
        "low": [0.9, 0.8, 0.5, 0.5],
        "high": [0.95, 0.9, 0.7, 0.6],
    }
)
ANGLES = pd.DataFrame(
    {
        "series": ["writes", "writes", "reads", "reads"],
        "index": [2, 1, 1, 2],
        "angle": [60.0, 15.0, 30.0, 90.0],
    }
)
CELLS = pd.DataFrame(
    {
        "layer": [3, 0, 3, 0],
        "position": ["subject", "subject", "last", "last"],
        "iia": [0.5, 0.25, 1.0, np.nan],
        "low": [0.4, 0.2, 0.9, np.nan],
        "high": [0.6, 0.3, 1.0, np.nan],
    }
)


def artists(ax, gid) -> list[Any]:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def dots(ax):
    """(x, y) of every dot, top to bottom."""
    points = np.concatenate([line.get_xydata() for line in artists(ax, "value")])
    return points[np.argsort(points[:, 1])]


def segments(ax):
    """(low, high) of every interval, top to bottom."""
    pieces = [np.array(s) for drawn in ax.collections for s in drawn.get_segments()]
    return [tuple(piece[:, 0]) for piece in sorted(pieces, key=lambda piece: piece[0, 1])]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def nothing_is_clipped(ax):
    """Everything that is written lies inside the figure, but for a few hundredths of an inch."""
    ax.figure.draw_without_rendering()  # lays it out
    drawn, page = ax.figure.get_tightbbox(), ax.figure.get_size_inches()
    return drawn.min.min() > -0.05 and np.all(drawn.max < page + 0.05)


def test_the_check_for_clipping_can_fail():
    figure = Figure(figsize=(2, 2))  # no layout: a long label runs off the page
    figure.subplots().set_ylabel("a label that is much too long for its figure")
    assert not nothing_is_clipped(figure.axes[0])


ALL = {
    "intervals": lambda ax=None: plotting.intervals(
        METHODS, value="iia", label="method", reference=0.25, ax=ax
    ),
    "grouped_intervals": lambda ax=None: plotting.grouped_intervals(
        PROBES, value="accuracy", label="probe", group="subspace", reference=0.5, ax=ax
    ),
    "angles": lambda ax=None: plotting.angles(ANGLES, expected=[80, 85], ax=ax),
    "loss_curve": lambda ax=None: plotting.loss_curve(
        ANGLES, step="index", loss="angle", series="series", ax=ax
    ),
    "heatmap": lambda ax=None: plotting.heatmap(
        CELLS, x="position", y="layer", value="iia", low="low", high="high", ax=ax
    ),
}


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL.keys())
def test_every_figure_says_what_it_shows(draw):
    ax = draw()
    assert ax.get_title(loc="left")
    assert ax.get_xlabel()
    if draw is not ALL["intervals"] and draw is not ALL["grouped_intervals"]:  # rows have names
        assert ax.get_ylabel()
    assert nothing_is_clipped(ax)


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL.keys())
def test_draws_on_the_axes_it_is_given(draw):
    ax = Figure(layout="constrained").subplots()
    assert not ax.has_data()
    assert draw(ax) is ax
    assert ax.has_data()


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL.keys())
def test_leaves_pyplot_and_its_settings_alone(draw):
    before = dict(matplotlib.rcParams)
    assert not pyplot.get_fignums()
    draw()
    assert not pyplot.get_fignums()
    assert dict(matplotlib.rcParams) == before


def test_intervals_draws_the_numbers_of_the_frame_from_top_to_bottom():
    ax = plotting.intervals(METHODS, value="iia", label="method")
    np.testing.assert_array_equal(dots(ax)[:, 0], METHODS["iia"])
    assert ax.yaxis_inverted()  # the first row is on top
    assert [t.get_text().replace("\n", " ") for t in ax.get_yticklabels()] == [*METHODS["method"]]
    assert [text.get_text() for text in artists(ax, "number")] == ["0.910", "0.030", "1.000"]


def test_shares_that_are_all_small_are_told_apart_where_that_is_asked():
    small = METHODS.assign(
        iia=[0.01, 0.05, 0.02], low=[0.0, 0.02, np.nan], high=[0.02, 0.08, np.nan]
    )
    assert plotting.intervals(small, value="iia", label="method").get_xlim()[1] > 1
    narrow = plotting.intervals(small, value="iia", label="method", whole=False)
    assert 0.08 < narrow.get_xlim()[1] < 0.1
    nothing = METHODS.assign(iia=0.0, low=0.0, high=0.0)
    assert plotting.intervals(nothing, value="iia", label="method", whole=False).get_xlim()[1] > 1


def test_a_missing_interval_leaves_just_the_dot():
    ax = plotting.intervals(METHODS, value="iia", label="method")
    assert segments(ax) == [(0.84, 0.95), (0.01, 0.08)]  # two intervals, three dots
    assert len(dots(ax)) == 3
    bare = plotting.intervals(METHODS, value="iia", label="method", low=None, high=None)
    assert segments(bare) == []
    assert len(dots(bare)) == 3


def test_a_missing_value_keeps_its_row():
    frame = METHODS.assign(iia=[None, 0.03, 1.0])
    ax = plotting.intervals(frame, value="iia", label="method")
    assert [text.get_text() for text in artists(ax, "number")] == ["–", "0.030", "1.000"]
    assert len(ax.get_yticks()) == 3


def test_proportions_are_drawn_between_0_and_1_and_nothing_else_is():
    ax = plotting.intervals(METHODS, value="iia", label="method")
    np.testing.assert_allclose(ax.get_xlim(), (0, 1), atol=0.02)
    ax = plotting.intervals(METHODS.assign(iia=[120, 80, 100]), value="iia", label="method")
    assert ax.get_xlim()[1] > 120


def test_controls_are_grey_and_in_their_places():
    frame = METHODS.assign(control=[False, True, True])
    ax = plotting.intervals(frame, value="iia", label="method", control="control")
    own, controls = artists(ax, "value")
    assert own.get_xdata().tolist() == [0.91] and own.get_color() == style.PALETTE[0]
    assert controls.get_xdata().tolist() == [0.03, 1.0] and controls.get_color() == style.GREY
    assert dots(ax)[:, 0].tolist() == [0.91, 0.03, 1.0]
    with pytest.raises(ValueError, match="control must be a column of the frame"):
        plotting.intervals(METHODS, value="iia", label="method", control="grey")


def test_panels_share_one_figure_two_beside_each_other():
    axes: Any = plotting.panels([3, 3, 1])
    assert len(axes) == len(axes[0].figure.axes) == 3
    for ax in axes:
        plotting.intervals(METHODS, value="iia", label="method", ax=ax)
    axes[0].figure.draw_without_rendering()
    boxes = [ax.get_position() for ax in axes]
    assert boxes[0].x1 < boxes[1].x0 and boxes[2].y1 < boxes[0].y0
    assert len(plotting.panels([2])) == 1


@pytest.mark.parametrize(("at", "align"), [(0.0, "left"), (0.5, "center"), (1, "right")])
def test_the_reference_is_a_line_with_its_name_inside_the_figure(at, align):
    ax = plotting.intervals(METHODS, value="iia", label="method", reference=at)
    (line,) = artists(ax, "reference")
    assert set(line.get_xdata()) == {at}
    (name,) = (text for text in ax.texts if "chance" in text.get_text())
    assert name.get_text() == f"chance {at:.3g}"
    assert name.get_horizontalalignment() == align
    assert not artists(plotting.intervals(METHODS, value="iia", label="method"), "reference")


def test_long_names_are_wrapped_into_even_lines_and_dollars_are_dollars():
    names = ["random subspace (10 seeds)", "costs $5 or $6", "blocks.15.hook_resid_post_and_more"]
    ax = plotting.intervals(METHODS.assign(method=names), value="iia", label="method")
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown[:2] == ["random subspace\n(10 seeds)", r"costs \$5 or \$6"]
    assert shown[2].replace("\n", "") == names[2]
    assert nothing_is_clipped(ax)  # it is drawn, too: "$5 or $" would be taken for mathematics


def test_titles_and_labels_are_the_callers_to_change():
    draw: dict[str, Any] = {"value": "iia", "label": "method"}
    ax = plotting.intervals(METHODS, **draw)
    assert (ax.get_title(loc="left"), ax.get_xlabel()) == ("IIA by method", "IIA")
    ax = plotting.intervals(METHODS, title="", xlabel="IIA on 100 pairs", **draw)
    assert (ax.get_title(loc="left"), ax.get_xlabel()) == ("", "IIA on 100 pairs")


def test_groups_stand_together_under_their_names():
    ax = plotting.grouped_intervals(PROBES, value="accuracy", label="probe", group="subspace")
    # In the frame groups alternate; on the page, writes (0.93, 0.61) come before reads.
    np.testing.assert_array_equal(dots(ax)[:, 0], [0.93, 0.61, 0.88, 0.56])
    assert segments(ax) == [(0.9, 0.95), (0.5, 0.7), (0.8, 0.9), (0.5, 0.6)]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["inside", "random"] * 2
    heads = {text.get_text(): text.get_position()[1] for text in ax.texts if text.get_bbox_patch()}
    y = dots(ax)[:, 1]
    assert heads["writes"] < y[0] < y[1] < heads["reads"] < y[2] < y[3]


def test_a_label_has_one_colour_and_one_marker_in_every_group():
    ax = plotting.grouped_intervals(PROBES, value="accuracy", label="probe", group="subspace")
    inside, random = artists(ax, "value")
    assert [len(line.get_xdata()) for line in (inside, random)] == [2, 2]
    assert inside.get_marker() != random.get_marker()
    assert inside.get_color() != random.get_color()


def test_neighbouring_colours_differ_in_grey():
    """As a printer mixes it (ITU-R BT.601), one step to the next."""
    grey = [np.dot(to_rgb(colour), [0.299, 0.587, 0.114]) for colour in style.PALETTE]
    assert min(abs(np.diff(grey))) > 0.04
    assert len(set(style.MARKERS)) == len(set(style.DASHES)) == len(style.PALETTE)


def test_angles_are_drawn_by_index():
    ax = plotting.angles(ANGLES)
    lines = {line.get_label(): np.array(line.get_xydata()).tolist() for line in ax.get_lines()}
    assert lines == {"writes": [[1, 15], [2, 60]], "reads": [[1, 30], [2, 90]]}  # sorted by index
    low, high = ax.get_ylim()
    assert low < 0 < 90 < high  # both ends are whole
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["writes", "reads"]


@pytest.mark.parametrize(
    ("expected", "drawn"),
    [(84, [84, 84, 84, 84]), ([80.0, 85.0], [80, 80, 85, 85]), (np.array([7.0, 8]), [7, 7, 8, 8])],
)
def test_expected_angles_reach_half_a_step_further(expected, drawn):
    (line,) = artists(plotting.angles(ANGLES, expected=expected), "expected")
    np.testing.assert_allclose(line.get_xdata(), [0.6, 1, 2, 2.4])
    np.testing.assert_allclose(line.get_ydata(), drawn)


def test_expected_angles_may_have_a_band():
    frame = pd.DataFrame({"index": [2, 1], "angle": [85, 80], "low": [83, 77], "high": [88, 84]})
    ax = plotting.angles(ANGLES, expected=frame, expected_label="rank 2 at random")
    (line,) = artists(ax, "expected")
    assert line.get_ydata().tolist() == [80, 80, 85, 85]
    assert line.get_label() == "rank 2 at random"
    (band,) = artists(ax, "expected band")
    corners = band.get_paths()[0].vertices
    assert {(1, 77), (1, 84), (2, 83), (2, 88)} <= {(x, y) for x, y in corners.tolist()}
    without = plotting.angles(ANGLES, expected=frame.drop(columns=["low", "high"]))
    assert artists(without, "expected")[0].get_ydata().tolist() == [80, 80, 85, 85]


def test_loss_curves_are_the_frame_in_the_order_of_the_steps():
    frame = pd.DataFrame({"step": [20, 0, 10], "loss": [0.5, 2.0, np.nan]})
    ax = plotting.loss_curve(frame, step="step", loss="loss", ylabel="cross-entropy (nats)")
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[0, 2], [10, np.nan], [20, 0.5]])
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylabel() == "cross-entropy (nats)"
    assert ax.get_legend() is None  # one line needs no name


def test_a_negative_loss_is_not_cut_off():
    frame = pd.DataFrame({"step": [0, 1], "loss": [0.5, -2.0]})
    assert plotting.loss_curve(frame, step="step", loss="loss").get_ylim()[0] < -2


def test_heatmap_puts_each_number_into_its_cell():
    ax = plotting.heatmap(CELLS, x="position", y="layer", value="iia")
    # Layers grow upwards, positions keep the order of the frame.
    assert [t.get_text() for t in ax.get_yticklabels()] == ["3", "0"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["subject", "last"]
    drawn = np.ma.filled(np.ma.asarray(ax.images[0].get_array()), np.nan)
    np.testing.assert_array_equal(drawn, [[0.5, 1.0], [0.25, np.nan]])
    assert texts(ax) == ["0.50", "1.00", "0.25", "–"]
    assert ax.images[0].get_clim() == (0, 1)


def test_heatmap_writes_intervals_below_the_numbers():
    ax = plotting.heatmap(CELLS, x="position", y="layer", value="iia", low="low", high="high")
    assert texts(ax)[:2] == ["0.50\n[0.40, 0.60]", "1.00\n[0.90, 1.00]"]


def test_a_cell_that_is_not_in_the_frame_has_a_dash():
    ax = plotting.heatmap(CELLS.iloc[1:], x="position", y="layer", value="iia")
    assert texts(ax) == ["–", "1.00", "0.25", "–"]


def test_numbers_in_cells_stand_out_from_their_cells():
    frame = pd.DataFrame({"x": range(11), "y": 0, "value": np.linspace(0, 1, 11)})
    ax = plotting.heatmap(frame, x="x", y="y", value="value")
    image = ax.images[0]

    def luminance(colour):  # WCAG 2.1
        c = np.array(to_rgb(colour))
        return np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
            0.2126,
            0.7152,
            0.0722,
        ]

    for text, value in zip(ax.texts, frame["value"], strict=True):
        cell, ink = luminance(image.to_rgba(value)[:3]), luminance(text.get_color())
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 4.5  # level AA


def test_many_long_names_below_a_heatmap_are_not_clipped():
    names = [f"blocks.{k}.hook_resid_post" for k in range(12)]
    frame = pd.DataFrame({"site": names, "task": "number agreement", "logit": np.arange(12) * 100})
    ax = plotting.heatmap(frame, x="site", y="task", value="logit")
    assert nothing_is_clipped(ax)
    assert texts(ax)[-1] == "1.1e+03"
    assert ax.images[0].get_clim() == (0, 1100)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"value": "acc"}, ValueError, r"value must be a column .*method, iia, low, high.*'acc'"),
        ({"label": "name"}, ValueError, "label must be a column"),
        ({"low": "lower"}, ValueError, "low must be a column"),
        ({"low": None}, ValueError, "low and high must be given together"),
        ({"value": "method"}, TypeError, "value must be a column of numbers"),
        ({"low": "high", "high": "low"}, ValueError, "low must not exceed high, but in row 0"),
        ({"frame": METHODS.iloc[:0]}, ValueError, "at least one row"),
    ],
)
def test_a_frame_that_does_not_fit_is_an_error_that_says_why(change, error, message):
    with pytest.raises(error, match=message):
        plotting.intervals(**{"frame": METHODS, "value": "iia", "label": "method", **change})


def test_radians_and_negative_angles_are_no_degrees():
    with pytest.raises(ValueError, match=r"degrees between 0 and 90, .* from 15 to 95"):
        plotting.angles(ANGLES.assign(angle=[60, 15, 30, 95]))


def test_expected_angles_must_match_the_indices():
    with pytest.raises(ValueError, match=r"each of the 2 indices, got shape \(3,\)"):
        plotting.angles(ANGLES, expected=[80.0, 85.0, 89.0])


def test_two_numbers_for_one_cell_are_an_error():
    with pytest.raises(ValueError, match="two rows for the cell position='subject', layer=3"):
        plotting.heatmap(CELLS.assign(layer=3), x="position", y="layer", value="iia")


@pytest.mark.parametrize(
    ("code", "loaded"),
    [("import reft_interp.plotting", False), ("import matplotlib.figure", True)],
)
def test_importing_it_loads_neither_matplotlib_nor_torch(code, loaded):
    check = f"import sys; {code}; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(loaded), "False"]


def test_in_a_notebook_each_figure_shows_itself_once():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = (
        "import pandas as pd; from reft_interp import plotting\n"
        "frame = pd.DataFrame({'method': ['a'], 'iia': [0.5]})\n"
        "ax = plotting.intervals(frame, value='iia', label='method', low=None, high=None)"
    )
    count = "import matplotlib.pyplot as plt; print(len(plt.get_fignums()))"
    # Twice: a first figure that ends interactive drawing would hide all later ones.
    cells = [nbformat.v4.new_code_cell(text) for text in (code, code, count)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    for cell in notebook.cells[:2]:
        shown = [out for out in cell.outputs if "image/png" in out.get("data", {})]
        assert len(shown) == 1
    assert notebook.cells[2].outputs[0].text.strip() == "0"  # and it was closed


def test_a_graph_needs_nodes_and_arrows_between_them():
    with pytest.raises(ValueError, match="at least one node"):
        plotting.graph({}, [])
    with pytest.raises(ValueError, match=r"got \['z'\]"):
        plotting.graph({"x": 0}, [("x", "z")])


def test_trade_off_draws_points_and_what_costs_nothing_as_lines():
    frame = pd.DataFrame(
        {
            "method": ["untouched", "LoReFT", "LoRA"],
            "parameters": [0, 1000, 100_000],
            "score": [0.5, 0.8, 0.9],
            "low": [0.4, 0.7, 0.85],
            "high": [0.6, 0.9, 0.95],
        }
    )
    ax: Any = plotting.trade_off(frame, cost="parameters", value="score", label="method")
    assert ax.get_xscale() == "log"
    points = {c.get_label(): c.lines[0].get_xydata()[0].tolist() for c in ax.containers}
    assert points == {"LoReFT": [1000, 0.8], "LoRA": [100_000, 0.9]}
    (bar,) = ax.containers[0].lines[2]
    assert np.allclose(bar.get_segments()[0], [[1000, 0.7], [1000, 0.9]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(frame["method"])
    with pytest.raises(ValueError, match="cost must be 0 or more, but column 'parameters' has -1"):
        plotting.trade_off(
            frame.assign(parameters=-1), cost="parameters", value="score", label="method"
        )


def test_a_figure_is_a_file_of_the_format_of_its_ending_or_not_at_all(tmp_path, monkeypatch):
    figure = pyplot.figure()
    ax = figure.add_subplot()
    for name, begins in (("f.png", b"\x89PNG"), ("f.pdf", b"%PDF"), ("f.SVG", b"<?xml")):
        plotting.save_figure(ax, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    with pytest.raises(ValueError, match="'txt' is not supported"):
        plotting.save_figure(ax, tmp_path / "f.txt")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(self, file, **_):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="no space left"):
        plotting.save_figure(ax, tmp_path / "f.png")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert set(before) == {"f.png", "f.pdf", "f.SVG"}
    pyplot.close(figure)
