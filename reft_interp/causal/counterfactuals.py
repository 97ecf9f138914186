"""Counterfactual datasets: what a model should say once a variable is taken from another input.

Here: the immutable pair of splits that DAS and its relatives train on and are scored on, checked
when it is made. Next door: `rows`, which checks single rows; above, `tasks`, which makes them.
Not here: models; whoever makes a dataset has asked the model already, and says what it left out.
"""

import html
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.own_pairs import as_dataset, completed, done_by
from reft_interp.causal.rows import (
    Pairs,
    check_columns,
    check_pair,
    check_source_names,
    content_hash,
    rows_of,
    sources_of,
)
from reft_interp.evaluation.minimum_accuracy import check_share
from reft_interp.models import identify
from reft_interp.saved_files import check_fields, read_json, reading
from reft_interp.whole_files import write_whole

FORMAT_VERSION = 1

_SAVED: dict[str, tuple[type, ...]] = {
    "variable": (str,),
    "seed": (int, type(None)),
    "generated": (int,),
    "kept": (int,),
    "model_accuracy": (int, float, type(None)),
    "model": (str, type(None)),
    "held_out": (str,),
    "hash": (str,),
}

REQUIRED_COLUMNS = ("base", "base_answer", "label", "choices", "base_spans")
SOURCE_COLUMNS = ("source", "source_spans")


# Datasets compare by identity; `hash` is how two of these are compared.
@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Pairs of prompts, and what the base should be answered with the source's value of a variable.

    `from_rows` makes it of rows of your own, the tasks in `reft_interp.tasks` of theirs.

    A row has `base` and `source` (prompts), `base_answer` (right without an intervention; and
    where it is known `source_answer`), `label` (right when `variable` is taken from the source),
    `choices` (the answers compared; label and base answer among them), `base_spans` and
    `source_spans` (named character ranges `[start, end]`), and any further columns. Where each of
    several variables has a source of its own, `sources` stands for the columns of the source: for
    each name a `prompt`, its `answer` and its `spans`.

    Raises:
        TypeError: a split is not a `datasets.Dataset`.
        ValueError: a column is missing, a row is inconsistent (it is shown) or has other sources
            than the first, a pair is in both splits, or the counts do not fit the splits.
    """

    train: Dataset
    test: Dataset
    variable: str
    """The causal variable that is interchanged."""
    seed: int | None
    """That the pairs were drawn with; None of rows that nobody drew."""
    generated: int
    """Rows made before the model was asked; `kept` of them are here."""
    kept: int
    model_accuracy: float | None = None
    """Share of prompts that the model gets right without an intervention, before rows are left
    out; None where no model was asked."""
    model: str | None = None
    """Name of the model that was asked."""
    held_out: str = ""
    """What test has and train has not, in words."""

    def __post_init__(self) -> None:
        for name, split in self.splits.items():
            several = isinstance(split, Dataset) and "sources" in split.column_names
            check_columns(
                name, split, (*REQUIRED_COLUMNS, *(("sources",) if several else SOURCE_COLUMNS))
            )
            for i, row in enumerate(rows_of(split)):
                check_pair(f"{name} row {i}", row)
        check_source_names({name: rows_of(split) for name, split in self.splits.items()})
        pairs = set(map(_prompts, rows_of(self.train)))
        for i, row in enumerate(rows_of(self.test)):
            if _prompts(row) in pairs:
                raise ValueError(
                    f"test row {i} is also in train, so it would not show what was learned: {row}"
                )
        if self.kept != len(self.train) + len(self.test):
            raise ValueError(
                f"kept must be the number of rows in both splits, "
                f"{len(self.train) + len(self.test)}, got {self.kept}"
            )
        if self.generated < self.kept:
            raise ValueError(f"generated must be at least kept ({self.kept}), got {self.generated}")
        if self.model_accuracy is not None and not 0 <= self.model_accuracy <= 1:
            raise ValueError(f"model_accuracy must be between 0 and 1, got {self.model_accuracy}")

    @classmethod
    def from_rows(
        cls,
        train: Pairs,
        test: Pairs,
        variable: str,
        *,
        model: TransformerBridge | None = None,
        minimum_accuracy: float = 0.7,
        batch_size: int = 64,
        held_out: str = "",
    ) -> "Counterfactuals":
        """Pairs of your own, for what trains on one split and is scored on the other.

        Args:
            train: rows with `base`, `source`, `label` and `base_answer`, and, where there are any,
                `source_answer`, `base_spans`, `source_spans`, `choices` and further columns.
                Answers bring their leading space. Without `choices` all labels and base answers
                of both splits are compared. Methods that read activations (`DifferenceOfMeans`,
                `LogisticProbe`, ...) look for the variable's values in `base_<variable>` and
                `source_<variable>`.
            test: likewise, held out.
            variable: the causal variable that is interchanged.
            model: is asked for `base_answer`, and for `source_answer` where a row has one; rows
                that it gets wrong are left out and counted.
            minimum_accuracy: share of these prompts that it must get right.
            batch_size: prompts that it reads at once.
            held_out: what test has and train has not, in words.

        Raises:
            TypeError: a split is no list of rows, or what should be a text or a mapping is none.
            ValueError: a split is empty, a row lacks a column or is inconsistent, a column mixes
                kinds of values, rows have values of other variables and none of this one, the
                variable never varies, or never changes an answer of a split, a pair is in both
                splits, `minimum_accuracy` is no share, or the model does too little of it.
        """
        check_share("minimum_accuracy", minimum_accuracy)
        rows = completed({"train": train, "test": test}, variable)
        generated = sum(map(len, rows.values()))
        kept, accuracy = rows, None
        if model is not None:
            kept, accuracy = done_by(model, rows, minimum_accuracy, batch_size)
        return cls(
            **{name: as_dataset(name, split) for name, split in kept.items()},
            variable=variable,
            seed=None,
            generated=generated,
            kept=sum(map(len, kept.values())),
            model_accuracy=None if accuracy is None else accuracy.value,
            model=None if model is None else identify(model).name,
            held_out=held_out,
        )

    @property
    def splits(self) -> dict[str, Dataset]:
        return {"train": self.train, "test": self.test}

    @property
    def dropped(self) -> int:
        """Rows that were made and left out, because the model gets base or source wrong."""
        return self.generated - self.kept

    @property
    def changed(self) -> dict[str, float]:
        """Share of each split's rows whose label is not the base's own answer.

        Where it is 0.5, a method that never changes the answer scores 0.5.
        """
        return {
            name: sum(row["label"] != row["base_answer"] for row in rows_of(split)) / len(split)
            for name, split in self.splits.items()
        }

    @property
    def most_frequent_label(self) -> dict[str, tuple[str, float]]:
        """Of each split the label that most rows have, and their share: what one answer to all
        rows scores."""
        found = {}
        for name, split in self.splits.items():
            label, count = Counter(row["label"] for row in rows_of(split)).most_common(1)[0]
            found[name] = label, count / len(split)
        return found

    @property
    def seen(self) -> float:
        """Share of test's rows whose base is a prompt of train, with other partners there."""
        prompts = {one for row in rows_of(self.train) for one in _prompts(row)}
        return sum(row["base"] in prompts for row in rows_of(self.test)) / len(self.test)

    @property
    def hash(self) -> str:
        """SHA-256 of the rows of both splits; the same wherever the rows are the same."""
        return content_hash(self.train, self.test)

    def to_frame(self) -> pd.DataFrame:
        """One line a row, with the split that it is in."""
        frames = [
            pd.DataFrame(split.to_list()).assign(split=name) for name, split in self.splits.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        lines = "<br>".join(html.escape(line) for line in self._lines())
        shown = pd.DataFrame(self.test.select(range(min(3, len(self.test)))).to_list())
        columns = ["base", "source", "sources", "base_answer", "label"]
        table = shown[[name for name in columns if name in shown]].to_html(index=False)
        return f"<p>{lines}</p>{table}"

    def _lines(self) -> Iterator[str]:
        seed = "" if self.seed is None else f"seed {self.seed}, "
        yield (
            f"counterfactuals for {self.variable!r}: {len(self.train)} train, "
            f"{len(self.test)} test rows ({seed}hash {self.hash[:12]})"
        )
        shares = [f"{share:.1%} of {name}" for name, share in self.changed.items()]
        yield f"the label differs from the base's own answer in {', '.join(shares)} rows"
        frequent = self.most_frequent_label
        of = [
            f"{label!r} of {share:.1%} of {name}"
            for name, (label, share) in frequent.items()
            if share > 1 - self.changed[name]
        ]
        if of:
            yield f"one answer to all is the label in more of them: {', '.join(of)} rows"
        if self.model_accuracy is not None:
            left_out = (
                f"{self.dropped} of {self.generated} rows dropped because base or source is wrong"
                if self.dropped
                else "rows are made of those alone"
                if self.seed is not None
                else "no row dropped"
            )
            who = self.model or "the model"
            yield f"{who} gets {self.model_accuracy:.1%} of prompts right; {left_out}"
        if self.held_out:
            yield f"held out: {self.held_out}"
        if seen := self.seen:
            yield f"in {seen:.1%} of test rows the base is a prompt of train, too"

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `config.json`, `train.jsonl` and `test.jsonl` into a folder, and make it if needed.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, split in self.splits.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in rows_of(split)]
            write_whole(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        # Last, so that a folder with a config is whole.
        config = {"format": FORMAT_VERSION, **self._settings(), "hash": self.hash}
        write_whole(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Counterfactuals":
        """Read what `save` wrote.

        Raises:
            ValueError: the folder is not one that `save` wrote, is damaged or of another version,
                or its rows are not those that were saved.
        """
        folder = Path(folder)
        missing = [
            name
            for name in ("config.json", "train.jsonl", "test.jsonl")
            if not (folder / name).is_file()
        ]
        if missing:
            raise ValueError(
                f"folder must be one written by Counterfactuals.save, got {str(folder)!r} "
                f"without {', '.join(missing)}"
            )
        described = folder / "config.json"
        config = read_json(described)
        check_fields(described, config, {})
        if config.pop("format", None) != FORMAT_VERSION:
            raise ValueError(
                f"{described}: format must be {FORMAT_VERSION}; the folder was "
                "written by another version of this library"
            )
        check_fields(described, config, _SAVED)
        if unknown := set(config) - set(_SAVED):
            raise ValueError(f"{described} is damaged: nobody reads {', '.join(sorted(unknown))}")
        expected = config.pop("hash")
        splits = {}
        for name in ("train", "test"):
            with reading(folder / f"{name}.jsonl", "the rows"):
                splits[name] = _read_rows(folder / f"{name}.jsonl")
        with reading(folder, "what it holds"):
            loaded = cls(**splits, **config)
        if loaded.hash != expected:
            raise ValueError(
                f"{folder}: the rows are not those that were saved (hash {loaded.hash[:12]}, "
                f"config.json says {expected[:12]}); were they edited?"
            )
        return loaded

    def _settings(self) -> dict[str, Any]:
        return {
            "variable": self.variable,
            "seed": self.seed,
            "generated": self.generated,
            "kept": self.kept,
            "model_accuracy": self.model_accuracy,
            "model": self.model,
            "held_out": self.held_out,
        }


def check_counterfactuals(pairs: object) -> None:
    """Raise unless something is `Counterfactuals`.

    Raises:
        TypeError: it is something else, as a list of rows.
    """
    if not isinstance(pairs, Counterfactuals):
        raise TypeError(
            "pairs must be Counterfactuals, which hold rows to train on and others to score on, "
            f"got {type(pairs).__name__}: Counterfactuals.from_rows makes them of rows"
        )


def _prompts(row: dict[str, Any]) -> tuple[str, ...]:
    # By name: splits may hold the sources in different orders.
    return row["base"], *(source["prompt"] for _, source in sorted(sources_of(row).items()))


def _read_rows(file: Path) -> Dataset:
    # Not splitlines(): a prompt may hold U+2028, which it takes for the end of a line.
    lines = file.read_text(encoding="utf-8").split("\n")
    return Dataset.from_list([json.loads(line) for line in lines if line])
