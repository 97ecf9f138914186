"""Labelled tasks: prompts with the answer that a ReFT is trained to give.

Here: the immutable splits, checked when they are made, that every labelled task of this package
is. Next door: one file a task. Counterfactual pairs are `causal.counterfactuals`.
"""

import html
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from datasets import Dataset

from reft_interp.causal.rows import check_columns, check_row, check_spans, content_hash, rows_of

REQUIRED_COLUMNS = ("prompt", "answer", "choices")


# Datasets compare by identity; `hash` is how two of these are compared.
@dataclass(frozen=True, eq=False)
class LabelledTask:
    """A task whose rows have `prompt`, `answer` (with its leading space) and `choices`.

    Rows may have `spans`, named character ranges `[start, end)` of the prompt, and any further
    columns.

    Raises:
        TypeError: a split is not a `datasets.Dataset`.
        ValueError: a column is missing, or a row is inconsistent (it is shown).
    """

    name: str
    description: str
    train: Dataset
    test: Dataset
    dev: Dataset | None = None
    """Rows to choose settings on, where the task has some: neither trained nor reported on."""

    def __post_init__(self) -> None:
        for name, split in self.splits.items():
            check_columns(name, split, REQUIRED_COLUMNS)
            for i, row in enumerate(rows_of(split)):
                check_row(f"{name} row {i}", row, "prompt", ["answer"])
                if "spans" in row:
                    check_spans(f"{name} row {i}", row, "prompt", "spans")

    @property
    def splits(self) -> dict[str, Dataset]:
        splits = {"train": self.train, "test": self.test}
        return splits if self.dev is None else {**splits, "dev": self.dev}

    @property
    def majority(self) -> float:
        """Share of test rows that the most frequent answer of train gets right."""
        (answer, _), *_ = Counter(self.train["answer"]).most_common(1)
        return Counter(self.test["answer"])[answer] / len(self.test)

    @property
    def seen(self) -> float:
        """Share of test's rows whose prompt is one of train, too, as published data repeat some."""
        prompts = set(self.train["prompt"])
        return sum(prompt in prompts for prompt in self.test["prompt"]) / len(self.test)

    @property
    def hash(self) -> str:
        """SHA-256 of the rows of all splits; the same wherever the rows are the same."""
        return content_hash(self.train, self.test, self.dev)

    def to_frame(self) -> pd.DataFrame:
        """One line a row, with the split that it is in."""
        frames = [
            pd.DataFrame(rows_of(split)).assign(split=name) for name, split in self.splits.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        lines = "<br>".join(html.escape(line) for line in self._lines())
        shown = pd.DataFrame(rows_of(self.test.select(range(min(3, len(self.test))))))
        return f"<p>{lines}</p>{shown[['prompt', 'answer']].to_html(index=False)}"

    def _lines(self) -> Iterator[str]:
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self.splits.items())
        yield f"{self.name}: {sizes} rows (hash {self.hash[:12]})"
        yield self.description
        yield f"always giving the most frequent answer gets {self.majority:.1%} of test right"
        if seen := self.seen:
            yield f"in {seen:.1%} of test rows the prompt is one of train, too"
