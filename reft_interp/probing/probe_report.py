"""What probes of a trained ReFT found: its tables, as text, as a page and in a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reft_interp.evaluation import Comparison


@dataclass(frozen=True)
class ProbeReport:
    """What the subspaces of a trained ReFT encode, with the controls of each answer."""

    name: str
    """Of the intervention."""
    notes: tuple[str, ...]
    """What could not be asked, and why; and what the answers do not show: where DAS itself is not
    above its controls, rows are few, or a probe is not above those of shuffled labels and random
    subspaces."""
    linear: pd.DataFrame = field(repr=False)
    """Linear probes: subspace, read (what is predicted), part, value, low, high, n."""
    tokens: pd.DataFrame = field(repr=False)
    """Promoted tokens: subspace, direction, sign, tokens."""
    angles: pd.DataFrame = field(repr=False)
    """Principal angles to the DAS subspace: series, rank (of the subspace), index, angle."""
    expected_angles: pd.DataFrame = field(repr=False)
    """The same of random subspaces of each such rank: rank, index, angle, low, high."""
    overlaps: pd.DataFrame = field(repr=False)
    """Overlap with the DAS subspace: subspace, overlap, expected at random, and
    the middle 95 % of random subspaces (random low, random high)."""
    interchange: Comparison = field(repr=False)
    """IIA of the causal variable inside each subspace."""
    removal: pd.DataFrame = field(repr=False)
    """Task accuracy without each subspace: model, removed, value, low, high, n."""
    facts: Mapping[str, Any] = field(repr=False)
    """What somebody needs to ask again: model, where DAS and the ReFT work and what they were
    trained with, numbers of rows, random subspaces, seed."""

    def tables(self) -> list[tuple[str, pd.DataFrame]]:
        """What was asked, with what was found, narrow enough for a terminal."""
        linear = [
            (
                f"What linear probes read: {read}",
                frame.pivot(index="subspace", columns="part", values="value")
                .reindex(index=frame["subspace"].unique(), columns=frame["part"].unique())
                .reset_index(),
            )
            for read, frame in self.linear.groupby("read", sort=False)
        ]
        tokens = [("Which tokens the directions promote", self.tokens)] if len(self.tokens) else []
        return [
            *linear,
            *tokens,
            ("Overlap with the DAS subspace (mean squared cosine)", self.overlaps),
            (self.interchange.metric, self.interchange.to_frame()),
            ("Accuracy on the task without the subspace", self.removal),
        ]

    def __str__(self) -> str:
        tables = [
            f"{heading}\n{frame.to_string(index=False, float_format='{:.3f}'.format)}"
            for heading, frame in self.tables()
        ]
        return "\n\n".join([f"What {self.name} encodes", *self.notes, *tables])

    def _repr_html_(self) -> str:
        from reft_interp.probing.document import document

        return document([self]).html()

    def save(self, folder: str | Path) -> Path:
        """Write `report.html`, its figures as PNG and its tables as CSV; gives the page's path."""
        from reft_interp.probing.document import document

        return document([self]).save(folder)
