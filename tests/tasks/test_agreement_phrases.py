"""Phrases and their spans, and what is held out of them."""

import random
import re

import pytest

from reft_interp.tasks.agreement_phrases import (
    TEMPLATES,
    Lexicon,
    Phrase,
    Template,
    balanced,
    split,
)
from reft_interp.tasks.nouns import NOUNS, NUMBERS, Noun

KEY, DOOR = Noun("key", "keys", "thing"), Noun("door", "doors", "place")


def test_a_phrase_written_out():
    template = Template("Once the {subject} by the {attractor} there", (" was", " were"))
    phrase = Phrase(template, KEY, "plural", DOOR, "singular")
    assert phrase.text == "Once the keys by the door there"
    assert phrase.answer == " were"
    assert phrase.spans == {"subject": [9, 13], "attractor": [21, 25]}


def test_spans_are_right_where_a_noun_is_repeated_in_the_template():
    template = Template("A key of the {attractor}, a {subject}", (" is", " are"))
    phrase = Phrase(template, KEY, "singular", DOOR, "plural")
    assert phrase.spans == {"attractor": [13, 18], "subject": [22, 25]}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_templates_are_phrases_with_two_nouns_and_no_end(template):
    filled = template.text.format(subject="SUBJECT", attractor="ATTRACTOR")
    assert filled.count("the SUBJECT") + filled.count("The SUBJECT") == 1
    assert filled.count("the ATTRACTOR") == 1
    assert filled == filled.strip() and filled[-1].isalpha()
    assert template.choices in {(" is", " are"), (" was", " were"), (" has", " have")}
    # Nothing else in it is one of the nouns, or inflected for number.
    others = set(re.findall(r"[a-z]+", filled.lower())) - {"knows", "seems"}
    assert not others & {form for noun in NOUNS for form in (noun.singular, noun.plural)} - {
        "photo"
    }
    assert not others & {"is", "are", "was", "were", "has", "have", "stands", "stand"}


def test_there_are_several_templates_of_each_verb():
    assert len({template.text for template in TEMPLATES}) == len(TEMPLATES) >= 8
    assert {template.choices[0] for template in TEMPLATES} == {" is", " was", " has"}


@pytest.mark.parametrize(
    "text",
    [
        "The {subject}",
        "The {attractor}",
        "The {subject} {subject} {attractor}",
        "{subject} {attractor} {x}",
    ],
)
def test_a_template_must_have_both_slots_once(text):
    with pytest.raises(ValueError, match="once each"):
        Template(text, (" is", " are"))


def test_a_template_must_have_two_forms():
    with pytest.raises(ValueError, match="two different forms"):
        Template("The {subject} by the {attractor}", (" can", " can"))


def test_drawn_phrases_are_as_asked_for():
    rng = random.Random(0)
    lexicon = Lexicon(NOUNS, TEMPLATES)
    for i in range(400):
        number, other = NUMBERS[i % 2], bool(i // 2 % 2)
        phrase = lexicon.phrase(rng, number=number, other_attractor=other)
        assert phrase.number == number
        assert (phrase.attractor_number != number) == other
        assert phrase.subject != phrase.attractor
        assert phrase.attractor.kind in phrase.template.attractors
        assert phrase.facts["number"] == number


def test_a_noun_to_avoid_is_avoided():
    lexicon = Lexicon((KEY, DOOR), TEMPLATES[:1])
    rng = random.Random(0)
    drawn = [
        lexicon.phrase(rng, number="plural", other_attractor=False, avoid=[KEY]) for _ in range(20)
    ]
    assert {phrase.subject for phrase in drawn} == {DOOR}
    with pytest.raises(ValueError, match="nouns has no person or animal or thing or place left"):
        lexicon.phrase(rng, number="plural", other_attractor=False, avoid=[KEY, DOOR])


@pytest.mark.parametrize("seed", range(5))
def test_the_split_shares_nothing_and_loses_nothing(seed):
    train, test = split(NOUNS, TEMPLATES, seed)
    assert not set(train.nouns) & set(test.nouns)
    assert not set(train.templates) & set(test.templates)
    assert set(train.nouns) | set(test.nouns) == set(NOUNS)
    assert set(train.templates) | set(test.templates) == set(TEMPLATES)
    assert 0.3 < len(test.nouns) / len(NOUNS) < 0.37
    # Every verb that test asks for is one that train has.
    verbs = {template.choices for template in TEMPLATES}
    assert verbs == {t.choices for t in train.templates} == {t.choices for t in test.templates}


def test_the_split_is_that_of_its_seed():
    first = split(NOUNS, TEMPLATES, 1)
    random.seed(99)
    assert split(NOUNS, TEMPLATES, 1) == first
    assert split(NOUNS, TEMPLATES, 1) != split(NOUNS, TEMPLATES, 2)


def test_too_little_to_split_is_an_error():
    with pytest.raises(ValueError, match=r"nouns must be enough .*got 2"):
        split([KEY, DOOR], TEMPLATES, 0)
    with pytest.raises(ValueError, match=r"templates must be enough .*got 1"):
        split(NOUNS, TEMPLATES[:1], 0)


@pytest.mark.parametrize("n", [0, 3, 4, 10, 17])
def test_rows_are_shared_out_evenly_first_cells_first(n):
    counts = [count for _, count in balanced(n, "abcd")]
    assert sum(counts) == n
    assert counts == sorted(counts, reverse=True)
    assert max(counts) - min(counts) <= 1
