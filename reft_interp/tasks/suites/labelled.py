"""A labelled task as a suite, so that ways to finetune can be compared on it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reft_interp.causal.rows import rows_of
from reft_interp.evaluation.metrics import exact_match
from reft_interp.tasks.labelled import LabelledTask
from reft_interp.tasks.suites.paper_recipes import paper_recipe
from reft_interp.tasks.suites.reading import as_dataset, hold_out, keep_apart
from reft_interp.tasks.suites.recipe import Recipe
from reft_interp.tasks.suites.suite import Suite


def labelled_suite(
    task: LabelledTask, *, n_development: int = 100, seed: int = 0, recipe: Recipe | None = None
) -> Suite:
    """The rows of a labelled task; an output is the one of its row's choices that it begins with.

    Prompts that a later split has, too, are left out of the earlier ones, and counted in `notes`.

    Args:
        task: as `tasks.number_naming()`.
        n_development: training rows to hold out for choosing settings, where the task has no
            development rows of its own.
        seed: of which these are.
        recipe: for ReFTs by name; the paper's for commonsense by default.

    Raises:
        ValueError: not more training rows than are to be held out.
    """
    rows = [row for split in task.splits.values() for row in rows_of(split)]
    answers = sorted({choice for row in rows for choice in row["choices"]})
    train, development, test = (
        [_row(row) for row in rows_of(split)] if split is not None else []
        for split in (task.train, task.dev, task.test)
    )
    train, development, notes = keep_apart(train, development, test)
    if task.dev is None:
        train, development = hold_out(train, n_development, seed, task.name)
    tested = as_dataset(test)
    return Suite(
        name=task.name,
        train=as_dataset(train),
        development=as_dataset(development),
        tests={} if tested is None else {task.name: tested},
        template="the rows' own prompts",
        extract=lambda output: _said(output, answers),
        extract_for=lambda output, row: _said(output, row["choices"]),
        metric=exact_match(),
        max_new_tokens=5,
        recipe=recipe or paper_recipe("commonsense"),
        notes=tuple(notes),
    )


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "gold": row["answer"].strip()}


def _said(output: str, answers: Sequence[str]) -> str | None:
    """The longest answer that the output begins with, whatever the case and space before it; not
    one that goes on as another word or number ("no" in "nothing", "1" in "1.5")."""
    text = output.strip().lower()

    def begins(answer: str) -> bool:
        if not answer or not text.startswith(answer):
            return False
        rest = text[len(answer) :]
        joins = answer[-1].isalnum() and re.match(r"\w", rest)
        return not joins and not (answer[-1].isdigit() and re.match(r"[.,]\d", rest))

    found = [one.strip() for one in answers if begins(one.strip().lower())]
    return max(found, key=len, default=None)
