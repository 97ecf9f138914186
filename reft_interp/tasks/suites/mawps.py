"""MAWPS: short word problems with the equation that solves each.

Koncel-Kedziorski et al. 2016 (NAACL, N16-1136), in LLM-Adapters' own splits, whose test rows are
those of `arithmetic`'s "mawps"; these training rows have equations, where `arithmetic` trains on
solutions in words. Next door: `numbers` finds the answer of an output.
"""

import os
import re

from reft_interp.evaluation.metrics import numeric_match
from reft_interp.tasks.suites.arithmetic import extract_number
from reft_interp.tasks.suites.paper_recipes import paper_recipe
from reft_interp.tasks.suites.reading import (
    Record,
    as_dataset,
    keep_apart,
    listing,
    locate,
    read_json,
)
from reft_interp.tasks.suites.recipe import Recipe
from reft_interp.tasks.suites.suite import Suite
from reft_interp.tasks.suites.templates import alpaca_prompt

_FILES = {"train": "trainset", "development": "validset", "test": "testset"}
_COLUMNS = ("original_text", "equation", "ans")


def mawps(folder: str | os.PathLike[str], *, recipe: Recipe | None = None) -> Suite:
    """MAWPS, answered by an equation: "(22 - 14) / 4 = 2. The answer is 2."

    The prompt is Alpaca's. An answer is the last number of an output, within 0.001 of the gold one.
    Problems that a later split has, too, are left out of the earlier ones, and counted in
    `notes`.

    Args:
        folder: with `mawps.trainset.json`, `mawps.validset.json` and `mawps.testset.json`.
        recipe: instead of the paper's for LoReFT with LLaMA-7B on arithmetic; see `paper_recipe`.

    Raises:
        ValueError: no such folder or file, or a bad row (it is named).
    """
    place = locate(folder, "mawps.trainset.json")
    rows: dict[str, list[Record]] = {}
    for split, name in _FILES.items():
        file = place / f"mawps.{name}.json" if not isinstance(place, str) else None
        if file is None or not file.is_file():
            there = f", it has {listing(place)}" if not isinstance(place, str) else ""
            raise ValueError(f"folder must hold mawps.{name}.json, got {str(folder)!r}{there}")
        rows[split] = [
            _row(f"{file} row {i}", row) for i, row in enumerate(read_json(file, _COLUMNS))
        ]
    held_out = as_dataset(rows["test"])
    train, development, notes = keep_apart(rows["train"], rows["development"], rows["test"])
    return Suite(
        name="mawps",
        train=as_dataset(train),
        development=as_dataset(development),
        tests={} if held_out is None else {"mawps": held_out},
        template="Alpaca's, with {original_text} → {equation}. The answer is {ans}.",
        extract=extract_number,
        metric=numeric_match(),
        max_new_tokens=160,  # a model that was not trained solves it in words
        recipe=recipe or paper_recipe("arithmetic"),
        notes=tuple(notes),
    )


def _row(where: str, record: Record) -> Record:
    try:
        answer = float(record["ans"])
    except ValueError as error:
        raise ValueError(f"{where}: ans must be a number, got {record['ans']!r}") from error
    gold = f"{answer:.10g}"
    return {
        "prompt": alpaca_prompt(record["original_text"].strip()),
        "answer": f"{solved(record['equation'], gold)}. The answer is {gold}.",
        "gold": gold,
    }


def solved(equation: str, answer: str) -> str:
    """An equation for x as one that ends with the answer, where x stands alone on a side.

    >>> solved("X=((22.0-14.0)/4.0)", "2")
    '(22 - 14) / 4 = 2'
    """
    text = re.sub(r"(\d)\.0+(?!\d)", r"\1", equation.replace(" ", ""))
    sides = text.split("=")
    if len(sides) == 2 and any(side.lower() == "x" for side in sides):
        term = next((side for side in sides if side.lower() != "x"), sides[1])
        return f"{_spaced(_without_brackets(term))} = {answer}"
    return _spaced(text)


def _without_brackets(term: str) -> str:
    """The term without brackets around all of it."""
    depth = 0
    for i, letter in enumerate(term):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and i < len(term) - 1:
            return term
    return _without_brackets(term[1:-1]) if term[:1] == "(" else term


def _spaced(term: str) -> str:
    # A minus that follows nothing, an operator or a bracket is a sign.
    return re.sub(r"(?<=[\w).])([-+*/=])", r" \1 ", term)
