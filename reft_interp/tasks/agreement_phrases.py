"""Phrases in which a subject and an attractor each have a number, and what is held out of them.

Here: templates ("The {subject} near the {attractor}"), the phrases made from them, and the one
split of nouns and templates that every task on them shares, so that what one task found can be
tested by another on nouns that neither was trained on. Next door: `nouns` has the nouns,
`number_agreement` makes counterfactual pairs of phrases, `number_naming` questions about them.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reft_interp.tasks.nouns import NUMBERS, Noun, NounKind, Number, opposite

_ANY: tuple[NounKind, ...] = ("person", "animal", "thing", "place")


@dataclass(frozen=True)
class Template:
    """A phrase with a place for a subject and one for an attractor, that a verb continues.

    Args:
        text: contains `{subject}` and `{attractor}` once each.
        choices: the verb's two forms, singular and plural, with their leading space.
        attractors: kinds of noun that make sense as the attractor (who or what can remember, in
            "that the {attractor} remembered").

    Raises:
        ValueError: a slot is missing or repeated, or the two forms are the same.
    """

    text: str
    choices: tuple[str, str]
    attractors: tuple[NounKind, ...] = _ANY

    def __post_init__(self) -> None:
        if sorted(re.findall(r"\{(\w*)\}", self.text)) != ["attractor", "subject"]:
            raise ValueError(
                "text must contain {subject} and {attractor} once each and no other slot, "
                f"got {self.text!r}"
            )
        if self.choices[0] == self.choices[1]:
            raise ValueError(f"choices must be two different forms, got {self.choices!r}")

    def answer(self, number: Number) -> str:
        """The verb's form after a subject of this number."""
        return self.choices[NUMBERS.index(number)]


_IS, _WAS, _HAS = (" is", " are"), (" was", " were"), (" has", " have")

# Each is continued naturally by its verb, and nothing in it but the subject gives the number
# away: verbs inside are past tense, which English does not inflect for number.
TEMPLATES: tuple[Template, ...] = (
    Template("The {subject} near the {attractor}", _IS),
    Template("The {subject} behind the {attractor}", _IS),
    Template("In the photo, the {subject} next to the {attractor}", _IS),
    Template("Right now the {subject} across from the {attractor}", _IS),
    Template("I think that the {subject} in front of the {attractor}", _IS),
    Template("Everyone knows that the {subject} by the {attractor}", _IS),
    Template("The {subject} that the {attractor} remembered", _WAS, ("person",)),
    Template("The {subject} described by the {attractor}", _WAS, ("person",)),
    Template("The {subject} that stood beside the {attractor}", _WAS),
    Template("Everyone knew that the {subject} by the {attractor}", _WAS),
    Template("Yesterday the {subject} beside the {attractor}", _WAS),
    Template("In the end, the {subject} opposite the {attractor}", _WAS),
    Template("Since Monday, the {subject} by the {attractor}", _HAS),
    Template("Until now, the {subject} near the {attractor}", _HAS),
    Template("So far the {subject} next to the {attractor}", _HAS),
    Template("It seems that the {subject} behind the {attractor}", _HAS),
)


@dataclass(frozen=True)
class Phrase:
    """A template with its nouns in it."""

    template: Template
    subject: Noun
    number: Number
    attractor: Noun
    attractor_number: Number

    @property
    def text(self) -> str:
        return self.template.text.format(
            subject=self.subject.form(self.number),
            attractor=self.attractor.form(self.attractor_number),
        )

    @property
    def answer(self) -> str:
        """The verb's form that agrees with the subject."""
        return self.template.answer(self.number)

    @property
    def spans(self) -> dict[str, list[int]]:
        """Character ranges [start, end) of "subject" and "attractor" in `text`."""
        spans, text = {}, ""
        for literal, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", self.template.text):
            text += literal
            if slot == "subject":
                noun = self.subject.form(self.number)
            elif slot == "attractor":
                noun = self.attractor.form(self.attractor_number)
            else:
                continue
            spans[slot] = [len(text), len(text) + len(noun)]
            text += noun
        return spans

    @property
    def facts(self) -> dict[str, Any]:
        """What a row records about the phrase, besides its text."""
        return {
            "number": self.number,
            "attractor_number": self.attractor_number,
            "subject": self.subject.singular,
            "attractor": self.attractor.singular,
            "template": self.template.text,
        }


@dataclass(frozen=True)
class Lexicon:
    """The nouns and templates of one split; `phrase` draws from them."""

    nouns: tuple[Noun, ...]
    templates: tuple[Template, ...]

    def phrase(
        self,
        rng: random.Random,
        *,
        number: Number,
        other_attractor: bool,
        template: Template | None = None,
        avoid: Sequence[Noun] = (),
    ) -> Phrase:
        """Draw a phrase.

        Args:
            number: of the subject.
            other_attractor: the attractor has the other number, rather than the same.
            template: where the nouns go; drawn, if it is not given.
            avoid: nouns that must not be the subject.

        Raises:
            ValueError: no noun is left to draw, of the kinds that the template takes.
        """
        template = template or rng.choice(self.templates)
        subject = self._draw(rng, _ANY, avoid)
        attractor = self._draw(rng, template.attractors, (subject,))
        attractor_number = opposite(number) if other_attractor else number
        return Phrase(template, subject, number, attractor, attractor_number)

    def _draw(self, rng: random.Random, kinds: tuple[NounKind, ...], avoid: Sequence[Noun]) -> Noun:
        nouns = [noun for noun in self.nouns if noun.kind in kinds and noun not in avoid]
        if not nouns:
            raise ValueError(
                f"nouns has no {' or '.join(kinds)} left to draw in one of the splits "
                f"({len(self.nouns)} nouns there); give more nouns of that kind"
            )
        return rng.choice(nouns)


def split(
    nouns: Sequence[Noun], templates: Sequence[Template], seed: int
) -> tuple[Lexicon, Lexicon]:
    """Hold out a third of the nouns of each kind, and of the templates of each verb.

    Returns:
        What train draws from and what test draws from; they share no noun and no template.

    Raises:
        ValueError: there are too few to leave at least one noun and one template on each side.
    """
    rng = random.Random(f"agreement split {seed}")
    train_nouns, test_nouns = _hold_out(rng, nouns, [noun.kind for noun in nouns])
    train, test = _hold_out(rng, templates, [template.choices for template in templates])
    for name, parts in ("nouns", (train_nouns, test_nouns)), ("templates", (train, test)):
        if not all(parts):
            raise ValueError(
                f"{name} must be enough to hold a third of each kind out (three of a kind), got "
                f"{sum(map(len, parts))}"
            )
    return Lexicon(tuple(train_nouns), tuple(train)), Lexicon(tuple(test_nouns), tuple(test))


def _hold_out(rng: random.Random, items: Sequence, kinds: Sequence) -> tuple[list, list]:
    kept, held_out = [], []
    for kind in dict.fromkeys(kinds):
        members = [item for item, of in zip(items, kinds, strict=True) if of == kind]
        rng.shuffle(members)
        third = round(len(members) / 3)
        held_out += members[:third]
        kept += members[third:]
    return kept, held_out


def balanced(n: int, cells: Sequence) -> Iterator[tuple[Any, int]]:
    """Share n rows out over the cells of a design: each cell with its number of rows.

    The first n mod len(cells) cells have one row more, so order the cells to keep every prefix
    of even length in balance.
    """
    for index, cell in enumerate(cells):
        yield cell, n // len(cells) + (index < n % len(cells))
