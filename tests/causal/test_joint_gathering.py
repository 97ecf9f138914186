"""Gathering joint evidence: whole vectors where they are defined, and what is refused."""

import numpy as np
import pytest
import torch
from two_variables import ANSWERS, SITE, both, joint_pairs, planted_model, triples, values_of

import reft_interp as ri

PLACES = {"first": (SITE, "last", 1), "second": (SITE, "last", 1)}


@pytest.fixture(scope="module")
def model(tiny_parts):
    return planted_model(tiny_parts)


def test_whole_vectors_are_swapped_where_places_differ(model):
    later = ri.Site("resid_post", 1)
    places = {"first": (SITE, "last", 1), "second": (later, "last", 1)}
    rows = joint_pairs(count=32)
    found = ri.gather_joint_evidence(
        model,
        rows,
        places,
        epochs=1,
        seeds=1,
        resamples=0,
        random_subspaces=2,
        minimum_accuracy=0,
        progress=False,
    )
    # The later swap leaves nothing of the earlier one.
    expected = [ANSWERS[values_of(one[2])] == both(*one) for one in triples(rows)]
    np.testing.assert_array_equal(found.hits["whole vector"][0], expected)
    alone = ri.fit_das_jointly(model, rows.train, places, epochs=1, progress=False)
    assert alone.score(rows.test) == found.iia
    for name, subspace in alone.subspaces.items():
        assert found.subspaces[name].principal_angles(subspace).max() < 0.01
    assert found.sharing == () and "The whole vector gives" in found.summary()
    assert set(found.effects.probability) == {"DAS", "whole vector"}


@pytest.mark.parametrize(
    ("places", "options", "error", "match"),
    [
        ({"first": PLACES["first"]}, {}, ValueError, r"must name .*\['first', 'second'\]"),
        (PLACES | {"second": (SITE, "last")}, {}, TypeError, r"places\['second'\] must be \(site"),
        (PLACES | {"second": (SITE, "last", 32)}, {}, ValueError, "rank must be between"),
        (PLACES, {"seeds": 0}, ValueError, "seeds must be at least 1"),
        (PLACES, {"epochs": 0}, ValueError, "epochs must be"),
        (PLACES, {"minimum_accuracy": 2}, ValueError, "minimum_accuracy must be between"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_says_what_is_wrong(model, places, options, error, match):
    with pytest.raises(error, match=match):
        ri.gather_joint_evidence(model, joint_pairs(count=8), places, **options)


def test_pairs_with_one_source_are_for_gather_evidence(model):
    train, test = (
        [
            {"base": base, "source": source, "base_answer": said, "label": other}
            for base, source, said, other in rows
        ]
        for rows in ([("A", "B", "0", "1"), ("B", "A", "1", "0")], [("C", "D", "0", "1")])
    )
    pairs = ri.Counterfactuals.from_rows(train, test, "first")
    place = {"first": (SITE, "last", 1)}
    with pytest.raises(ValueError, match=r"several sources, .* gather_evidence takes pairs with"):
        ri.gather_joint_evidence(model, pairs, place)


@pytest.mark.usefixtures("no_type_checks")
def test_rows_are_no_counterfactuals(model):
    with pytest.raises(TypeError, match="pairs must be Counterfactuals"):
        ri.gather_joint_evidence(model, joint_pairs(count=8).train, PLACES)  # pyright: ignore


def test_nothing_is_fitted_where_there_is_no_untrained_copy(model, monkeypatch):
    fitted = []

    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    where = "reft_interp.causal.joint_gathering"
    monkeypatch.setattr(f"{where}.untrained_copy", no_room)
    monkeypatch.setattr(f"{where}.fit_das_jointly_each", lambda *_, **__: fitted.append(1))
    with pytest.raises(torch.OutOfMemoryError):
        ri.gather_joint_evidence(model, joint_pairs(count=8), PLACES, minimum_accuracy=0)
    assert not fitted


def test_another_seed_draws_other_pairs_again_and_each_search_begins_elsewhere(model, monkeypatch):
    asked = []

    def watched(model, pairs, cells, **_):
        asked.append([cell.resampled_pairs for cell in cells if cell.resampled_pairs is not None])
        of_true_labels = [cell.seed for cell in cells if not cell.shuffled_labels]
        assert len({*of_true_labels}) == len(of_true_labels) == 5
        raise KeyboardInterrupt

    monkeypatch.setattr("reft_interp.causal.joint_gathering.fit_das_jointly_each", watched)
    for seed in (0, 0, 1):
        with pytest.raises(KeyboardInterrupt):
            ri.gather_joint_evidence(
                model, joint_pairs(count=8), PLACES, seed=seed, minimum_accuracy=0
            )
    first, same, other = asked
    assert first == same and len({*first, *other}) == 4
