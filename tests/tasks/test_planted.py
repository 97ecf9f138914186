"""Planted truth: the models do what they were built to do, whatever any search finds."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

import reft_interp as ri
from reft_interp.causal import interchange_accuracies
from reft_interp.causal.rows import rows_of
from reft_interp.tasks import plantings


@pytest.fixture(scope="module")
def planted() -> dict[str, ri.tasks.Planting]:
    return {planting.name: planting for planting in plantings()}


def test_there_is_truth_and_there_is_none(planted):
    assert {name for name, one in planted.items() if one.truth} == {
        "one layer", "four values", "two layers, above", "overlapping",
    }  # fmt: skip
    assert {name for name, one in planted.items() if not one.truth} == {
        "one layer, too early", "nowhere", "two layers, between", "decoy",
    }  # fmt: skip


def test_the_models_do_their_task_but_where_nothing_is_planted(planted):
    for name, one in planted.items():
        rows = [
            {"prompt": row["base"], "answer": row["base_answer"], "choices": row["choices"]}
            for row in rows_of(one.counterfactuals(60).test)
        ]
        right = ri.accuracy(one.model, rows).value
        assert right < 0.9 if name == "nowhere" else right == 1.0, name


def test_an_interchange_in_the_planted_subspace_gives_every_label(planted):
    for name, one in planted.items():
        if one.subspace is None:
            continue
        swap = ri.DistributedInterchange(one.subspace)
        test = one.counterfactuals(90).test
        (found,) = interchange_accuracies(one.model, test, [(swap, one.site, one.on)])
        assert found.value == 1.0, name
        # Without one of its directions it gives fewer.
        rest = one.subspace.basis[1:]
        if len(rest):
            less = ri.DistributedInterchange(ri.Subspace(rest))
            (found,) = interchange_accuracies(one.model, test, [(less, one.site, one.on)])
            assert found.value < 0.9, name


def test_a_decoy_holds_the_variable_and_does_nothing(planted):
    one = planted["decoy"]
    test = one.counterfactuals(90).test
    rows = [{"prompt": row["base"]} for row in rows_of(test)]
    held = torch.cat(ri.activations(one.model, rows, one.site, one.on))
    numbers = [row["base_number"] for row in rows_of(test)]
    assert LogisticRegression().fit(held.numpy(), numbers).score(held.numpy(), numbers) == 1.0
    means = [held[[i for i, n in enumerate(numbers) if n == side]].mean(0) for side in "01"]
    swap = ri.DistributedInterchange(ri.Subspace.from_matrix((means[1] - means[0])[None]))
    (found,) = interchange_accuracies(one.model, test, [(swap, one.site, one.on)])
    assert found.value < 0.7
