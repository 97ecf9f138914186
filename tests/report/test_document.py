"""The page that was saved, read back with the standard library's parser."""

import base64
import re
import struct
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from reft_interp import plotting
from reft_interp.report import Report

FRAME = pd.DataFrame(
    {
        "method": ["DAS", "random <subspace>", "=1+1"],
        "iia": [0.9123456789012345, 1 / 3, np.nan],
        "low": [0.81, 0.3, np.nan],
        "high": [0.93, 0.4, np.nan],
        "n": [100, 200, 300],
        "trained": [True, False, False],
    }
)
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Every element as (path, attributes, text within), and a check that tags match."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict, list[str]]] = []
        self.stack: list[tuple[str, dict, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        path = " ".join([*(element[0].split()[-1] for element in self.stack), tag])
        element = (path, dict(attrs), [])
        self.elements.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag):
        assert self.stack.pop()[0].split()[-1] == tag

    def handle_data(self, data):
        for element in self.stack:
            element[2].append(data)

    def all(self, tag):
        return [element for element in self.elements if element[0].split()[-1] == tag]

    def texts(self, tag):
        return [" ".join("".join(element[2]).split()) for element in self.all(tag)]


def picture(size=(4, 3)):
    ax = Figure(figsize=size, layout="constrained").subplots()
    ax.plot([0, 1], [0, 1])
    ax.set(title="A line", xlabel="steps", ylabel="loss (nats)")
    return ax


@pytest.fixture
def report():
    return (
        Report("Does it?", subtitle="A <test>", summary="It **does**.")
        .section("First", "Some `code`.\n\nMore.")
        .table(FRAME, caption="All `iia`s.", name="iia")
        .section("Second & last")
        .figure(picture(), caption="A line.", name="line")
        .footer({"seed": 0, "learning rate": 0.004, "deterministic": True})
    )


@pytest.fixture
def page(report, tmp_path):
    return Page(report.save(tmp_path / "new" / "out").read_text("utf-8"))


def test_headings_contents_and_sections_agree(page):
    assert page.texts("title") == page.texts("h1") == ["Does it?"]
    assert page.texts("h2") == ["First", "Second & last", "How this was made"]
    assert page.texts("a") == ["First", "Second & last"]
    targets = ["#" + attributes["id"] for _, attributes, _ in page.all("section")]
    assert [attributes["href"] for _, attributes, _ in page.all("a")] == targets
    assert page.texts("strong") == ["does"]
    assert "Some code." in page.texts("p")


def test_a_table_has_a_caption_and_its_columns_have_a_scope(page):
    assert page.texts("caption") == ["Table 1. All iias. tables/iia.csv"]
    assert page.texts("th") == ["method", "iia", "interval", "n", "trained"]
    assert {attributes["scope"] for _, attributes, _ in page.all("th")} == {"col"}
    assert page.texts("td") == [
        *["DAS", "0.912", "[0.810, 0.930]", "100", "yes"],
        *["random <subspace>", "0.333", "[0.300, 0.400]", "200", "no"],
        *["=1+1", "—", "—", "300", "no"],
    ]


def test_a_table_scrolls_in_its_own_box_and_by_keyboard(page):
    (path, _, _) = page.all("table")[0]
    assert path.split()[-2] == "div"
    boxes = [attributes for _, attributes, _ in page.all("div") if "tabindex" in attributes]
    assert [box["role"] for box in boxes] == ["region", "region"]  # the table's, the figure's
    assert all(box["aria-label"] for box in boxes)
    style = page.texts("style")[0]
    assert re.search(r"\.table \{[^}]*overflow-x: auto", style)


def test_the_csv_file_is_the_frame(report, tmp_path):
    report.save(tmp_path)
    saved = pd.read_csv(tmp_path / "tables" / "iia.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(saved, FRAME, check_exact=True)


def test_a_figure_is_a_sharp_png_on_the_page_and_beside_it(report, page, tmp_path):
    png = (tmp_path / "new" / "out" / "figures" / "line.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    at = png.index(b"pHYs") + 4
    per_metre, _, unit = struct.unpack(">IIB", png[at : at + 9])
    dpi = per_metre * 0.0254
    assert unit == 1 and dpi >= 150
    # 4 x 3 inches, cut to what is drawn: a little less, never half.
    assert 0.85 * 4 < width / dpi < 1.1 * 4 and 0.85 * 3 < height / dpi < 1.1 * 3
    ((path, image, _),) = page.all("img")
    assert "figure" in path.split()
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == png
    assert (int(image["width"]), int(image["height"])) == pytest.approx(
        (width / dpi * 96, height / dpi * 96), abs=1
    )
    assert image["alt"] == "A line. steps and loss (nats)"
    assert page.texts("figcaption") == ["Figure 1. A line. figures/line.png"]


def test_the_figure_is_shown_as_it_was_when_it_was_added():
    ax = picture()
    one, two = Report("r"), Report("r")
    one.figure(ax, caption="c", name="f")
    before = one.html()
    two.figure(ax.figure, caption="c", name="f")
    assert two.html() == before  # Axes stand for their figure; and the bytes are the same
    ax.plot([0, 1], [1, 0])
    assert one.html() == before
    assert Report("r").figure(ax, caption="c", name="f").html() != before


def test_figures_within_figures_are_shown_whole():
    figure = Figure()
    left, right = np.asarray(figure.subfigures(1, 2))
    left.subplots().set_title("left")
    ax = right.subplots()
    ax.set_title("right", loc="right")
    page = Page(Report("r").figure(ax, caption="c", name="f").html())
    assert page.all("img")[0][1]["alt"] == "left. right"


def test_pyplots_figures_are_neither_closed_nor_leaked(tmp_path):
    figure, ax = pyplot.subplots()
    try:
        Report("r").figure(ax, caption="c", name="f").save(tmp_path)
        assert pyplot.get_fignums() == [figure.number]
    finally:
        pyplot.close(figure)


def test_alt_text_can_be_given_and_is_never_missing():
    bare = Figure()
    bare.subplots()
    report = Report("r").figure(bare, caption="The caption.", name="a")
    report.figure(bare, caption="The caption.", name="b", alt='A "bare" frame')
    alts = [attributes["alt"] for _, attributes, _ in Page(report.html()).all("img")]
    assert alts == ["The caption.", 'A "bare" frame']


def test_our_own_plots_fit_in():
    ax = plotting.intervals(FRAME, value="iia", label="method")
    page = Page(Report("r").figure(ax, caption="c", name="iia").html())
    assert page.all("img")[0][1]["alt"].startswith("IIA by method")


def test_nothing_is_loaded_from_elsewhere(page):
    for _, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert re.match(r"data:|#|$", attributes.get(name) or "")
    assert not page.all("script") and not page.all("link")
    assert "url(" not in page.texts("style")[0] and "@import" not in page.texts("style")[0]


def test_text_about_the_web_is_text():
    report = Report("r").prose("See https://arxiv.org/abs/2404.03592.")
    page = Page(report.html())
    assert page.texts("p") == ["See https://arxiv.org/abs/2404.03592."]
    assert not page.all("a")


ATTACK = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>"


def test_no_text_becomes_html():
    frame = pd.DataFrame({ATTACK: [ATTACK]})
    report = Report(ATTACK, subtitle=ATTACK, summary=ATTACK)
    report.prose(ATTACK).section(ATTACK, ATTACK).section("second")
    report.table(frame, caption=ATTACK, name="t").footer({ATTACK: ATTACK}).footer(frame)
    report.figure(picture(), caption=ATTACK, name="f", alt=ATTACK)
    page = Page(report.html())
    assert not page.all("script")
    assert len(page.all("img")) == 1
    assert page.all("img")[0][1]["alt"] == ATTACK
    for tag in ("title", "h1", "h2", "a", "p", "td", "th", "dt", "dd"):
        assert ATTACK in page.texts(tag), tag
    assert any(ATTACK in text for text in page.texts("caption") + page.texts("figcaption"))


def test_the_page_is_made_for_phones_paper_and_the_dark(page):
    metas = {attributes.get("name"): attributes for _, attributes, _ in page.all("meta")}
    assert metas["viewport"]["content"] == "width=device-width, initial-scale=1"
    style = page.texts("style")[0]
    assert "@media print" in style and "prefers-color-scheme: dark" in style
    (size,) = re.findall(r"html \{ font-size: ([\d.]+)%", style)
    assert float(size) >= 100  # a browser's 100 % is 16 px
    assert page.all("html")[0][1]["lang"] == "en"


def test_the_footer_says_how_to_do_it_again(page):
    assert page.texts("dt") == ["seed", "learning rate", "deterministic"]
    assert page.texts("dd") == ["0", "0.004", "yes"]


def test_a_footer_may_be_a_table_and_has_no_file():
    report = Report("r").footer(FRAME).footer({"seed": 1})
    page = Page(report.html())
    assert len(page.all("tr")) == 4 and page.texts("dd") == ["1"]
    assert not page.all("caption")


def test_a_short_report_needs_no_contents():
    page = Page(Report("r").prose("Before any heading.").section("Only one").html())
    assert not page.all("nav") and not page.all("footer")
    assert page.texts("p") == ["Before any heading."]


def test_wide_tables_and_figures_are_marked():
    wide = pd.DataFrame([range(12)], columns=[f"c{k}" for k in range(12)])
    report = Report("r").table(wide, caption="c", name="t").table(FRAME, caption="c", name="u")
    report.figure(picture((9, 2)), caption="c", name="f").figure(picture(), caption="c", name="g")
    page = Page(report.html())
    boxes = [a["class"] for _, a, _ in page.all("div") if a.get("class", "").startswith("table")]
    assert boxes == ["table wide", "table"]
    assert [attributes.get("class") for _, attributes, _ in page.all("img")] == ["wide", None]


def test_saving_keeps_what_else_is_in_the_folder(report, tmp_path):
    (tmp_path / "figures").mkdir()
    for kept in ("notes.txt", "figures/mine.png"):
        (tmp_path / kept).write_text("mine")
    assert report.save(str(tmp_path)) == tmp_path / "report.html"
    report.save(tmp_path)  # and once more, over itself
    files = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert files == {
        *("notes.txt", "figures/mine.png"),
        *("report.html", "figures/line.png", "tables/iia.csv"),
    }
    assert (tmp_path / "notes.txt").read_text() == "mine"


def everything_in(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_a_failing_save_leaves_the_old_report_as_it_was(report, tmp_path):
    old = tmp_path / "out"
    Report("old").section("s").save(old)
    # A folder stands where the table has to go: the failure comes in the middle of the moves.
    (old / "tables" / "iia.csv").mkdir(parents=True)
    before = (old / "report.html").read_bytes()
    with pytest.raises(OSError, match=r"iia\.csv"):
        report.save(old)
    assert (old / "report.html").read_bytes() == before
    assert not list(old.glob(".report-*"))  # no draft stays behind
    (old / "tables" / "iia.csv").rmdir()
    report.save(old)
    assert (old / "report.html").read_bytes() != before  # it was that folder's fault


@pytest.mark.parametrize("blocked", ["", "figures"])
def test_a_file_in_the_way_is_an_error_before_anything_is_written(report, tmp_path, blocked):
    folder = tmp_path / "out"
    if blocked:
        folder.mkdir()
    (folder / blocked).write_text("mine")
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match=r"folder must be a place for a report, but .* is a file"):
        report.save(folder)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "../a", ".hidden", "a b", "a.", "a..b", "naïve", "con", "NUL.txt", "x" * 101],
)
def test_a_name_that_is_no_file_name_is_an_error(name):
    with pytest.raises(ValueError, match="name must be a file name"):
        Report("r").table(FRAME, caption="c", name=name)
    with pytest.raises(ValueError, match="name must be a file name"):
        Report("r").figure(picture(), caption="c", name=name)


def test_names_are_unique_within_tables_and_within_figures():
    report = Report("r").table(FRAME, caption="c", name="iia")
    report.figure(picture(), caption="c", name="iia")  # tables/iia.csv, figures/iia.png
    for name in ("iia", "IIA"):
        with pytest.raises(ValueError, match=f"unique, but there is a table '{name}'"):
            report.table(FRAME, caption="c", name=name)
        with pytest.raises(ValueError, match=f"unique, but there is a figure '{name}'"):
            report.figure(picture(), caption="c", name=name)
    report.table(FRAME, caption="c", name="a.b-c_1")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: Report(" "), ValueError, "title must say what the report is about"),
        (lambda: Report("r").section(""), ValueError, "heading must not be empty"),
        (
            lambda: Report("r").table(pd.DataFrame(), caption="c", name="t"),
            ValueError,
            "frame must have at least one column",
        ),
        (
            lambda: Report("r").figure("line.png", caption="c", name="f"),  # pyright: ignore
            TypeError,
            "figure must be a matplotlib Figure or Axes, got str",
        ),
    ],
)
def test_mistakes_are_found_where_they_are_made(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_an_empty_table_shows_its_columns():
    page = Page(Report("r").table(FRAME.iloc[:0], caption="c", name="t").html())
    assert page.texts("th") == ["method", "iia", "interval", "n", "trained"]
    assert not page.all("td")
