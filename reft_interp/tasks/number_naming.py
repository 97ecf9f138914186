"""Naming a subject's number: a task that a ReFT has to teach, about what agreement shows is known.

Here: agreement phrases with the question how many, as labelled rows. Next door:
`number_agreement` asks for the same variable by interchange, on the same split of nouns and
templates for the same seed, so that the subspaces that the two find can be compared.
"""

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from reft_interp.tasks.agreement_phrases import (
    TEMPLATES,
    Lexicon,
    Phrase,
    Template,
    balanced,
    split,
)
from reft_interp.tasks.labelled import LabelledTask
from reft_interp.tasks.nouns import NOUNS, NUMBERS, Noun, Number

# An arrow alone asks for nothing in particular, so that a pretrained model answers by chance
# (SmolLM2-135M in Q4_1: 403 of 800), though it knows the number: that is the room for a ReFT.
_PROMPT = "{phrase} →"
_ANSWERS = (" one", " many")

# Ordered so that the answers are balanced wherever the number of rows is even.
_CELLS: tuple[tuple[Number, bool], ...] = tuple(
    (number, other) for other in (True, False) for number in NUMBERS
)

_TRIES = 100
"""Draws for one row, before the phrases are taken to be used up."""


def number_naming(
    n_train: int = 600,
    n_test: int = 200,
    seed: int = 0,
    *,
    nouns: Sequence[Noun] = NOUNS,
    templates: Sequence[Template] = TEMPLATES,
) -> LabelledTask:
    """Is the subject " one" or " many"? "The keys near the cabinet →" → " many".

    At least half of the attractors have the other number than their subject, so neither counting
    plural nouns nor reading the last one is enough. Test has nouns (as subject or as attractor)
    and templates that train does not have: those that `NumberAgreement` holds out for this seed.

    Args:
        n_train: rows to train on; the answers are balanced where it is even.
        n_test: rows to test on; likewise.
        seed: of the split and the draw; the same seed gives the same rows.
        nouns: of which a third of each kind are held out.
        templates: of which a third of each verb are held out.

    Returns:
        A task whose rows have `spans` "subject" and "attractor", and the columns `number`
        ("singular" or "plural"), `subject`, `attractor`, `attractor_number` and `template`.

    Raises:
        ValueError: a size is below 1, or more than there are phrases.
    """
    sizes = {"n_train": n_train, "n_test": n_test}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    lexicons = split(nouns, templates, seed)
    train, test = (
        _draw(lexicon, name, size, random.Random(f"number naming {name} {seed}"))
        for lexicon, (name, size) in zip(lexicons, sizes.items(), strict=True)
    )
    return LabelledTask(
        name="number naming",
        description=(
            "Answer an agreement phrase with the number of its subject, in words that the model "
            f"does not say by itself: {_ANSWERS[0]!r} or {_ANSWERS[1]!r}. Test has other nouns "
            "and templates than train."
        ),
        train=train,
        test=test,
    )


def _draw(lexicon: Lexicon, name: str, size: int, rng: random.Random) -> Dataset:
    rows: dict[str, dict[str, Any]] = {}
    tries = 0
    for (number, other), n in balanced(size, _CELLS):
        enough = len(rows) + n
        while len(rows) < enough:
            phrase = lexicon.phrase(rng, number=number, other_attractor=other)
            # A phrase that is there already is drawn again.
            tries = 0 if phrase.text not in rows else tries + 1
            rows[phrase.text] = _row(phrase)
            if tries == _TRIES:
                raise ValueError(
                    f"{name} must be fewer rows than there are phrases, got {size}: "
                    f"{len(lexicon.nouns)} nouns and {len(lexicon.templates)} templates gave "
                    f"{len(rows)}"
                )
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return Dataset.from_list(shuffled)


def _row(phrase: Phrase) -> dict[str, Any]:
    return {
        "prompt": _PROMPT.format(phrase=phrase.text),
        "answer": _ANSWERS[NUMBERS.index(phrase.number)],
        "choices": list(_ANSWERS),
        # The phrase comes first, so its spans are those of the prompt.
        "spans": phrase.spans,
        **phrase.facts,
    }
