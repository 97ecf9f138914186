"""DAS for several variables at once, on a model in which both were put by hand."""

import json
import random
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from torch.testing import assert_close
from two_variables import ANSWERS, FIRST, LETTERS, SECOND, SITE, planted_model, values_of

from reft_interp.causal import fit_das_jointly, interchange_rows
from reft_interp.causal.shared_tokens import check_apart
from reft_interp.interventions import DistributedInterchange, Interchange
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site

pytestmark = pytest.mark.usefixtures("long_training")


@pytest.fixture(scope="module")
def model(tiny_parts):
    return planted_model(tiny_parts)


def pairs(letters: str, count: int, seed: int) -> Dataset:
    """The first variable is taken from one source, the second from another."""
    chosen = random.Random(seed)
    rows = []
    for _ in range(count):
        base, first, second = (chosen.choice(letters) for _ in range(3))
        label = ANSWERS[values_of(first)[0], values_of(second)[1]]
        rows.append(
            {
                "base": base,
                "sources": {"first": {"prompt": first}, "second": {"prompt": second}},
                "label": label,
                "choices": list(ANSWERS.values()),
            }
        )
    return Dataset.from_list(rows)


def test_both_planted_directions_are_found_at_once(model):
    found = fit_das_jointly(
        model,
        pairs(LETTERS[:16], 256, seed=0),
        {"first": (SITE, "last", 1), "second": (SITE, "last", 1)},
        epochs=10,
        learning_rate=2e-2,
        progress=False,
    )
    for name, direction in (("first", FIRST), ("second", SECOND)):
        cosine = (found.subspaces[name].basis[0] @ direction).abs()
        assert cosine > 0.99, (name, float(cosine))
    first, second = (space.basis for space in found.subspaces.values())
    assert abs(first @ second.T) < 1e-5
    held_out = pairs(LETTERS[16:], 100, seed=1)
    assert found.score(held_out).value > 0.99
    wrong = held_out.map(lambda row: {"label": "0"})
    assert found.score(wrong).value < 0.5
    # One variable alone is an interchange like any other.
    alone = found.of("first")
    assert alone.site == SITE and str(alone.on) == "last"
    rows = [
        {"base": b, "source": s, "label": ANSWERS[values_of(s)[0], values_of(b)[1]]}
        | {"choices": list(ANSWERS.values())}
        for b, s in zip("QRST", "TSQR", strict=True)
    ]
    assert alone.evaluate(rows, random_subspaces=1)["DAS"][0].value == 1
    assert found.losses["loss"].iloc[-1] < found.losses["loss"].iloc[0]


def test_variables_may_live_at_different_places(model):
    found = fit_das_jointly(
        model,
        pairs(LETTERS, 32, seed=0),
        {"first": (SITE, "last", 1), "second": (Site("resid_post", 1), "last", 2)},
        epochs=1,
        progress=False,
    )
    assert [p.site.layer for p in found.intervened.placements] == [0, 1]
    assert [space.rank for space in found.subspaces.values()] == [1, 2]
    assert all(
        isinstance(p.intervention, DistributedInterchange) for p in found.intervened.placements
    )


def test_what_was_found_is_saved(model, tmp_path):
    found = fit_das_jointly(
        model,
        pairs(LETTERS, 16, seed=0),
        {"first": (SITE, "last", 1), "second": (SITE, "last", 2)},
        epochs=1,
        seed=np.int64(1),  # pyright: ignore[reportArgumentType]
        progress=False,
    )
    found.save(tmp_path)
    assert type(found.settings["seed"]) is int
    bases, sources = interchange_rows(pairs(LETTERS, 4, seed=3))
    loaded = IntervenedModel.load(tmp_path, model)
    assert_close(loaded.logits(bases, sources), found.intervened.logits(bases, sources))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({}, "places must hold at least one variable"),
        ({"first": (SITE, "last", 1)}, r"places must name .* \(\['first', 'second'\]\)"),
        ({"first": (SITE, "last", 20), "second": (SITE, "last", 20)}, "rank"),
        (
            {"first": (Site("resid_post", 9), "last", 1), "second": (SITE, "last", 1)},
            "layer must be between",
        ),
    ],
)
def test_says_what_is_wrong(model, places, message):
    with pytest.raises(ValueError, match=message):
        fit_das_jointly(model, pairs(LETTERS, 8, seed=0), places, progress=False)


def test_pairs_need_a_source_for_each_variable(model):
    rows = [{"base": "A", "source": "B", "label": "0"}]
    with pytest.raises(ValueError, match=r"that have a source in pairs \(\[\]\), got \['first'\]"):
        fit_das_jointly(model, rows, {"first": (SITE, "last", 1)}, progress=False)
    ragged = [*pairs(LETTERS, 2, seed=0).to_list(), {"base": "A", "label": "0", "sources": {}}]
    with pytest.raises(ValueError, match=r"row 2 has the sources \[\], row 0 \['first'"):
        interchange_rows(ragged)


def test_only_found_variables_can_be_asked_for(model):
    found = fit_das_jointly(
        model,
        pairs(LETTERS, 8, seed=0),
        {"first": (SITE, "last", 1), "second": (SITE, "last", 1)},
        epochs=1,
        progress=False,
    )
    with pytest.raises(ValueError, match="variable must be one of first, second, got 'third'"):
        found.of("third")


def test_the_same_tokens_by_another_selection_are_refused(model):
    rows = pairs(LETTERS, 8, seed=0)
    places = {"first": (SITE, "last", 2), "second": (SITE, [-1], 2)}
    with pytest.raises(ValueError, match=r"'first' .* and 'second' .* in 8 of 8 bases.*give both"):
        fit_das_jointly(model, rows, places, epochs=1, progress=False)
    elsewhere = {**places, "second": (Site("resid_post", 1), [-1], 2)}
    fit_das_jointly(model, rows, elsewhere, epochs=1, progress=False)


def test_tokens_that_meet_in_some_rows_are_warned_of(model):
    placed = IntervenedModel(
        model,
        [
            Placement(Interchange(), SITE, on, source=name)
            for name, on in (("first", "f2"), ("second", "last"))
        ],
    )
    with pytest.warns(UserWarning, match="have a token in common in 1 of 3 bases"):
        check_apart(placed, ["A", "AB", "ABC"])  # each begins with <s>


def test_a_rank_may_be_numpys(model):
    places: Any = {"first": (SITE, "last", np.int64(1)), "second": (SITE, "last", np.int64(2))}
    found = fit_das_jointly(model, pairs(LETTERS, 16, seed=0), places, epochs=1, progress=False)
    assert json.loads(json.dumps(found.settings))["ranks"] == {"first": 1, "second": 2}
