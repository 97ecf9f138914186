"""DAS on a model in which the variable was put by hand, so that the answer is known."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from begun_steps import BegunSteps
from datasets import Dataset
from two_variables import ANSWERS, FIRST, LETTERS, SECOND, SITE, planted_model, values_of

from reft_interp.causal import (
    DASCell,
    DASResult,
    PreparedPairs,
    fit_das,
    fit_das_each,
    interchange_accuracy,
)
from reft_interp.interventions import DistributedInterchange, Interchange
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.saving import read_notes
from reft_interp.sites import Site
from reft_interp.subspace import Subspace


@pytest.fixture(scope="module")
def model(tiny_parts):
    return planted_model(tiny_parts)


def pairs(letters: str, count: int, seed: int) -> Dataset:
    """Pairs whose first variable differs; it is taken from the source, the second from the base."""
    chosen = random.Random(seed)
    rows = []
    while len(rows) < count:
        base, source = chosen.choices(letters, k=2)
        (a, b), (other_a, other_b) = values_of(base), values_of(source)
        if a == other_a:
            continue
        rows.append(
            {
                "base": base,
                "source": source,
                "base_answer": ANSWERS[a, b],
                "source_answer": ANSWERS[other_a, other_b],
                "label": ANSWERS[other_a, b],
                "choices": list(ANSWERS.values()),
                "base_spans": {"who": [0, 1]},
                "source_spans": {"who": [0, 1]},
            }
        )
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def train_pairs() -> Dataset:
    return pairs(LETTERS[:16], 160, seed=0)


@pytest.fixture(scope="module")
def held_out() -> Dataset:
    return pairs(LETTERS[16:], 60, seed=1)  # letters whose noise was never trained on


@pytest.fixture(scope="module")
def found(model, train_pairs):
    return fit_das(
        model, train_pairs, SITE, "who", rank=1, epochs=10, learning_rate=0.05, progress=False
    )


def test_the_planted_direction_is_there(model, held_out):
    planted = DistributedInterchange(Subspace(FIRST[None]))
    other = DistributedInterchange(Subspace(SECOND[None]))
    scores = [
        interchange_accuracy(model, held_out, edit, SITE, "who").value
        for edit in (planted, other, None)
    ]
    assert scores == [1, 0, 0]


def test_finds_the_planted_direction(found):
    (angle,) = found.subspace.principal_angles(Subspace(FIRST[None]))
    (before,) = Subspace.random(32, 1, seed=0).principal_angles(Subspace(FIRST[None]))
    assert angle < 10 < 45 < before  # where it ends, and where it started
    (to_second,) = found.subspace.principal_angles(Subspace(SECOND[None]))
    assert to_second > 80
    assert found.losses["loss"].iloc[-1] < found.losses["loss"].iloc[0] / 2


def test_its_interchange_gives_the_label_and_its_controls_do_not(found, held_out):
    score = found.evaluate(held_out, random_subspaces=5, seed=100)
    assert score["DAS"][0].value >= 0.95
    # All of the source: right only where the second variable is the same.
    same = np.mean([row["label"] == row["source_answer"] for row in held_out.to_list()])
    assert score["whole vector"][0].value == pytest.approx(same)
    assert 0.3 < same < 0.7
    assert score["no intervention"][0].value == 0
    assert len(score["random subspace"]) == 5
    assert max(draw.value for draw in score["random subspace"]) < 0.3
    assert {accuracy.n for _, draws in score.rows for accuracy in draws} == {60}
    assert score.metric == "interchange intervention accuracy at blocks.0.hook_resid_post on who"


def test_what_was_prepared_once_scores_as_pair_by_pair(found, model, held_out):
    prepared = PreparedPairs(model, held_out, SITE, "who", batch_size=16)
    in_full = PreparedPairs(model, held_out, SITE, "who", engine="full")
    for edit in (
        DistributedInterchange(found.subspace),
        DistributedInterchange(Subspace.random(32, 8, seed=1)),
        Interchange(),
        None,
    ):
        alone = interchange_accuracy(model, held_out, edit, SITE, "who", batch_size=7)
        assert prepared.score(edit) == in_full.score(edit) == alone


def test_the_same_seed_gives_the_same_subspace(model, train_pairs):
    few = train_pairs.select(range(32))
    one, same, other = (
        fit_das(model, few, SITE, "last", epochs=1, seed=seed, progress=False).subspace.basis
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_starts_where_it_is_told(model, train_pairs):
    few = train_pairs.select(range(32))
    start = Subspace(FIRST[None])
    found = fit_das(
        model, few, SITE, "last", start=start, epochs=1, learning_rate=1e-30, progress=False
    )
    assert found.subspace.principal_angles(start)[0] < 1e-3
    assert found.settings["rank"] == 1


def test_knows_where_it_is(found):
    assert found.site == SITE
    assert str(found.on) == "who"
    assert "losses" not in repr(found)


def test_saves_what_it_found_and_how(found, model, held_out, tmp_path):
    found.save(tmp_path)
    loaded = IntervenedModel.load(tmp_path, model)
    assert torch.equal(loaded.placements[0].intervention.subspace.basis, found.subspace.basis)
    rows = held_out.to_list()[:4]
    bases = [{"prompt": row["base"], "spans": row["base_spans"]} for row in rows]
    sources = [{"prompt": row["source"], "spans": row["source_spans"]} for row in rows]
    assert torch.equal(loaded.logits(bases, sources), found.intervened.logits(bases, sources))
    assert read_notes(tmp_path)["training"] == found.settings
    assert found.settings == {
        "rank": 1,
        "start": "random",
        "epochs": 10,
        "learning_rate": 0.05,
        "batch_size": 16,
        "seed": 0,
        "pairs": 160,
        "engine": "auto",
        "over": "vocabulary",
    }


def test_mistakes_are_found_before_the_first_step(found, model, train_pairs, held_out):
    with pytest.raises(ValueError, match="rank must be between 1 and 32"):
        fit_das(model, train_pairs, SITE, "last", rank=33)
    with pytest.raises(ValueError, match="layer must be between 0 and 1"):
        fit_das(model, train_pairs, Site("resid_post", 2), "last")
    with pytest.raises(ValueError, match="no span 'subject'"):
        fit_das(model, train_pairs, SITE, "subject")
    with pytest.raises(ValueError, match="random_subspaces must be at least 1, got 0"):
        found.evaluate(held_out, random_subspaces=0)


def test_callbacks_are_told_and_no_setting_and_what_cannot_be_saved_is_refused_first(
    model, train_pairs, tmp_path
):
    begun = BegunSteps()
    options = {"epochs": 1, "progress": False, "callbacks": [begun]}
    few = train_pairs.select(range(32))
    found = fit_das(model, few, SITE, "last", checkpoints=tmp_path / "steps", **options)
    assert begun.steps == [0, 1]
    found.save(tmp_path / "saved")
    assert DASResult.load(tmp_path / "saved", model).settings == found.settings
    assert not {"callbacks", "checkpoints"} & set(found.settings)
    with pytest.raises(TypeError, match="debug must be a number, a text"):
        fit_das(model, few, SITE, "last", **options, debug=[object()])
    assert begun.steps == [0, 1]


def test_numbers_of_numpy_search_and_are_saved_as_pythons(
    model, train_pairs, tmp_path, no_type_checks
):
    numbers: dict[str, Any] = {"seed": 1, "batch_size": 64, "epochs": 1, "rank": 2}
    given: dict[str, Any] = {name: np.int64(number) for name, number in numbers.items()}
    some = train_pairs.select(range(64))
    here: dict[str, Any] = {"site": SITE, "on": "last", "progress": False}
    found = fit_das(model, some, **here, **given, checkpoints=tmp_path / "there")
    same = fit_das(model, some, **here, **numbers)
    assert torch.equal(found.subspace.basis, same.subspace.basis)
    assert found.settings == same.settings
    (each,) = fit_das_each(model, some, [DASCell(SITE, "last", **given)], progress=False)
    for one, folder in ((found, tmp_path / "one"), (each, tmp_path / "each")):
        one.save(folder)
        settings = DASResult.load(folder, model).settings
        assert settings == one.settings and settings | numbers == settings
