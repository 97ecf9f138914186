"""Hierarchical equality: the labels, the balance, and a model that begins to learn it."""

from collections import Counter

import pytest
import torch

from reft_interp.causal.rows import rows_of
from reft_interp.tasks import (
    first_object_hypothesis,
    hierarchical_equality,
    train_equality_model,
)

pytestmark = pytest.mark.usefixtures("long_training")


def test_both_hypotheses_give_the_same_prompts_the_same_answers():
    one, other = hierarchical_equality(), first_object_hypothesis()
    for setting in ({"a": 1, "b": 1, "c": 2, "d": 3}, {"a": 1, "b": 0, "c": 2, "d": 3}):
        assert (
            one.write(setting).text
            == other.write(setting).text
            == (f"{setting['a']} {setting['b']} {setting['c']} {setting['d']} =")
        )
        alike = (setting["a"] == setting["b"]) == (setting["c"] == setting["d"])
        expected = " same" if alike else " different"
        assert one.write(setting).answer == other.write(setting).answer == expected


def test_labels_are_worked_out_from_the_objects():
    pairs = hierarchical_equality().counterfactuals(None, "left", n=60)
    for row in rows_of(pairs.train):
        a, b = (row[f"source_{name}"] for name in "ab")
        c, d = (row[f"base_{name}"] for name in "cd")
        assert row["label"] == (" same" if (a == b) == (c == d) else " different")
    wrong = first_object_hypothesis().counterfactuals(None, "first", n=60)
    for row in rows_of(wrong.train):
        b, c, d = (row[f"base_{name}"] for name in "bcd")
        alike = (row["source_a"] == b) == (c == d)
        assert row["label"] == (" same" if alike else " different")


def test_rare_values_are_drawn_as_often_as_common_ones():
    # Of uniform draws, one in eight has an equal pair.
    pairs = hierarchical_equality().counterfactuals(None, "left", n=300)
    counts = Counter((row["base_left"], row["base_right"]) for row in rows_of(pairs.train))
    assert len(counts) == 4 and min(counts.values()) > 30  # 50 expected


def test_an_unknown_name_cannot_be_balanced():
    import dataclasses

    with pytest.raises(ValueError, match=r"balanced must name variables .* got \['middle'\]"):
        dataclasses.replace(hierarchical_equality(), balanced=("middle",))


def test_training_repeats_with_its_seed():
    state = torch.get_rng_state()
    one, two = (train_equality_model(steps=2, progress=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    ids = torch.tensor([[1, 1, 2, 3, 8]])
    assert torch.equal(one(ids), two(ids))
    assert not any(parameter.requires_grad for parameter in one.parameters())
