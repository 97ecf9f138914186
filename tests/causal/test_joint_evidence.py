"""Joint evidence: it claims two variables that were put by hand, and neither place nor label that
one of them alone explains."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from two_variables import (
    ANSWERS,
    FIRST,
    SECOND,
    SITE,
    both,
    first_alone,
    joint_pairs,
    planted_model,
    triples,
    values_of,
)

import reft_interp as ri

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]

PLACES = {"first": (SITE, "last", 1), "second": (SITE, "last", 1)}
BUDGET: dict[str, Any] = {
    "epochs": 8, "learning_rate": 3e-2, "random_subspaces": 4, "minimum_accuracy": 0,
    "progress": False,
}  # fmt: skip
TWICE: dict[str, Any] = {**BUDGET, "seeds": 2, "resamples": 1}
ONCE: dict[str, Any] = BUDGET | {"seeds": 1, "resamples": 0}


@pytest.fixture(scope="module")
def model(tiny_parts):
    return planted_model(tiny_parts)


@pytest.fixture(scope="module")
def true(model) -> ri.JointEvidence:
    return ri.gather_joint_evidence(model, joint_pairs(), PLACES, **TWICE)


def test_it_holds_where_both_were_put(true):
    assert true.holds and true.failing == () and true.iia.value == 1
    for name, direction in (("first", FIRST), ("second", SECOND)):
        angle = true.subspaces[name].principal_angles(ri.Subspace(direction[None])).max()
        assert angle < 10, name


def test_one_variable_alone_gives_what_it_implies(true):
    said = [
        (both(*of), both(base, first, base), both(base, base, second))
        for of in triples(joint_pairs())
        for base, first, second in [of]
    ]
    expected = np.array([[label == first, label == second] for label, first, second in said]).T
    assert 0.3 < expected.mean() < 0.7
    np.testing.assert_array_equal(true.hits["first alone"][0], expected[0])
    np.testing.assert_array_equal(true.hits["second alone"][0], expected[1])


def test_it_does_not_hold_where_one_place_is_wrong(model):
    # The token before the letter, which is the same in all prompts.
    places = PLACES | {"second": (SITE, "f1", 1)}
    found = ri.gather_joint_evidence(model, joint_pairs(), places, **ONCE)
    assert not found.holds and "first alone" in found.failing
    assert found.summary().endswith(f"the upper bound of: {', '.join(found.failing)}.")


def test_it_does_not_hold_where_one_variable_alone_gives_the_label(model):
    found = ri.gather_joint_evidence(model, joint_pairs(first_alone), PLACES, **ONCE)
    assert found.iia.value > 0.95
    assert found.failing == ("first alone",) and not found.holds


def test_every_control_is_there_and_scored_on_the_same_joint_pairs(true):
    frame = true.to_frame().set_index("method")
    assert list(frame.index) == [
        "DAS", "DAS, other seeds", "no intervention", "random subspace",
        "placebo of the same size", "first alone", "second alone", "shuffled labels",
        "untrained model", "DAS, resampled pairs",
    ]  # fmt: skip
    assert set(frame["n"]) == {64}
    assert frame.loc["random subspace", "draws"] == frame.loc["placebo of the same size", "draws"]
    assert frame.loc["shuffled labels", "draws"] == frame.loc["untrained model", "draws"] == 2
    unmoved = [both(*one) == ANSWERS[values_of(one[0])] for one in triples(joint_pairs())]
    assert frame.loc["no intervention", "value"] == np.mean(unmoved)
    assert {"first alone", "second alone"} < set(true.selectivity["control"])
    assert true.gap == 0


def test_stability_is_of_each_variable(true):
    frame = true.stability
    runs = ["seed 0", "seed 1", "resampled pairs 0"]
    assert list(frame["run"]) == [run for run in runs for _ in PLACES]
    assert list(frame["variable"]) == list(PLACES) * 3
    assert (frame["largest angle"] < 15).all()
    again = true.found[1].subspaces["second"]
    expected = again.overlap(true.subspaces["second"])
    assert frame.loc[3, "overlap"] == pytest.approx(expected) and frame.loc[3, "iia"] == 1


def test_whole_vectors_are_left_out_where_they_are_of_two_sources(true):
    assert true.sharing == ("first", "second")
    assert "whole vector" not in true.hits and "whole vector" not in set(
        true.selectivity["control"]
    )
    (flag,) = true.flags
    assert "whole vector: not defined, as first and second share tokens" in flag


def test_the_summary_can_be_quoted(true):
    text = true.summary()
    for words in (
        "In tiny-planted, interchanges of first (rank 1, blocks.0.hook_resid_post on last) and s",
        "100.0% of 64 held-out pairs", "No intervention gives", "(4 draws)", ", first alone ",
        "1 other seed and 1 resample of the training pairs give 100.0%", "(random: 0.03) for first",
    ):  # fmt: skip
        assert words in text
    assert text.endswith(
        "The lower bound is above the upper bounds of no intervention, random subspaces, shuffled "
        "labels, the untrained model, first alone and second alone."
    )
    worse = dataclasses.replace(true, hits=true.hits | {"second alone": true.hits["DAS"]})
    assert worse.failing == ("second alone",) and not worse.holds
    assert "holds: True" in str(true) and "holds: True" in true._repr_html_()
    assert true.plot().get_yticklabels()


def test_it_is_saved_as_a_page_with_what_was_found(true, model, tmp_path):
    page = true.save(tmp_path, joint_pairs())
    text = page.read_text(encoding="utf-8")
    for words in ("Are first and second carried", "held-out", joint_pairs().hash, "learning rate"):
        assert words in text
    held = json.loads((tmp_path / "evidence.json").read_text())
    assert held["holds"] and held["summary"] == true.summary() and held["split"] is None
    assert held["places"]["first"] == {"site": str(SITE), "tokens": "last", "rank": 1}
    assert "holds: yes; it has to be above no intervention, " in text
    again = ri.JointDASResult.load(tmp_path / "interchange", model)
    assert again.settings == true.found[0].settings
    assert again.score(joint_pairs().test) == true.iia
    for name, subspace in true.subspaces.items():
        assert again.subspaces[name].principal_angles(subspace).max() < 0.1


def test_effects_have_sizes(true):
    frame = true.effects.to_frame().set_index(["method", "measure"])
    assert frame.loc[("DAS", "logit difference, change (nats)"), "low"] > 0.5
