"""Arithmetic reasoning: word problems that are solved step by step, scored by the last number.

The suite of Hu et al. 2023 (LLM-Adapters, arXiv:2304.01933) as Wu et al. 2024 run it
(arXiv:2404.03592, section 4.3). Next door: `numbers` finds the answer of a solution, and
`llm_adapters` reads the files.
"""

import os
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from reft_interp.evaluation.metrics import numeric_match
from reft_interp.tasks.suites.llm_adapters import read_adapter_rows
from reft_interp.tasks.suites.numbers import last_number, own_solutions, stated_letter
from reft_interp.tasks.suites.paper_recipes import paper_recipe
from reft_interp.tasks.suites.reading import Record, as_dataset, hold_out, keep_apart, without
from reft_interp.tasks.suites.recipe import Recipe
from reft_interp.tasks.suites.suite import Suite
from reft_interp.tasks.suites.templates import alpaca_prompt

ARITHMETIC = ("AQuA", "gsm8k", "mawps", "SVAMP", "MultiArith", "AddSub", "SingleEq")
"""The data sets, by the names of their files."""

_LEAKED = ("MultiArith", "AddSub", "SingleEq")
"""Test rows of these are in MATH10K (Wu et al. 2024, appendix C.2)."""

_LETTERS = tuple("ABCDE")


def arithmetic(
    path_or_hub_id: str | os.PathLike[str],
    *,
    n_development: int = 300,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> Suite:
    """AQuA, GSM8K, MAWPS, SVAMP, MultiArith, AddSub and SingleEq, in LLM-Adapters' format.

    The prompt is Alpaca's; what is trained is the solution with its steps. An answer is the last
    number of an output, within 0.001 of the gold one, or in AQuA's rows the letter. Data sets whose
    files are missing are left out, and named in `str(suite)`; so are training rows that a test set
    has, too, which are counted there.

    The `output` of the published test files is a language model's own solution, often a wrong
    one: `answer` of a test row is "The answer is ..." with the gold answer instead.

    Args:
        path_or_hub_id: a folder with `gsm8k.train.json`, `gsm8k.test.json` and so on, or
            `gsm8k/train.json` and `gsm8k/test.json`; `math_10k.json` (or `math_10k/train.json`)
            is the paper's training set and is read in place of the others. Or a dataset of the
            hub of the same columns: see `read_adapter_rows`.
        n_development: how many of the last training rows of GSM8K to choose settings on; the
            paper holds out 300, and trains on them too for what it reports (0 does that). Where
            GSM8K's training rows are not a file of their own, as many are drawn from all.
        seed: of which these are, where they are drawn.
        recipe: instead of the paper's for LoReFT with LLaMA-7B; see `paper_recipe`.

    Raises:
        ValueError: no folder and no such dataset, no test set, a bad row (it is named), or not
            more training rows (of GSM8K, where it has a file) than are to be held out.
    """
    found = read_adapter_rows(path_or_hub_id, ARITHMETIC, "math_10k")
    tests = {
        name: [_test_row(record) for record in records] for name, records in found.tests.items()
    }
    train, _, repeated = keep_apart(
        [_row(record, record["output"].strip()) for record in found.train],
        [],
        chain.from_iterable(tests.values()),
    )
    train, development = _hold_out(train, n_development, seed)
    notes = [*found.notes, *repeated]
    if leaked := [name for name in _LEAKED if name in found.tests]:
        notes.append(f"rows of {', '.join(leaked)} are in MATH10K: the paper does not report them")
    return Suite(
        name="arithmetic",
        train=as_dataset(train),
        development=as_dataset(development),
        tests={
            name: test for name, rows in tests.items() if (test := as_dataset(rows)) is not None
        },
        template="Alpaca's, with {instruction} → {output}",
        extract=extract_result,
        extract_for=_extract_for,
        metric=numeric_match(),
        max_new_tokens=512,
        recipe=recipe or paper_recipe("arithmetic"),
        notes=tuple(notes),
    )


def _hold_out(rows: list[Record], n: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Rows to train on, and to choose settings on.

    Raises:
        ValueError: `n` is below 0, or not less than there are to hold out of.
    """
    gsm8k = [row for row in rows if row["dataset"] == "gsm8k"]
    if rows and not gsm8k:
        return hold_out(rows, n, seed, "arithmetic")
    if n < 0 or (gsm8k and n >= len(gsm8k)):
        raise ValueError(
            f"n_development must be at least 0 and less than GSM8K's {len(gsm8k)} training rows, "
            f"got {n}"
        )
    last = gsm8k[len(gsm8k) - n :]
    return without(rows, last), last


def extract_result(output: str) -> str | None:
    """The letter that the output gives as its answer, or else its last number.

    What follows when an output goes on with another problem ("### Instruction", "Question:") does
    not count.
    """
    parts = own_solutions(output)
    found = (stated_letter(part) or last_number(part) for part in parts)
    return next(filter(None, found), None)


def extract_number(output: str) -> str | None:
    """The last number of the output: what `extract_result` gives where no letter is asked for.

    >>> extract_number("He picks option B. He saves 20 - 8 = 12 dollars.")
    '12'
    """
    return next(filter(None, map(last_number, own_solutions(output))), None)


def _extract_for(output: str, row: Mapping[str, Any]) -> str | None:
    return extract_result(output) if row["gold"] in _LETTERS else extract_number(output)


def _test_row(record: Record) -> Record:
    row = _row(record, f"The answer is {record['answer'].strip()}.")
    choices = [f"The answer is {letter}." for letter in _LETTERS]
    return row | {"choices": choices if row["gold"] in _LETTERS else None}


def _row(record: Record, answer: str) -> Record:
    gold = record["answer"].strip()
    if gold not in _LETTERS and not re.fullmatch(r"-?\d*\.?\d+(?:e-?\d+)?", gold):
        raise ValueError(
            f"{record['where']}: answer must be a number or a letter from A to E, "
            f"got {record['answer']!r}"
        )
    if not answer:
        raise ValueError(
            f"{record['where']}: output must be a solution, got {record['output']!r} for "
            f"{record['instruction']!r}"
        )
    return {
        "prompt": alpaca_prompt(record["instruction"].strip(), record["input"].strip()),
        "answer": answer,
        "gold": gold,
        "dataset": record["dataset"],
    }
