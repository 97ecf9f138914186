"""GLUE: eight tasks of language understanding, for encoders and for decoders.

Wang et al. 2019 (arXiv:1804.07461), as Wu et al. 2024 evaluate on it (arXiv:2404.03592, section
4.5 and appendix C.3). Next door: `glue_reading` reads the files.
"""

import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from reft_interp.evaluation.metrics import (
    Metric,
    f1,
    label_accuracy,
    matthews,
    pearson,
    spearman,
)
from reft_interp.tasks.suites.affirmed import first_affirmed
from reft_interp.tasks.suites.glue_reading import LAYOUTS, read_glue
from reft_interp.tasks.suites.paper_recipes import paper_recipe
from reft_interp.tasks.suites.reading import Record, as_dataset, keep_apart
from reft_interp.tasks.suites.recipe import Recipe
from reft_interp.tasks.suites.suite import Suite

GLUE = tuple(LAYOUTS)
"""The tasks, by the names of their files and of the hub's configurations."""

_YES_NO, _NO_YES = ("yes", "no"), ("no", "yes")


@dataclass(frozen=True)
class _Wording:
    """A task in words: the question, and a word for each label (none for scores)."""

    template: str
    words: tuple[str, ...]


_WORDINGS = {
    "mnli": _Wording(
        "Premise: {a}\nHypothesis: {b}\nDoes the premise imply the hypothesis?",
        ("yes", "maybe", "no"),
    ),
    "qnli": _Wording(
        "Question: {a}\nSentence: {b}\nDoes the sentence answer the question?", _YES_NO
    ),
    "qqp": _Wording("Question 1: {a}\nQuestion 2: {b}\nDo the two ask the same?", _NO_YES),
    "sst2": _Wording("Review: {a}\nIs the review positive or negative?", ("negative", "positive")),
    "mrpc": _Wording("Sentence 1: {a}\nSentence 2: {b}\nDo the two say the same?", _NO_YES),
    "cola": _Wording("Sentence: {a}\nIs the sentence acceptable English?", _NO_YES),
    "stsb": _Wording(
        "Sentence 1: {a}\nSentence 2: {b}\nHow similar are the two, from 0.0 to 5.0?", ()
    ),
    "rte": _Wording(
        "Premise: {a}\nHypothesis: {b}\nDoes the premise imply the hypothesis?", _YES_NO
    ),
}
_END = "\nAnswer:"

# As T5 has it (Raffel et al. 2020): STS-B's scores as text, in steps of 0.2.
_SCORES = tuple(f"{tenths / 10:.1f}" for tenths in range(0, 51, 2))


def glue(
    name: str,
    path_or_hub_id: str | os.PathLike[str] = "nyu-mll/glue",
    *,
    seed: int = 42,
    recipe: Recipe | None = None,
) -> Suite:
    """MNLI, QNLI, QQP, SST-2, MRPC, CoLA, STS-B or RTE.

    For encoders, rows have the raw `text_a`, `text_b` (None where there is one text) and `label`
    (the number that the hub's copy has; STS-B's score). For decoders, the label is a word to
    answer with, one of `choices`; STS-B's is its score, rounded to the nearest 0.2. `gold` is the
    label's name, or the score as it is: `suite.metric` takes names, numbers and scores.

    GLUE's test labels are not published. The validation rows are halved by the seed: one half is
    `development` (the paper picks the epoch that is best on it), the other is the test set. Of
    MNLI, QNLI and QQP, whose validation sets are large, 1,000 rows are enough for development.
    Texts that a later split has, too, are left out of the earlier ones, and counted in `notes`; so
    are training rows without one of their texts (QQP has two, on which the paper's code trains).

    The metric is the one that the paper reports: accuracy, Matthews' correlation for CoLA,
    Pearson's for STS-B. `scores` adds what GLUE has besides: F1 for MRPC and QQP, Spearman's
    correlation for STS-B. An output without an answer is wrong; in a correlation it counts as a
    guess, so that a model none of whose outputs has one gets 0.

    Args:
        name: "mnli", "qnli", "qqp", "sst2", "mrpc", "cola", "stsb" or "rte"; "SST-2" is as good.
        path_or_hub_id: a folder with `NAME.train*` and `NAME.dev*` (tab-separated, where quote
            marks are text, or JSON), the hub's GLUE, or a copy of one of its tasks (parquet).
            CoLA's and RTE's `NAME.val*` count as training rows; MNLI's mismatched rows are left out
            where there are others, as the paper leaves them; MRPC may be its source's
            `mrpc.msr_paraphrase_train.txt` and `_test.txt` (which is not GLUE's validation set).
        seed: of the halving; the paper's are 42 to 46.
        recipe: instead of the paper's for LoReFT with RoBERTa-base; see `paper_recipe`.

    Raises:
        ValueError: no such task, folder or dataset, or a bad row (it is named).
    """
    task = name.lower().replace("-", "")
    if task not in LAYOUTS:
        raise ValueError(f"name must be one of {', '.join(GLUE)}, got {name!r}")
    found = read_glue(task, path_or_hub_id)
    development, test = _halve(found.validation, task, seed)
    train, development, test = (
        [_row(task, row) for row in rows] for rows in (found.train, development, test)
    )
    train, development, repeated = keep_apart(train, development, test)
    tested = as_dataset(test)
    metric, *others = _metrics(task)
    return Suite(
        name=f"glue/{task}",
        train=as_dataset(train),
        development=as_dataset(development),
        tests={} if tested is None else {task: tested},
        template=repr(_WORDINGS[task].template + _END),
        extract=_extractor(task),
        metric=metric,
        max_new_tokens=5,
        recipe=recipe or paper_recipe(f"glue/{task}"),
        other_metrics=tuple(others),
        notes=(*found.notes, *repeated),
    )


def _halve(rows: list[Record], task: str, seed: int) -> tuple[list[Record], list[Record]]:
    n = len(rows) // 2
    if task in ("mnli", "qnli", "qqp"):
        n = min(n, 1000)
    chosen = set(random.Random(f"glue {task} {seed}").sample(range(len(rows)), n))
    development = [row for i, row in enumerate(rows) if i in chosen]
    return development, [row for i, row in enumerate(rows) if i not in chosen]


def _row(task: str, row: Record) -> Record:
    texts = {"a": row["text_a"].strip(), "b": (row["text_b"] or "").strip()}
    wording, labels = _WORDINGS[task], LAYOUTS[task].labels
    words = wording.words or _SCORES
    # Halves go up: 0.1 is as near to 0.0 as to 0.2.
    number = row["label"] if labels else int(row["label"] * 5 + 0.5)
    return {
        "prompt": wording.template.format(**texts) + _END,
        "answer": f" {words[number]}",
        "gold": labels[number] if labels else str(row["label"]),
        "choices": [f" {word}" for word in words],
        **row,
    }


def _extractor(task: str) -> Callable[[str], str | None]:
    """From what follows the prompt to the name of a label: the first of the task's words that is
    not denied."""
    words, labels = _WORDINGS[task].words, LAYOUTS[task].labels
    if not labels:
        return _score
    pattern = re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE)

    def extract(output: str) -> str | None:
        found = first_affirmed(pattern, output)
        return labels[words.index(found[1].lower())] if found else None

    return extract


def _score(output: str) -> str | None:
    """The first number on the first line with text, drawn into the scale: what follows it may be
    the scale ("3.8 out of 5", "4/5")."""
    found = re.search(r"(?<![\w.])[-−]?\d+(?:\.\d+)?", output.strip().split("\n")[0])
    if found is None:
        return None
    return str(min(max(float(found[0].replace("−", "-")), 0.0), 5.0))


def _metrics(task: str) -> list[Metric]:
    labels = LAYOUTS[task].labels
    if task == "cola":
        return [matthews(labels)]
    if task == "stsb":
        return [pearson(), spearman()]
    if task in ("mrpc", "qqp"):
        return [label_accuracy(labels), f1(labels)]
    return [label_accuracy(labels)]
