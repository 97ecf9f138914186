"""Number agreement: which number a model takes the subject of a sentence to have.

Here: counterfactual pairs in which the verb should follow another subject's number, without the
rows that the model gets wrong. Next door: `agreement_phrases` has the phrases and what is held
out, `number_naming` the same phrases as a labelled task.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from datasets import Dataset
from jaxtyping import Bool
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.model import CausalModel
from reft_interp.evaluation import Accuracy, predict_choices
from reft_interp.evaluation.minimum_accuracy import check_accuracy, check_share
from reft_interp.tasks.agreement_phrases import (
    TEMPLATES,
    Lexicon,
    Phrase,
    Template,
    balanced,
    split,
)
from reft_interp.tasks.nouns import NOUNS, NUMBERS, Noun, Number, opposite
from reft_interp.tasks.split_sizes import split_sizes

Variable = Literal["number", "attractor_number"]
"""What a verb may be believed to agree with: the subject's number, or the attractor's."""

_ROUNDS = 8
"""How often rows are drawn again for those that the model gets wrong."""


@dataclass(frozen=True)
class _Cell:
    """What is balanced: both numbers, and whether the attractors have the other one."""

    base: Number
    source: Number
    base_other: bool
    source_other: bool


def _cells(variable: Variable) -> list[_Cell]:
    """Ordered so that any even number of rows has as many labels that change as not, and at least
    half of its attractors of the other number."""
    cells = []
    for base_other, source_other in [(True, True), (True, False), (False, True), (False, False)]:
        for base in NUMBERS:
            for taken in (base, opposite(base)):
                of_attractor = variable == "attractor_number" and source_other
                source = opposite(taken) if of_attractor else taken
                cells.append(_Cell(base, source, base_other, source_other))
    return cells


@dataclass
class _Split:
    """A split that is being filled, cell by cell, with rows that the model gets right."""

    lexicon: Lexicon
    size: int
    rng: random.Random
    same_template: bool
    variable: Variable
    missing: Counter[_Cell] = field(init=False)
    kept: list[tuple[Phrase, Phrase]] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.missing = Counter(dict(balanced(self.size, _cells(self.variable))))

    def draw(self) -> list[tuple[_Cell, Phrase, Phrase]]:
        """As many new pairs of each cell as are missing, or fewer where they repeat."""
        pairs = []
        for cell, number in self.missing.items():
            for _ in range(number):
                base = self._phrase(cell.base, cell.base_other)
                source = self._phrase(cell.source, cell.source_other, base)
                if (base.text, source.text) not in self.seen:
                    self.seen.add((base.text, source.text))
                    pairs.append((cell, base, source))
        return pairs

    def _phrase(self, number: Number, other: bool, base: Phrase | None = None) -> Phrase:
        return self.lexicon.phrase(
            self.rng,
            number=number,
            other_attractor=other,
            template=base.template if base and self.same_template else None,
            avoid=(base.subject,) if base else (),
        )

    def keep(self, cell: _Cell, base: Phrase, source: Phrase) -> None:
        self.kept.append((base, source))
        self.missing[cell] -= 1

    def rows(self) -> Dataset:
        self.rng.shuffle(self.kept)
        return Dataset.from_list([_row(*pair, self.variable) for pair in self.kept])


@dataclass(frozen=True)
class NumberAgreement:
    """Grammatical number of the subject: "The key near the doors" → " is", not " are".

    Args:
        nouns: of which a third of each kind are held out for test.
        templates: of which a third of each verb are held out for test.
    """

    nouns: tuple[Noun, ...] = field(default=NOUNS, repr=False)
    templates: tuple[Template, ...] = field(default=TEMPLATES, repr=False)

    name = "number agreement"
    variable = "number"
    description = (
        "Which form of the verb follows a phrase with a subject and an attractor, a noun that is "
        "not the subject and may have the other number."
    )

    @property
    def causal_model(self) -> CausalModel:
        """The verb has the subject's number, whatever the attractor's is."""
        verbs = list(dict.fromkeys(template.choices for template in self.templates))
        forms = list(dict.fromkeys(form for verb in verbs for form in verb))
        domains = {"number": NUMBERS, "attractor_number": NUMBERS, "verb": verbs, "answer": forms}

        def agreeing(number: Number, verb: tuple[str, str]) -> str:
            return verb[NUMBERS.index(number)]

        return CausalModel(domains, {"answer": agreeing})

    def example(self) -> dict[str, Any]:
        """A prompt with its spans, as those of pairs have them; no model is asked."""
        phrase = split(self.nouns, self.templates, 0)[0].phrase(
            random.Random(0), number="singular", other_attractor=True
        )
        return {"prompt": phrase.text, "spans": phrase.spans}

    def counterfactuals(
        self,
        model: TransformerBridge,
        n: int = 600,
        seed: int = 0,
        *,
        minimum_accuracy: float = 0.7,
        same_template: bool = True,
        batch_size: int = 64,
        variable: Variable = "number",
    ) -> Counterfactuals:
        """Pairs of phrases; the label is the base's verb in the number of the source's subject.

        The two differ in their subjects and have the same template. In each split, exactly half
        of the labels are the base's own answer, and at least half of the attractors have the other
        number than their subject. Test has nouns (as subject or as attractor) and templates that
        train does not have. Rows whose base or source the model gets wrong are dropped, and others
        drawn in their place.

        Args:
            model: is asked for the verb after every base and source.
            n: rows of train and test together, about two thirds of them in train; even.
            seed: of the split and the draw. What is drawn instead of a dropped row depends on
                what the model gets wrong as well.
            minimum_accuracy: share of prompts that the model must get right, where chance is
                0.5: below it there is no number to find.
            same_template: base and source have the same template. Otherwise it is drawn for
                each, and the source may have another verb; `choices` and `label` are the base's.
            batch_size: prompts that the model reads at once.
            variable: "attractor_number" is a wrong hypothesis, whose label is the base's verb in
                the number of the source's attractor: evidence for it should not hold.

        Returns:
            The rows. `base_spans` and `source_spans` name the "subject" and the "attractor".
            Besides the columns that every counterfactual row has, `base_number`, `base_subject`,
            `base_attractor`, `base_attractor_number`, `base_template` and the same of the source.
            `model_accuracy` is that of the first draw, which is balanced, before any was dropped.

        Raises:
            ValueError: n is odd or below 6, another variable, the model is less accurate than
                `minimum_accuracy`, or gets too few of some kind of row right to fill the splits.
        """
        train_size, test_size = split_sizes(n)
        check_share("minimum_accuracy", minimum_accuracy)
        if variable not in get_args(Variable):
            raise ValueError(f"variable must be one of {get_args(Variable)}, got {variable!r}")
        lexicons = split(self.nouns, self.templates, seed)
        splits = [
            _Split(
                lexicon,
                size,
                random.Random(f"number agreement {name} {seed}"),
                same_template,
                variable,
            )
            for name, lexicon, size in zip(
                ("train", "test"), lexicons, (train_size, test_size), strict=True
            )
        ]
        generated, first = _fill(splits, model, minimum_accuracy, batch_size)
        train, test = lexicons
        return Counterfactuals(
            train=splits[0].rows(),
            test=splits[1].rows(),
            variable=variable,
            seed=seed,
            generated=generated,
            kept=n,
            model_accuracy=first.value,
            model=getattr(model.cfg, "model_name", None),
            held_out=(
                f"test draws from {len(test.nouns)} nouns and {len(test.templates)} templates, "
                f"train from {len(train.nouns)} and {len(train.templates)} others; test templates: "
                + "; ".join(template.text for template in test.templates)
            ),
        )

    def accuracy(
        self, model: TransformerBridge, n: int = 40, seed: int = 0, *, batch_size: int = 64
    ) -> pd.DataFrame:
        """How often the model's verb agrees with the subject, template by template.

        Args:
            model: the hooked model.
            n: prompts for each template and each kind of attractor, half of them singular.
            seed: of the draw.
            batch_size: prompts that the model reads at once.

        Returns:
            Columns `template`, `attractor` ("same" number as the subject, or "other"), `hits`,
            `n`, `accuracy`, and the ends `low` and `high` of its 95 % Wilson interval.

        Raises:
            ValueError: n is below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        rng = random.Random(f"number agreement accuracy {seed}")
        lexicon = Lexicon(self.nouns, self.templates)
        cells = [(template, other) for template in self.templates for other in (False, True)]
        phrases = [
            lexicon.phrase(rng, number=NUMBERS[i % 2], other_attractor=other, template=template)
            for template, other in cells
            for i in range(n)
        ]
        hits = _right(model, phrases, batch_size).reshape(-1, n).sum(axis=1)
        lines = []
        for (template, other), k in zip(cells, hits.tolist(), strict=True):
            counted = Accuracy(hits=k, n=n)
            low, high = counted.interval
            kind = "other" if other else "same"
            lines.append(
                {"template": template.text, "attractor": kind}
                | {"hits": k, "n": n, "accuracy": counted.value, "low": low, "high": high}
            )
        return pd.DataFrame(lines)


def _fill(
    splits: Sequence[_Split], model: TransformerBridge, minimum_accuracy: float, batch_size: int
) -> tuple[int, Accuracy]:
    """Draw rows until the splits are full of such as the model gets right.

    Returns:
        How many rows were drawn, and the model's accuracy on the prompts of the first draw.
    """
    generated, first = 0, None
    for _ in range(_ROUNDS):
        drawn = [(part, *pair) for part in splits for pair in part.draw()]
        if not drawn:
            break
        right = _right(model, [phrase for _, _, *pair in drawn for phrase in pair], batch_size)
        generated += len(drawn)
        if first is None:
            first = Accuracy(hits=int(right.sum()), n=len(right))
            advice = ": take a larger one, or one trained on English"
            check_accuracy(first, minimum_accuracy, 2, advice)
        both_right = right[0::2] & right[1::2]
        for (part, cell, base, source), both in zip(drawn, both_right.tolist(), strict=True):
            if both:
                part.keep(cell, base, source)
        if not any(part.missing.total() for part in splits):
            return generated, first
    missing = sum((+part.missing for part in splits), Counter())
    cell, lacking = missing.most_common(1)[0]
    n = sum(part.size for part in splits)
    raise ValueError(
        f"n must be a number of rows that the model gets right: of {generated} drawn, it is right "
        f"on base and source of {n - missing.total()}, {n} were asked for (accuracy on single "
        f"prompts {first}). Most lacking, by {lacking}: a {cell.base} base with a {cell.source} "
        f"source, attractors of the {'other' if cell.base_other else 'same'} and of the "
        f"{'other' if cell.source_other else 'same'} number"
    )


def _right(
    model: TransformerBridge, phrases: Sequence[Phrase], batch_size: int
) -> Bool[np.ndarray, "n"]:
    """For each phrase, whether the model's verb agrees with its subject."""
    rows = [{"prompt": phrase.text, "choices": list(phrase.template.choices)} for phrase in phrases]
    predicted = predict_choices(model, rows, batch_size=batch_size)
    return predicted == np.array([NUMBERS.index(phrase.number) for phrase in phrases])


def _row(base: Phrase, source: Phrase, variable: Variable) -> dict[str, Any]:
    return {
        "base": base.text,
        "source": source.text,
        "base_answer": base.answer,
        "source_answer": source.answer,
        "label": base.template.answer(source.facts[variable]),
        "choices": list(base.template.choices),
        "base_spans": base.spans,
        "source_spans": source.spans,
        **{f"base_{key}": value for key, value in base.facts.items()},
        **{f"source_{key}": value for key, value in source.facts.items()},
    }
