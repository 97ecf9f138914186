"""Suites: data sets that a method is trained and tested on, and how its outputs are scored.

Here: what a suite is, whatever it is about. Next door: one file a suite. Labelled tasks, whose
answer is one of a few words, are `tasks.labelled`.
"""

import html
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from reft_interp.causal.rows import check_columns, check_row, content_hash, rows_of
from reft_interp.evaluation.metrics import Metric
from reft_interp.runtime.batching import Rows, as_list
from reft_interp.tasks.suites.recipe import Recipe

REQUIRED_COLUMNS = ("prompt", "answer", "gold")


# Datasets compare by identity; `hash` is how two of these are compared.
@dataclass(frozen=True, eq=False)
class Suite:
    """Rows to train on, to choose settings on, and to report on, with a metric for outputs.

    Rows have `prompt`, `answer` (what is trained; the prompt and it make one text, no end-of-text
    token is in it) and `gold` (what the metric compares), and may have `choices`: the answers
    that the row allows, or None. Further columns are kept.

    Raises:
        TypeError: a split is not a `datasets.Dataset`.
        ValueError: no rows, a column is missing, or a row is inconsistent (it is shown).
    """

    name: str
    train: Dataset | None
    development: Dataset | None
    """Rows to choose settings or epochs on: neither trained nor reported on."""
    tests: Mapping[str, Dataset]
    """What is reported on, by the name of the data set."""
    template: str
    """How a prompt is made, in one line."""
    extract: Callable[[str], str | None]
    """From a generated continuation to an answer; None where it holds none, which is wrong (in a
    correlation, a guess: see `evaluation.metrics`)."""
    metric: Metric
    max_new_tokens: int
    recipe: Recipe
    other_metrics: tuple[Metric, ...] = ()
    """What else is usually reported on this suite."""
    extract_for: Callable[[str, Mapping[str, Any]], str | None] | None = None
    """The same of the continuation of one row, where rows ask for answers of several kinds."""
    notes: tuple[str, ...] = ()
    """What is missing from the suite, or is not what its name says."""

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError(f"{self.name} must have rows, got neither train nor tests")
        for name, split in self.splits.items():
            check_columns(name, split, REQUIRED_COLUMNS)
            for i, row in enumerate(rows_of(split)):
                _check(f"{name} row {i}", row, tested=name.startswith("test "))

    @property
    def splits(self) -> dict[str, Dataset]:
        """All rows: "train", "development", and "test NAME" for each data set."""
        named = {"train": self.train, "development": self.development}
        tests = {f"test {name}": split for name, split in self.tests.items()}
        return {name: split for name, split in named.items() if split is not None} | tests

    @property
    def hash(self) -> str:
        """SHA-256 of the rows of all splits; the same wherever the rows are the same."""
        return content_hash(self.train, self.development, *self.tests.values())

    def answers(self, outputs: Sequence[str], rows: Rows | None = None) -> list[str | None]:
        """What is extracted from each continuation.

        Args:
            outputs: the continuations.
            rows: whose they are; without them an answer of any kind counts.
        """
        if rows is None or self.extract_for is None:
            return [self.extract(output) for output in outputs]
        each = zip(outputs, as_list(rows), strict=True)
        return [self.extract_for(output, row) for output, row in each]

    def score(self, outputs: Sequence[str], rows: Rows) -> float:
        """The metric over continuations of the prompts of `rows`, in their order.

        Raises:
            ValueError: not as many outputs as rows, no rows, or a row without `gold`.
        """
        return self.metric(*self._pairs(outputs, rows))

    def scores(self, outputs: Sequence[str], rows: Rows) -> dict[str, float]:
        """All metrics by name, that of `score` first."""
        pairs = self._pairs(outputs, rows)
        return {metric.name: metric(*pairs) for metric in (self.metric, *self.other_metrics)}

    def correct(self, outputs: Sequence[str], rows: Rows) -> list[bool]:
        """Whether each continuation has the right answer.

        Raises:
            ValueError: as `score`; or the metric says nothing about single rows.
        """
        if self.metric.is_correct is None:
            raise ValueError(f"{self.name}: {self.metric.name} does not say which rows are correct")
        return list(map(self.metric.is_correct, *self._pairs(outputs, rows)))

    def select(
        self,
        n_train: int | None = None,
        n_test: int | None = None,
        *,
        n_development: int | None = None,
        seed: int = 0,
    ) -> "Suite":
        """A smaller suite: rows drawn by the seed, in the order of the data.

        Args:
            n_train: rows of train; all, if it is not given.
            n_test: rows of each test set, or all of one that has fewer; likewise.
            n_development: rows of development; likewise.
            seed: of the draws, which do not depend on each other.

        Raises:
            ValueError: a number below 1, or more rows of train or development than there are.
        """
        if n_test is not None and n_test < 1:
            raise ValueError(f"n_test must be at least 1, got {n_test}")
        tests = {
            name: self._draw(split, name, None if n_test is None else min(n_test, len(split)), seed)
            for name, split in self.tests.items()
        }
        return replace(
            self,
            train=self._draw(self.train, "n_train", n_train, seed),
            development=self._draw(self.development, "n_development", n_development, seed),
            tests=tests,
        )

    def _draw(self, split: Any, name: str, n: int | None, seed: int) -> Any:
        if n is None:
            return split
        if split is None or not 1 <= n <= len(split):
            rows = 0 if split is None else len(split)
            raise ValueError(f"{name} must be between 1 and {rows}, got {n}")
        drawn = random.Random(f"{self.name} {name} {seed}").sample(range(len(split)), n)
        return split.select(sorted(drawn))

    def _pairs(self, outputs: Sequence[str], rows: Rows) -> tuple[list[str | None], list[Any]]:
        gold = [row.get("gold") for row in as_list(rows)]
        if isinstance(outputs, str) or len(outputs) != len(gold):
            found = "one string" if isinstance(outputs, str) else f"{len(outputs)}"
            raise ValueError(f"outputs must be one for each of the {len(gold)} rows, got {found}")
        if None in gold:
            raise ValueError(f"rows: row {gold.index(None)} has no 'gold'")
        return self.answers(outputs, rows), gold

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        return "<p>" + "<br>".join(html.escape(line) for line in self._lines()) + "</p>"

    def _lines(self) -> Iterator[str]:
        sizes = [
            f"{0 if split is None else len(split):,} {name}"
            for name, split in (("train", self.train), ("development", self.development))
        ]
        yield f"{self.name}: {', '.join(sizes)} rows (hash {self.hash[:12]})"
        tests = [f"{name} {len(split):,}" for name, split in self.tests.items()]
        yield f"tests: {', '.join(tests) or 'none'}"
        yield f"template: {self.template}"
        names = [self.metric.name, *(metric.name for metric in self.other_metrics)]
        yield f"metric: {', also '.join(names)}"
        yield f"outputs: at most {self.max_new_tokens:,} new tokens"
        yield f"recipe: {self.recipe.title}"
        yield from (f"note: {note}" for note in self.notes)


def _check(where: str, row: Mapping[str, Any], *, tested: bool) -> None:
    for column in ("prompt", "answer"):
        if not isinstance(row[column], str):
            raise ValueError(f"{where}: {column} must be text, got {row[column]!r} in {dict(row)}")
    if not row["prompt"].strip():
        raise ValueError(f"{where}: prompt must not be empty in {dict(row)}")
    if row["gold"] is None:
        raise ValueError(f"{where}: gold must be an answer, got None in {dict(row)}")
    # A reference output may be empty (two of AlpacaEval's are), where nothing is trained.
    empty_reference = tested and row["gold"] == ""
    if not row["answer"].strip() and not empty_reference:
        raise ValueError(f"{where}: answer must not be empty in {dict(row)}")
    if row.get("choices") is not None:
        check_row(where, row, "prompt", ["answer"])
