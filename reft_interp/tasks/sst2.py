"""SST-2: is a sentence of a film review positive or negative? From a folder or from the hub.

Here: the readers, the prompt, and the subsampling. Next door: `labelled` has what comes out.
Nothing is downloaded unless a hub name is given.
"""

import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from reft_interp.tasks.labelled import LabelledTask

# A decoder has only the next word to answer with: the label comes last, as a word that reviews
# use, and "Review:" says what kind of text stands before it.
_PROMPT = "Review: {sentence}\nSentiment:"
_ANSWERS = (" negative", " positive")

_SPLITS = ("train", "dev", "test")


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
    path = Path(path_or_hub_name).expanduser()
    if path.is_dir() and not any(path.rglob("*.parquet")):
        rows = _read_folder(path)
    elif path.is_dir():
        rows = _read_hub(str(path))
    elif path.exists() or _looks_like_a_path(path_or_hub_name):
        found = "a file" if path.exists() else "nothing there"
        raise ValueError(
            f"path_or_hub_name must be a folder with {_expected()}, got {str(path)!r} ({found})"
        )
    else:
        rows = _read_hub(str(path_or_hub_name))
    splits = {name: _dataset(name, sentences) for name, sentences in rows.items()}
    return LabelledTask(
        name="sst2",
        description="Is a sentence of a film review positive or negative?",
        train=_sample(splits["train"], "n_train", n_train, seed),
        test=_sample(splits["test"], "n_test", n_test, seed),
        dev=splits.get("dev"),
    )


def _expected() -> str:
    return ", ".join(f"sst2.{name}.tsv" for name in _SPLITS)


def _looks_like_a_path(name: str | os.PathLike[str]) -> bool:
    """Whether it cannot be the name of a dataset on the hub: "name" or "owner/name"."""
    return not isinstance(name, str) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _read_folder(folder: Path) -> dict[str, list[tuple[str, Any]]]:
    files = {name: folder / f"sst2.{name}.tsv" for name in _SPLITS}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        there = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
        listed = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
        raise ValueError(
            f"path_or_hub_name must be a folder with {_expected()}; {str(folder)!r} is without "
            f"{', '.join(missing)} and has {listed or 'no files'}"
        )
    return {name: _read_tsv(file) for name, file in files.items()}


def _read_tsv(file: Path) -> list[tuple[str, Any]]:
    """Sentences and labels; a byte-order mark and a header are passed over."""
    # Not the csv module, which has fields begin and end at quote marks, and not splitlines(),
    # which breaks lines at characters that sentences contain (U+0085, U+2028).
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if not line or (number == 1 and fields == ["sentence", "label"]):
            continue
        if len(fields) != 2:
            raise ValueError(
                f"{file} line {number}: must be a sentence, a tab and a label, got "
                f"{len(fields)} fields in {line!r}"
            )
        rows.append((fields[0], fields[1]))
    return rows


def _read_hub(name: str) -> dict[str, list[tuple[str, Any]]]:
    # GLUE is one dataset with a configuration for each of its tasks.
    configuration = "sst2" if name.split("/")[-1] == "glue" else None
    try:
        found = load_dataset(name, configuration)
    # Which error it is depends on whether the hub is down, offline mode is on, or there is no
    # such dataset; they share OSError and ValueError.
    except (OSError, ValueError) as error:
        raise ValueError(
            f"path_or_hub_name: {name!r} is no folder, and the hub does not give a dataset of "
            f"that name ({type(error).__name__}: {error}). Without a network, give a folder with "
            f"{_expected()}, or a name that datasets has in its cache."
        ) from error
    for split, columns in found.column_names.items():
        if not {"sentence", "label"} <= set(columns):
            raise ValueError(
                f"path_or_hub_name: {name!r} must have the columns sentence and label, its split "
                f"{split!r} has {', '.join(columns)}"
            )
    if not {"train", "validation"} <= set(found):
        raise ValueError(
            f"path_or_hub_name: {name!r} must have the splits train and validation, it has "
            f"{', '.join(map(str, found))}"
        )
    return {
        ours: list(zip(found[theirs]["sentence"], found[theirs]["label"], strict=True))
        for ours, theirs in (("train", "train"), ("test", "validation"))
    }


def _dataset(split: str, sentences: Iterable[tuple[str, Any]]) -> Dataset:
    rows = []
    for i, (sentence, label) in enumerate(sentences):
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
