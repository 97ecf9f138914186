"""`Report`: collects prose, tables and figures, and saves them as one page.

What is added is rendered at once (a figure to PNG, a table to text), so a mistake shows up where
it was made, nothing keeps figures alive, and later changes to a frame do not reach the report.
"""

import base64
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import pandas as pd
from markupsafe import Markup

from reft_interp.report import cells, markup

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

DPI = 200
# Letters, digits, dots, dashes: a file name on every system, and safe inside an HTML id.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class _Block:
    """One thing on the page, with the file that goes beside the page, if there is one."""

    kind: Literal["prose", "table", "figure", "facts"]
    html: Markup = field(default_factory=Markup)
    caption: Markup = field(default_factory=Markup)
    number: int = 0
    columns: tuple[cells.Column, ...] = ()
    alt: str = ""
    width: int = 0
    """Of a figure, in CSS pixels at its natural size."""
    height: int = 0
    file: str = ""
    data: bytes = b""

    @property
    def source(self) -> str:
        """The figure as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.data).decode("ascii")

    @property
    def rows(self) -> list[tuple[tuple[cells.Column, str], ...]]:
        """The table's rows: each cell with its column."""
        length = len(self.columns[0].cells) if self.columns else 0
        return [
            tuple((column, column.cells[at]) for column in self.columns) for at in range(length)
        ]


@dataclass
class _Section:
    heading: str
    blocks: list[_Block] = field(default_factory=list)


class Report:
    """A page of findings: `report.html`, with its figures and tables also as files beside it.

    Prose, captions and the summary may hold `code` in backticks, *emphasis* and **strength**;
    empty lines separate paragraphs, and lines that start with "- " are a list. Everything else
    is text: nothing in it becomes HTML. Each method returns the report, so calls can be chained.

    ```python
    report = Report("Does the subspace hold the number?", summary="It does: IIA 0.91.")
    report.section("Training", "DAS, rank 4, at `blocks.15.hook_resid_post`.")
    report.table(result.to_frame(), caption="Held-out pairs.", name="iia")
    report.figure(result.plot(), caption="Against its controls.", name="iia")
    report.footer({"seed": 0, "model": "SmolLM2-135M"}).save("out")
    ```

    Args:
        title: the page's heading.
        subtitle: one line below it.
        summary: what was found, in a few sentences, for those who read nothing else.

    Raises:
        ValueError: the title is empty.
    """

    def __init__(self, title: str, *, subtitle: str = "", summary: str = ""):
        if not title.strip():
            raise ValueError(f"title must say what the report is about, got {title!r}")
        self.title = title
        self.subtitle = subtitle
        self.summary = summary
        self._sections = [_Section("")]  # what comes before the first heading
        self._footer = _Section("")

    def section(self, heading: str, prose: str = "") -> "Report":
        """Start a section; what is added next goes into it.

        Raises:
            ValueError: the heading is empty.
        """
        if not heading.strip():
            raise ValueError(f"heading must not be empty, got {heading!r}")
        self._sections.append(_Section(heading))
        return self.prose(prose) if prose else self

    def prose(self, text: str) -> "Report":
        """Add paragraphs."""
        return self._add(_Block("prose", html=markup.prose(text)))

    def table(self, frame: pd.DataFrame, *, caption: str, name: str) -> "Report":
        """Add a table, and `tables/<name>.csv` with all digits.

        On the page, numbers have three significant places, True and False are yes and no, a
        missing value is a dash, and a pair of columns `low` and `high` (or `x_low` and `x_high`)
        is one column of intervals. An index is shown if it has a name or is not of integers.

        Args:
            frame: what to show; it is copied.
            caption: what the table says, above it.
            name: the file's name without its ending, unique among the tables.

        Raises:
            ValueError: the frame has no columns, or `name` is taken or is no file name.
        """
        if len(frame.columns) == 0:
            raise ValueError(f"frame must have at least one column (table {name!r})")
        file = self._new_file("table", name)
        csv = cells.with_index(frame).to_csv(index=False, lineterminator="\n").encode("utf-8")
        return self._add(
            _Block(
                "table",
                caption=markup.inline(caption),
                number=self._count("table") + 1,
                columns=tuple(cells.columns(frame)),
                file=file,
                data=csv,
            )
        )

    def figure(
        self,
        figure: Union["matplotlib.figure.FigureBase", "matplotlib.axes.Axes"],
        *,
        caption: str,
        name: str,
        alt: str | None = None,
    ) -> "Report":
        """Add a figure as it is now, and `figures/<name>.png`.

        The figure is drawn, not kept and not closed: that stays with whoever made it.

        Args:
            figure: a matplotlib figure, or any of its Axes (the whole figure is shown).
            caption: what the figure shows, below it.
            name: the file's name without its ending, unique among the figures.
            alt: what the figure shows, for those who cannot see it. Default: the titles and
                axis labels that are drawn in it.

        Raises:
            ValueError: `name` is taken or is no file name.
            TypeError: `figure` is neither a figure nor Axes.
        """
        root = _root_figure(figure)
        file = self._new_file("figure", name)
        png = _png(root)
        width, height = (round(side * 96 / DPI) for side in struct.unpack(">II", png[16:24]))
        return self._add(
            _Block(
                "figure",
                caption=markup.inline(caption),
                number=self._count("figure") + 1,
                alt=_describe(root) or caption if alt is None else alt,
                width=width,
                height=height,
                file=file,
                data=png,
            )
        )

    def footer(self, facts: "pd.DataFrame | Mapping[str, Any]") -> "Report":
        """Add what somebody needs to run this again: versions, seeds, settings, times.

        Args:
            facts: names and values, or a table. More than one call adds more of them.
        """
        if isinstance(facts, pd.DataFrame):
            block = _Block("table", columns=tuple(cells.columns(facts)))
        else:
            names, values = tuple(map(str, facts)), tuple(map(cells.text, facts.values()))
            columns = (cells.Column("name", names, "text"), cells.Column("value", values, "text"))
            block = _Block("facts", columns=columns)
        self._footer.blocks.append(block)
        return self

    def html(self) -> str:
        """The page, whole: style and figures are inside, nothing is loaded from elsewhere."""
        from jinja2 import Environment, StrictUndefined

        files = resources.files("reft_interp.report")
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        template = environment.from_string(files.joinpath("template.html").read_text("utf-8"))
        return template.render(
            title=self.title,
            subtitle=markup.inline(self.subtitle),
            summary=markup.prose(self.summary),
            style=Markup(files.joinpath("style.css").read_text("utf-8")),
            sections=self._sections,
            footer=self._footer.blocks,
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.html`, `figures/*.png` and `tables/*.csv` into a folder.

        Everything is first written into a temporary folder inside `folder`, then moved, the page
        last: a failure leaves an older report as it was. Other files in the folder stay, and so
        do figures and tables of an older report that have no successor.

        Args:
            folder: created, with its parents, if it does not exist.

        Returns:
            The path of `report.html`.

        Raises:
            ValueError: `folder`, or a place in it where a folder has to be, is a file.
        """
        folder = Path(folder)
        files = {block.file: block.data for block in self._blocks() if block.file}
        for needed in [folder, *{(folder / name).parent for name in files}]:
            if needed.exists() and not needed.is_dir():
                raise ValueError(f"folder must be a place for a report, but {needed} is a file")
        files["report.html"] = self.html().encode("utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder, and so on its file system, where a move is atomic.
        draft = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
        try:
            for name, data in files.items():
                (draft / name).parent.mkdir(exist_ok=True)
                (draft / name).write_bytes(data)
            for name in files:  # report.html is the last of them
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(draft / name, folder / name)
        finally:
            shutil.rmtree(draft)
        return folder / "report.html"

    def _add(self, block: _Block) -> "Report":
        self._sections[-1].blocks.append(block)
        return self

    def _blocks(self) -> list[_Block]:
        return [block for section in self._sections for block in section.blocks]

    def _count(self, kind: str) -> int:
        return sum(block.kind == kind for block in self._blocks())

    def _new_file(self, kind: Literal["table", "figure"], name: str) -> str:
        if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name) or len(name) > 100:
            raise ValueError(
                "name must be a file name without its ending (letters, digits, '_', '-' and '.' "
                f"between them, 100 at most), got {name!r}"
            )
        file = f"tables/{name}.csv" if kind == "table" else f"figures/{name}.png"
        # Some file systems do not tell "IIA" from "iia".
        if file.lower() in {block.file.lower() for block in self._blocks()}:
            raise ValueError(f"name must be unique, but there is a {kind} {name!r} already")
        return file


def _root_figure(figure: Any) -> "matplotlib.figure.Figure":
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    if not isinstance(figure, Axes | FigureBase):
        raise TypeError(f"figure must be a matplotlib Figure or Axes, got {type(figure).__name__}")
    while not isinstance(figure, Figure):  # Axes, and figures within figures
        figure = figure.figure
    return figure


def _png(figure: "matplotlib.figure.Figure") -> bytes:
    """The figure at `DPI`, on white, cut to what is drawn; the same figure gives the same bytes."""
    file = BytesIO()
    figure.savefig(
        file,
        format="png",
        dpi=DPI,
        facecolor="white",
        bbox_inches="tight",
        pad_inches=0.08,
        metadata={"Software": None},
    )
    return file.getvalue()


def _describe(figure: "matplotlib.figure.Figure") -> str:
    """What is written on the figure: the title of each of its axes, and what the axes measure."""
    parts = []
    for ax in figure.axes:
        title = next((t for at in ("left", "center", "right") if (t := ax.get_title(at))), "")
        measures = [label for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        parts += [title, " and ".join(measures)]
    return ". ".join(" ".join(part.split()) for part in parts if part)
