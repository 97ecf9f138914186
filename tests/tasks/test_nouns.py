"""The noun table, against rules of English spelling that are written down here once more."""

from collections import Counter

import pytest

from reft_interp.tasks.nouns import NOUNS, Noun, opposite

IRREGULAR = {
    "cactus": "cacti",
    "calf": "calves",
    "child": "children",
    "fireman": "firemen",
    "fisherman": "fishermen",
    "goose": "geese",
    "grandchild": "grandchildren",
    "hero": "heroes",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "man": "men",
    "midwife": "midwives",
    "mosquito": "mosquitoes",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "policeman": "policemen",
    "potato": "potatoes",
    "salesman": "salesmen",
    "scarf": "scarves",
    "shelf": "shelves",
    "thief": "thieves",
    "tomato": "tomatoes",
    "tooth": "teeth",
    "wife": "wives",
    "wolf": "wolves",
    "woman": "women",
}


def plural(singular: str) -> str:
    if singular in IRREGULAR:
        return IRREGULAR[singular]
    if singular.endswith(("s", "x", "ch", "sh")):
        return singular + "es"
    if singular.endswith("y") and singular[-2] not in "aeiou":
        return singular[:-1] + "ies"
    return singular + "s"


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.singular)
def test_the_plural_is_right(noun):
    assert noun.plural == plural(noun.singular)


def test_there_are_hundreds_regular_and_irregular():
    assert len(NOUNS) >= 250
    assert len({noun.singular for noun in NOUNS} & IRREGULAR.keys()) == len(IRREGULAR)
    assert min(Counter(noun.kind for noun in NOUNS).values()) >= 50


def test_no_form_is_that_of_another_noun_or_number():
    forms = [form for noun in NOUNS for form in (noun.singular, noun.plural)]
    assert len(set(forms)) == len(forms)


def test_a_noun_must_tell_its_number():
    with pytest.raises(ValueError, match="got 'sheep' for both"):
        Noun("sheep", "sheep", "animal")


def test_form_and_opposite():
    key = Noun("key", "keys", "thing")
    assert [key.form("singular"), key.form("plural")] == ["key", "keys"]
    assert [opposite("singular"), opposite("plural")] == ["plural", "singular"]
