"""Searches that run together find what each finds alone."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import reft_interp as ri
from reft_interp.causal.joint_cells import JointCell
from reft_interp.causal.shuffling import shuffled_labels
from reft_interp.interventions import DistributedInterchange, Interchange

NOUNS = ("key", "door", "cat", "dog", "house", "table")


@pytest.fixture(scope="module")
def pairs():
    rows = []
    for i, noun in enumerate(NOUNS):
        for j, other in enumerate(NOUNS):
            base = f"The {noun}{'s' if i % 2 else ''} of the man"
            source = f"The {other}{'s' if (i + j) % 2 else ''} of the"
            label = " are" if (i + j) % 2 else " is"
            rows.append(
                {"base": base, "source": source, "label": label, "choices": [" is", " are"]}
            )
    return rows


@pytest.fixture(scope="module")
def cells():
    return [
        ri.DASCell(ri.Site("resid_post", 0), "last", rank=2, seed=0),
        ri.DASCell(ri.Site("resid_post", 1), "last", rank=1, seed=1, learning_rate=1e-2),
        ri.DASCell(ri.Site("mlp_out", 0), -2, rank=3, seed=2, epochs=2, batch_size=8),
    ]


def test_each_finds_what_fit_das_finds(tiny, pairs, cells):
    model = tiny("llama")
    for cell, found in zip(
        cells, ri.fit_das_each(model, pairs, cells, progress=False), strict=True
    ):
        alone = ri.fit_das(
            model,
            pairs,
            cell.site,
            cell.on,
            rank=cell.rank,
            epochs=cell.epochs,
            learning_rate=cell.learning_rate,
            batch_size=cell.batch_size,
            seed=cell.seed,
            engine="full",
            progress=False,
        )
        assert_close(found.subspace.basis, alone.subspace.basis, atol=1e-4, rtol=0)
        assert found.losses["loss"].tolist() == pytest.approx(
            alone.losses["loss"].tolist(), abs=1e-4
        )
        assert (found.site, found.on) == (alone.site, alone.on)
        assert alone.settings.items() <= {**found.settings, "engine": "full"}.items()


def test_many_interchanges_score_as_one_by_one(tiny, pairs):
    model = tiny("gpt2")
    asked = [
        (Interchange(), ri.Site("resid_post", 0), "last"),
        (DistributedInterchange(ri.Subspace.random(32, 4, seed=0)), ri.Site("resid_pre", 1), -2),
        (ri.ZeroAblation(ri.Subspace.random(32, 8, seed=1)), ri.Site("resid_post", 1), "last"),
        (Interchange(), ri.Site("z", 1, heads=0), "f1+l1"),
    ]
    found = ri.interchange_accuracies(model, pairs, asked, batch_size=50)
    assert found[1] == ri.interchange_accuracy(model, pairs, *asked[1])
    plain = ri.interchange_accuracies(model, pairs, asked, engine="full")
    assert found == plain
    assert len({score.hits for score in found}) > 1


def test_shuffled_labels_are_the_same_labels_dealt_out_again(tiny, pairs):
    rows = [
        {"prompt": row["base"], "answer": row["label"], "choices": row["choices"]} for row in pairs
    ]
    # Rows of other words keep an answer that fits them.
    rows[0] = {**rows[0], "choices": [" has", " have"], "answer": " has"}
    dealt = shuffled_labels(rows, seed=0)
    assert all(row["answer"] in row["choices"] for row in dealt)
    places = [[row["choices"].index(row["answer"]) for row in some] for some in (rows, dealt)]
    assert sum(places[0]) == sum(places[1]) and places[0] != places[1]
    assert shuffled_labels(rows, seed=0) == dealt != shuffled_labels(rows, seed=1)
    cells = [
        ri.DASCell(ri.Site("resid_post", 1), "last", rank=2, shuffled_labels=shuffled)
        for shuffled in (False, True)
    ]
    true, control = ri.fit_das_each(tiny("llama"), pairs, cells, progress=False)
    assert control.settings["shuffled_labels"] and not true.settings["shuffled_labels"]
    assert not torch.allclose(true.subspace.basis, control.subspace.basis, atol=1e-3)


@pytest.mark.parametrize("place", [0, 1])
def test_labels_are_shuffled_wherever_they_stand_among_choices(place):
    answers = [(" is", " are")[i % 2] for i in range(40)]
    rows = []
    for i, answer in enumerate(answers):
        choices = [answer, " are" if answer == " is" else " is"]
        choices = choices if place == 0 else choices[::-1]
        rows.append({"prompt": str(i), "answer": answer, "choices": choices})
    dealt = shuffled_labels(rows, seed=0)
    right = [new["answer"] == old for new, old in zip(dealt, answers, strict=True)]
    assert sum(right) == 20
    assert all(new["choices"] == row["choices"] for new, row in zip(dealt, rows, strict=True))
    one = {"prompt": "a", "answer": " are", "choices": [" is", " are"]}
    with pytest.raises(ValueError, match=r"cannot be shuffled, as ' are' .* one place among"):
        shuffled_labels([one, one], seed=0)
    with pytest.raises(ValueError, match="cannot be shuffled, as 'x' and all others are the same"):
        shuffled_labels([{"prompt": "a", "answer": "x"}] * 2, seed=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [(30, 30), (10, 45), (20, 7, 33)])
def test_shuffled_labels_say_nothing_about_the_true_ones(counts, seed):
    answers = [f"a{k}" for k, count in enumerate(counts) for _ in range(count)]
    rng = np.random.default_rng(seed + 100)
    rows: list[dict[str, Any]] = [
        {"prompt": str(i), "answer": answers[i]} for i in rng.permutation(len(answers))
    ]
    with_choices = [row | {"choices": sorted(set(answers))} for row in rows]
    for some in (rows, with_choices):
        dealt = [row["answer"] for row in shuffled_labels(some, seed)]
        assert sorted(dealt) == sorted(answers)
        for true, count in zip(sorted(set(answers)), counts, strict=True):
            got = [new for new, row in zip(dealt, rows, strict=True) if row["answer"] == true]
            for label, of in zip(sorted(set(answers)), counts, strict=True):
                # Dealt freely, these differ by several from what is proportional.
                assert abs(got.count(label) - count * of / len(rows)) <= 2


def test_bad_cells_are_refused_before_any_step(tiny, pairs):
    model = tiny("llama")
    with pytest.raises(ValueError, match="at least one cell"):
        ri.fit_das_each(model, pairs, [])
    start = ri.Subspace.random(32, 2, seed=0)
    with pytest.raises(ValueError, match="has rank 1, but its start has rank 2"):
        ri.fit_das_each(model, pairs, [ri.DASCell(ri.Site("z", 0), "last", start=start)])
    with pytest.raises(ValueError, match="layer must be between 0 and 1"):
        ri.fit_das_each(model, pairs, [ri.DASCell(ri.Site("resid_post", 7), "last")])


def test_resampled_pairs_are_drawn_again_with_their_sources(tiny, pairs):
    model = tiny("llama")
    site = ri.Site("resid_post", 1)
    chosen = np.random.default_rng(3).integers(len(pairs), size=len(pairs))
    (found,) = ri.fit_das_each(
        model, pairs, [ri.DASCell(site, "last", resampled_pairs=3)], progress=False
    )
    alone = ri.fit_das(model, [pairs[i] for i in chosen], site, "last", progress=False)
    assert_close(found.subspace.basis, alone.subspace.basis, atol=1e-4, rtol=0)
    assert found.settings["resampled_pairs"] == 3


@pytest.mark.usefixtures("no_type_checks")
def test_numbers_of_numpy_are_those_of_python_as_a_sweep_writes_them():
    given = {
        "seed": np.int64(1), "epochs": np.int32(2), "learning_rate": np.float32(0.5),
        "batch_size": np.int64(4), "resampled_pairs": np.int64(3),
        "shuffled_labels": np.bool_(True),
    }  # fmt: skip
    cell = ri.DASCell(ri.Site("resid_post", 0), "last", **given)
    held = json.dumps({name: getattr(cell, name) for name in given})
    assert json.loads(held) == {name: value.item() for name, value in given.items()}
    del given["shuffled_labels"]
    joint = JointCell({"v": (ri.Site("resid_post", 0), "last", 1)}, **given)
    assert json.loads(json.dumps({name: getattr(joint, name) for name in given})) == {
        name: value.item() for name, value in given.items()
    }


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"resampled_pairs": 1.5}, TypeError, "resampled_pairs must be a whole number, got 1.5"),
        ({"resampled_pairs": -1}, ValueError, "resampled_pairs must be at least 0, got -1"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be above 0, got 0"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_numbers_that_no_search_can_have_are_named(given, error, message):
    for make in (
        lambda: ri.DASCell(ri.Site("resid_post", 0), "last", **given),
        lambda: JointCell({"v": (ri.Site("resid_post", 0), "last", 1)}, **given),
    ):
        with pytest.raises(error, match=message):
            make()
