"""Commonsense reasoning: eight data sets, one training set of them all, answers to choose from.

The suite of Hu et al. 2023 (LLM-Adapters, arXiv:2304.01933) as Wu et al. 2024 run it
(arXiv:2404.03592, section 4.2). Next door: `llm_adapters` reads the files.
"""

import os
import re
from itertools import chain

from reft_interp.evaluation.metrics import exact_match
from reft_interp.tasks.suites.affirmed import first_affirmed
from reft_interp.tasks.suites.llm_adapters import read_adapter_rows
from reft_interp.tasks.suites.paper_recipes import paper_recipe
from reft_interp.tasks.suites.reading import Record, as_dataset, hold_out, keep_apart
from reft_interp.tasks.suites.recipe import Recipe
from reft_interp.tasks.suites.suite import Suite

COMMONSENSE = (
    "boolq",
    "piqa",
    "social_i_qa",
    "hellaswag",
    "winogrande",
    "ARC-Easy",
    "ARC-Challenge",
    "openbookqa",
)
"""The data sets, by the names of their files, in the order of the paper's table 1."""

_TRIGGER = "the correct answer is "

_SAID = re.compile(_TRIGGER.strip(), re.IGNORECASE)
_FORMAT = re.compile(r"Answer format:\s*(\S+)$")

# An answer may be repeated without a space ("answer1answer1"), but "answer12" is no answer.
_LABEL = re.compile(
    r"(?:answer|solution|ending|option)[1-5](?![0-9])"
    r"|(?<![a-z])(?:true|false)(?=true|false|[^a-z]|$)",
    re.IGNORECASE,
)


def commonsense(
    path_or_hub_id: str | os.PathLike[str],
    *,
    n_development: int = 0,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> Suite:
    """BoolQ, PIQA, SIQA, HellaSwag, WinoGrande, ARC-e, ARC-c and OBQA, in LLM-Adapters' format.

    The prompt is the instruction and a line end; what is trained is "the correct answer is" and
    the answer. Training rows are those of all data sets together. Data sets whose files are
    missing are left out, and named in `str(suite)`; so are training rows that a test set has, too,
    which are counted there.

    Args:
        path_or_hub_id: a folder with `boolq.train.json`, `boolq.test.json` and so on, or
            `boolq/train.json` and `boolq/test.json`; `commonsense_170k.json` (or
            `commonsense_170k/train.json`) is the paper's training set and is read in place of
            the others. Or a dataset of the hub of the same columns: see `read_adapter_rows`.
        n_development: training rows to hold out for choosing settings. The paper holds out none:
            it chooses them on GSM8K (`arithmetic`).
        seed: of which these are.
        recipe: instead of the paper's for LoReFT with LLaMA-7B; see `paper_recipe`.

    Raises:
        ValueError: no folder and no such dataset, no test set, or a bad row (it is named).
    """
    found = read_adapter_rows(path_or_hub_id, COMMONSENSE, "commonsense_170k")
    tests = {name: [_row(record) for record in records] for name, records in found.tests.items()}
    rows, _, repeated = keep_apart(
        [_row(record) for record in found.train], [], chain.from_iterable(tests.values())
    )
    train, development = hold_out(rows, n_development, seed, "commonsense")
    recipe = recipe or paper_recipe("commonsense")
    return Suite(
        name="commonsense",
        train=as_dataset(train),
        development=as_dataset(development),
        tests={
            name: test for name, rows in tests.items() if (test := as_dataset(rows)) is not None
        },
        template=f"{{instruction}}\\n → {_TRIGGER}{{answer}}",
        extract=extract_choice,
        metric=exact_match(),
        max_new_tokens=32,
        recipe=recipe,
        notes=(*found.notes, *repeated),
    )


def extract_choice(output: str) -> str | None:
    """The first label after "the correct answer is", or the first of all where none follows it.
    A label that is denied ("not true but false") does not count.

    >>> extract_choice("The correct answer is: Solution2.")
    'solution2'

    LLM-Adapters takes the first label of all, in lower case only, and pyreft all that follows the
    phrase; on outputs in the trained form all three agree.
    """
    said = _SAID.search(output)
    start = said.end() if said and _LABEL.search(output, said.end()) else 0
    found = first_affirmed(_LABEL, output, start)
    return found[0].lower() if found else None


def _row(record: Record) -> Record:
    gold = record["answer"].strip()
    if not _LABEL.fullmatch(gold):
        raise ValueError(
            f"{record['where']}: answer must be true, false, or answer, solution, ending or option "
            f"and a number from 1 to 5, got {record['answer']!r}"
        )
    # Section 4.2: white space around the instruction is removed.
    text = "\n".join(filter(None, (record["instruction"].strip(), record["input"].strip())))
    stated = _FORMAT.search(text)
    labels = stated[1].split("/") if stated else None
    if labels is not None and gold not in labels:
        raise ValueError(
            f"{record['where']}: answer must be one of {', '.join(labels)} (the instruction's "
            f"answer format), got {gold!r}"
        )
    return {
        "prompt": f"{text}\n",
        "answer": f"{_TRIGGER}{gold}",
        "gold": gold,
        "choices": labels and [f"{_TRIGGER}{label}" for label in labels],
        "dataset": record["dataset"],
    }
