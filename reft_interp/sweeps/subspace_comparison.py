"""What was found of the subspaces of a comparison's ReFTs: frames, one figure, one page.

Next door: `compared_subspaces` asks, `subspace_document` writes the page.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Question = Literal["encoded", "interchanges", "overlaps", "effects"]


@dataclass(frozen=True, eq=False, repr=False)
class SubspaceComparison:
    """What the ReFTs of a comparison write, against each other and against controls; and what they
    read, against DAS. "LoReFT" is what it writes, "LoReFT (read)" what it reads."""

    encoded: pd.DataFrame = field(repr=False)
    """What the untouched model holds in a subspace, at the last of the tokens that are edited:
    subspace, seed, site, tokens, rank; accuracy (of a linear probe for the label, out of fold),
    low, high (95 %, Wilson), random, random low, random high (mean and range of random subspaces),
    shuffled labels, whole vector, majority, n (test rows), all NaN where there is no label;
    variance (the share of the variance that lies inside), variance at random, variance random
    high."""
    promoted: pd.DataFrame = field(repr=False)
    """Tokens whose logits each principal axis of a subspace raises most: subspace, seed, site,
    tokens, direction (by falling variance), sign, promotes; a random subspace among them."""
    overlaps: pd.DataFrame = field(repr=False)
    """Mean squared cosine of the principal angles, of different seeds (the same one starts all
    trainings in one subspace; ReFTs with a start of their own are not compared with each other, as
    any of their seeds does): question, first, second, site, tokens,
    overlap, expected at random, random low, random high (the middle 95 % of draws). ReFTs that
    share no tokens at a site are compared by the site; both tokens are named."""
    effects: pd.DataFrame = field(repr=False)
    """How much of what a method changes in the residual stream lies in a subspace (a share of the
    squared length, summed over rows of the first test set, at the last of the tokens that are
    edited, in an encoder at the first of all): effect of, seed (the one training whose effect it
    is, the first), subspace, site, tokens, share, random (mean of draws), random high (the
    highest). Methods of peft's have a row, with the ReFT that was
    trained together with them, if any, in place too."""
    interchanges: pd.DataFrame = field(repr=False)
    """Does swapping what is inside swap the label? IIA on held-out pairs: subspace, seed, rank,
    site, tokens, iia, low, high, n; random subspaces of each rank among them. Of the suite's own
    pairs half have different answers, so that never changing one gives .5."""
    notes: tuple[str, ...] = ()
    """What could not be asked, and why."""

    def asked(self) -> list[Question]:
        """The questions that have answers."""
        return [one for one in get_args(Question) if len(_ROWS[one](getattr(self, one)))]

    def summary(self) -> pd.DataFrame:
        """Overlaps over places and pairs: question, overlap (mean), low, high (their range),
        expected (at random), random high (the highest of the pairs'), pairs."""
        rows: list[dict[str, Any]] = []
        for question, some in self.overlaps.groupby("question", sort=False):
            values = some["overlap"]
            rows.append(
                {
                    "question": question,
                    "overlap": values.mean(),
                    "low": values.min(),
                    "high": values.max(),
                    "expected": some["expected at random"].mean(),
                    "random high": some["random high"].max(),
                    "pairs": len(some),
                }
            )
        columns = ["question", "overlap", "low", "high", "expected", "random high", "pairs"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, question: Question = "overlaps", *, ax: "Axes | None" = None) -> "Axes":
        """One question's answer beside its controls (in grey): means, with ranges over places and
        seeds; of random subspaces the range of draws, of overlaps its middle 95 %, of effects from
        the lowest mean of draws to the highest draw.

        Args:
            question: "encoded" (is the label read inside?), "interchanges" (does a swap inside
                swap it?), "overlaps" or "effects" (how much of another method's lies inside?).
            ax: where to draw; a figure of its own by default.

        Raises:
            ValueError: no such question, or one that could not be asked.
        """
        from reft_interp import plotting

        if question not in get_args(Question):
            raise ValueError(
                f"question must be one of {', '.join(get_args(Question))}, got {question!r}"
            )
        if question not in self.asked():
            raise ValueError(f"{question!r} has no answer here. {' '.join(self.notes)}".strip())
        return plotting.intervals(
            _ROWS[question](getattr(self, question)), value="value", label="name",
            control="control", xlabel=_MEASURES[question], title=TITLES[question],
            # Overlaps of a few directions out of hundreds are small, and differ all the same.
            whole=question not in ("overlaps", "effects"), ax=ax,
        )  # fmt: skip

    def figure(self) -> "Figure":
        """All questions that have answers, on one figure.

        Raises:
            ValueError: none has.
        """
        from reft_interp import plotting

        asked = self.asked()
        if not asked:
            raise ValueError(f"there is nothing to draw. {' '.join(self.notes)}")
        axes = plotting.panels([len(_ROWS[one](getattr(self, one))) for one in asked])
        for question, ax in zip(asked, axes, strict=True):
            self.plot(question, ax=ax)
        figure = axes[0].get_figure(root=True)
        assert figure is not None  # new axes are on one
        return figure

    def save(self, folder: str | Path) -> Path:
        """Write `report.html`, its figures as PNG and all tables as CSV; gives the page's path."""
        from reft_interp.sweeps.subspace_document import document

        return document(self).save(folder)

    def tables(self) -> list[tuple[str, pd.DataFrame]]:
        """What was asked, with what was found, narrow enough for a terminal: means over seeds, of
        intervals too."""
        known: Any = self.encoded.dropna(axis="columns", how="all")
        held = [column for column in _HELD if column in known]
        place = ["subspace", "site", "tokens"]
        encoded: Any = known.groupby(place, sort=False)[held].mean().reset_index()
        if "n" in held:
            encoded["n"] = encoded["n"].astype(int)
        tables = [("What the untouched model holds in each subspace", encoded)]
        if len(self.promoted):
            first: Any = self.promoted[self.promoted["direction"] == 1]
            once = first.drop_duplicates([*place, "sign"])[[*place, "sign", "promotes"]]
            tables.append(("Tokens that the widest direction of each promotes (one seed)", once))
        tables.append(("Overlap of what is written", self.summary()))
        if len(self.effects):
            tables.append(
                (
                    "Share of the effect of a method's first training in a subspace",
                    _means(self.effects),
                )
            )
        if len(self.interchanges):
            tables.append(
                ("IIA of the label, swapped inside each subspace", _wide(self.interchanges))
            )
        return tables

    def __str__(self) -> str:
        texts = [
            f"{heading}\n{frame.to_string(index=False, float_format='{:.3f}'.format)}"
            for heading, frame in self.tables()
        ]
        return "\n\n".join([*texts, *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from reft_interp.sweeps.subspace_document import document

        return document(self).html()


TITLES: dict[Question, str] = {
    "encoded": "Is the label read inside?",
    "interchanges": "Does swapping inside swap the label?",
    "overlaps": "Do they write the same subspace?",
    "effects": "Is another method's effect inside?",
}
_MEASURES: dict[Question, str] = {
    "encoded": "probe accuracy, untouched model",
    "interchanges": "interchange intervention accuracy",
    "overlaps": "overlap (mean squared cosine)",
    "effects": "share of the effect",
}
_HELD = [
    "accuracy", "low", "high", "n", "random", "random high", "shuffled labels", "whole vector",
    "majority", "variance", "variance at random",
]  # fmt: skip


def _row(
    name: Any, values: Any, low: Any = None, high: Any = None, *, control: bool = False
) -> dict[str, Any]:
    """A column's mean and range; or the range from the lowest of `low` to the highest of `high`."""
    return {
        "name": str(name),
        "value": values.mean(),
        "low": (values if low is None else low).min(),
        "high": (values if high is None else high).max(),
        "control": control,
    }


def _encoded(frame: pd.DataFrame) -> pd.DataFrame:
    known: Any = frame[frame["accuracy"].notna()]
    rows = [_row(name, some["accuracy"]) for name, some in known.groupby("subspace", sort=False)]
    rows += [
        _row(f"random subspace, rank {rank}", some["random"], some["random low"],
             some["random high"], control=True)
        for rank, some in known.groupby("rank", sort=False)
    ]  # fmt: skip
    if rows:
        rows += [
            _row(name, known[name], control=True)
            for name in ("shuffled labels", "majority", "whole vector")
        ]
    return pd.DataFrame(rows)


def _interchanges(frame: pd.DataFrame) -> pd.DataFrame:
    if not len(frame):
        return frame
    controls = ("random subspace", "no intervention", "whole vector")
    searched: Any = frame[~frame["subspace"].isin(controls)]
    rows = [_row(name, some["iia"]) for name, some in searched.groupby("subspace", sort=False)]
    for name in controls:
        some: Any = frame[frame["subspace"] == name]
        ranks = some["rank"].dropna().unique()
        if len(ranks) > 1:
            rows += [
                _row(
                    f"{name}, rank {rank:.0f}", some.loc[some["rank"] == rank, "iia"], control=True
                )
                for rank in ranks
            ]
        elif len(some):
            rows.append(_row(name, some["iia"], control=True))
    return pd.DataFrame(rows)


def _overlaps(frame: pd.DataFrame) -> pd.DataFrame:
    rows = [_row(name, some["overlap"]) for name, some in frame.groupby("question", sort=False)]
    if rows:
        rows.append(
            _row("random subspaces", frame["expected at random"], frame["random low"],
                 frame["random high"], control=True)
        )  # fmt: skip
    return pd.DataFrame(rows)


def _effects(frame: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for effect, some in _named(frame).groupby("effect of", sort=False) if len(frame) else []:
        rows += [
            _row(f"{effect} in {name}", of["share"])
            for name, of in some.groupby("subspace", sort=False)
        ]
        rows.append(
            _row(f"{effect} in random subspaces", some["random"], high=some["random high"],
                 control=True)
        )  # fmt: skip
    return pd.DataFrame(rows)


_ROWS: dict[Question, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "encoded": _encoded,
    "interchanges": _interchanges,
    "overlaps": _overlaps,
    "effects": _effects,
}


def _named(effects: pd.DataFrame) -> pd.DataFrame:
    """With the subspaces' names as they are without their seeds."""
    return effects.assign(subspace=[name.rsplit(" ", 1)[0] for name in effects["subspace"]])


def _means(effects: pd.DataFrame) -> pd.DataFrame:
    means: Any = _named(effects).groupby(["effect of", "subspace", "site", "tokens"], sort=False)
    return means[["share", "random", "random high"]].mean().reset_index()


def _wide(interchanges: pd.DataFrame) -> pd.DataFrame:
    """IIA by subspace and site; ranks and tokens stand beside them where there are several."""
    ranks: Any = interchanges.groupby("subspace")["rank"].transform("nunique")
    tokens: Any = interchanges.groupby("site")["tokens"].transform("nunique")
    named: Any = interchanges.assign(
        subspace=[
            f"{one['subspace']}, rank {one['rank']:.0f}" if several > 1 else one["subspace"]
            for several, (_, one) in zip(ranks, interchanges.iterrows(), strict=True)
        ],
        site=[
            f"{one['site']}, {one['tokens']}" if several > 1 else one["site"]
            for several, (_, one) in zip(tokens, interchanges.iterrows(), strict=True)
        ],
    )
    wide = named.pivot_table(index="subspace", columns="site", values="iia", sort=False)
    return wide.reset_index()
