"""Animacy: as many pairs as are drawn by default, none of train's nouns or templates in test."""

import importlib
from typing import Any

from reft_interp.causal.rows import rows_of
from reft_interp.tasks import animacy

# `reft_interp.tasks.animacy` is the function.
words: Any = importlib.import_module("reft_interp.tasks.animacy")


def test_there_are_as_many_pairs_as_are_drawn_by_default():
    pairs = animacy().counterfactuals(None, "animate")
    train, test = rows_of(pairs.train), rows_of(pairs.test)
    assert len(train) + len(test) == 600

    def used(split):
        templates = {row[side].rsplit(" ", 1)[0] for row in split for side in ("base", "source")}
        nouns = {row[side].rsplit(" ", 1)[1] for row in split for side in ("base", "source")}
        return templates, nouns

    for trained, tested in zip(used(train), used(test), strict=True):
        assert trained and tested and not trained & tested


def test_nouns_of_both_kinds_follow_either_article():
    assert len(words.ANIMATE) == len(words.INANIMATE)
    nouns = [*words.ANIMATE, *words.INANIMATE]
    assert len(set(nouns)) == len(nouns)
    assert not [noun for noun in nouns if noun[0] in "aeiou"]


def test_smollm2_can_do_it(smollm2):
    pairs = animacy().counterfactuals(smollm2, "animate", n=36)
    assert pairs.model_accuracy is not None and pairs.model_accuracy > 0.85
