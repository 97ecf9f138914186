"""SST-2: is a sentence of a film review positive or negative? From a folder or from the hub.

Here: the prompt, and the subsampling. Next door: `labelled` has what comes out, `suites.reading`
reads.
Nothing is downloaded unless a hub name is given.
"""

import os
import random
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset

from reft_interp.tasks.labelled import LabelledTask
from reft_interp.tasks.suites.glue_reading import read_tsv
from reft_interp.tasks.suites.reading import Record, listing, locate, read_hub

# A decoder has only the next word to answer with: the label comes last, as a word that reviews
# use, and "Review:" says what kind of text stands before it.
_PROMPT = "Review: {sentence}\nSentiment:"
_ANSWERS = (" negative", " positive")

_SPLITS = ("train", "dev", "test")
_EXPECTED = ", ".join(f"sst2.{name}.tsv" for name in _SPLITS)
_ARGUMENT = "path_or_hub_name"


def sst2(
    path_or_hub_name: str | os.PathLike[str] = "stanfordnlp/sst2",
    *,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
) -> LabelledTask:
    """Sentiment of film reviews (Socher et al. 2013): " positive" or " negative".

    Args:
        path_or_hub_name: either a folder with `sst2.train.tsv`, `sst2.dev.tsv` and
            `sst2.test.tsv` (a sentence, a tab, 0 or 1; quote marks are text; a header line is
            passed over), or a dataset of the hub with the columns `sentence` and `label`
            ("stanfordnlp/sst2", "nyu-mll/glue"), or a folder with a copy of one (parquet). The
            hub's test labels are hidden, so there its validation split is `test`, and `dev` is
            None.
        n_train: rows to draw from train; all, if it is not given.
        n_test: rows to draw from test; likewise. `dev` is always whole.
        seed: of the draw; the same seed gives the same rows, in the order of the data.

    Returns:
        A task whose rows have the `sentence` and its `label`, and the `spans` "sentence".

    Raises:
        ValueError: the folder is not there or has other files, the hub cannot be reached, a
            label is neither 0 nor 1 (the row is shown), or a size is more than there are rows.
    """
    place = locate(path_or_hub_name, _EXPECTED, argument=_ARGUMENT)
    rows = _read_hub(place) if isinstance(place, str) else _read_folder(place)
    splits = {name: _dataset(name, records) for name, records in rows.items()}
    return LabelledTask(
        name="sst2",
        description="Is a sentence of a film review positive or negative?",
        train=_sample(splits["train"], "n_train", n_train, seed),
        test=_sample(splits["test"], "n_test", n_test, seed),
        dev=splits.get("dev"),
    )


def _read_folder(folder: Path) -> dict[str, list[Record]]:
    files = {name: folder / f"sst2.{name}.tsv" for name in _SPLITS}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise ValueError(
            f"{_ARGUMENT} must be a folder with {_EXPECTED}; {str(folder)!r} is without "
            f"{', '.join(missing)} and has {listing(folder)}"
        )
    return {name: read_tsv("sst2", file) for name, file in files.items()}


def _read_hub(name: str) -> dict[str, list[Record]]:
    # GLUE is one dataset with a configuration for each of its tasks.
    configuration = "sst2" if name.split("/")[-1] == "glue" else None
    found = read_hub(name, configuration, _EXPECTED, argument=_ARGUMENT)
    for split, rows in found.items():
        if not {"sentence", "label"} <= set(rows.column_names):
            raise ValueError(
                f"{_ARGUMENT}: {name!r} must have the columns sentence and label, its split "
                f"{split!r} has {', '.join(rows.column_names)}"
            )
    if not {"train", "validation"} <= set(found):
        raise ValueError(
            f"{_ARGUMENT}: {name!r} must have the splits train and validation, it has "
            f"{', '.join(found)}"
        )
    return {"train": found["train"].to_list(), "test": found["validation"].to_list()}


def _dataset(split: str, records: Iterable[Record]) -> Dataset:
    rows = []
    for i, record in enumerate(records):
        sentence, label = record["sentence"], record["label"]
        text = sentence.strip()
        if str(label) not in ("0", "1"):
            raise ValueError(
                f"{split} row {i}: label must be 0 (negative) or 1 (positive), got {label!r} for "
                f"{sentence!r}"
            )
        if not text:
            raise ValueError(f"{split} row {i}: sentence must not be empty, got {sentence!r}")
        start = _PROMPT.index("{")
        rows.append(
            {
                "prompt": _PROMPT.format(sentence=text),
                "answer": _ANSWERS[int(label)],
                "choices": list(_ANSWERS),
                "spans": {"sentence": [start, start + len(text)]},
                "sentence": text,
                "label": int(label),
            }
        )
    return Dataset.from_list(rows)


def _sample(split: Dataset, argument: str, n: int | None, seed: int) -> Dataset:
    if n is None:
        return split
    if not 1 <= n <= len(split):
        raise ValueError(f"{argument} must be between 1 and {len(split)}, got {n}")
    rows = random.Random(f"sst2 {argument} {seed}").sample(range(len(split)), n)
    return split.select(sorted(rows))
