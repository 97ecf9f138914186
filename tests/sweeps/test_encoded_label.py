"""What a subspace encodes, where it is known which one holds the label."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from made_comparisons import CHOICES, PLACES, comparison, placed, suite

from reft_interp.interventions import LoReFT
from reft_interp.positions import parse_positions
from reft_interp.runtime import activations
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.sweeps import compare_subspaces
from reft_interp.sweeps.encoded_label import hold_rows

pytestmark = pytest.mark.usefixtures("long_training")
LAST = PLACES[1][0]


@pytest.fixture(scope="module")
def planted(tiny, tmp_path_factory):
    """Two ReFTs at the last layer: one writes the direction by which the model itself answers,
    the other two directions that have nothing to do with it. And what was found of them."""
    model = tiny("llama")
    known = suite(model)
    rows: Any = list(known.tests["own"])
    h = torch.cat(activations(model, rows, LAST, "last")).detach()
    one, other = (model.tokenizer(choice, add_special_tokens=False)["input_ids"]
                  for choice in CHOICES)  # fmt: skip
    assert len(one) == len(other) == 1
    # Llama's norm divides by a number and multiplies by its weight: which answer is likelier is
    # the side of a plane through 0 that h is on.
    answers = (model.W_U[:, one[0]] - model.W_U[:, other[0]]).detach() * model.ln_final.weight
    assert [CHOICES[0] if side > 0 else CHOICES[1] for side in h @ answers] == [
        row["answer"] for row in rows
    ]
    spare = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    holding = Subspace.from_matrix(torch.stack([answers, spare[0]]).detach())
    # Uncorrelated with the answer over these rows, not only orthogonal to it.
    along = torch.cov(h.T) @ answers
    apart = spare[1:] - (spare[1:] @ along)[:, None] * along / along.square().sum()
    refts = {
        "holding": {s: placed(model, LoReFT, (holding, holding)) for s in (0, 1)},
        "lacking": {0: placed(model, LoReFT, [Subspace.from_matrix(apart.detach())] * 2)},
    }
    made = comparison(model, tmp_path_factory.mktemp("planted"), refts)
    return model, known, h, holding, made, made.probe(model, known)


def test_the_label_is_read_in_the_subspace_that_holds_it_and_in_no_other(planted):
    *_, found = planted
    at_last = found.encoded[found.encoded["site"] == str(LAST)].set_index(["subspace", "seed"])
    holding, lacking = at_last.loc[("holding", 0)], at_last.loc[("lacking", 0)]
    assert holding["accuracy"] > max(0.9, holding["random high"]) and holding["random"] < 0.8
    assert holding["low"] < holding["accuracy"] < holding["high"]
    assert lacking["accuracy"] <= max(lacking["random high"], lacking["majority"])
    assert holding["shuffled labels"] < 0.8
    assert holding["whole vector"] == lacking["whole vector"] > 0.75
    assert holding["n"] == 50 and holding["majority"] < 0.75
    # DAS takes its place in the table, and its subspace holds the label too.
    assert at_last.loc[("DAS", 0), "accuracy"] > at_last.loc[("lacking", 0), "accuracy"]


def test_what_varies_is_counted_inside(planted):
    _, _, h, holding, _, found = planted
    row = found.encoded[found.encoded["site"] == str(LAST)].iloc[0]
    expected = holding.coordinates(h).var(0).sum() / h.var(0).sum()
    assert row["variance"] == pytest.approx(float(expected), abs=1e-5)
    assert row["variance at random"] < row["variance random high"] < 0.3


def test_tokens_stand_beside_those_of_a_random_subspace(planted):
    *_, found = planted
    assert set(found.promoted["subspace"]) == {"holding", "lacking", "DAS", "random subspace"}
    some = found.promoted[(found.promoted["subspace"] == "holding") & (found.promoted["seed"] == 0)]
    assert len(some) == len(PLACES) * 2 * 2  # places, directions, signs
    assert all(len(tokens.split("  ")) == 8 for tokens in some["promotes"])


def test_all_is_on_one_figure_and_one_page(planted, tmp_path):
    *_, found = planted
    assert found.asked() == ["encoded", "interchanges", "overlaps"]
    titles = [ax.get_title(loc="left") for ax in found.figure().axes]
    assert "Is the label read" in titles[0] and len(titles) == 3
    ax = found.plot("encoded")
    names = [tick.get_text().replace("\n", " ") for tick in ax.get_yticklabels()]
    assert {"holding", "lacking", "DAS", "random subspace, rank 2", "shuffled labels", "majority",
            "whole vector"} == set(names)  # fmt: skip
    page = found.save(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "Is the label read inside?" in text and "Another method" not in text
    held = {file.name for file in (tmp_path / "tables").iterdir()}
    assert held == {f"subspace-{one}.csv" for one in (*found.asked(), "promoted")}
    assert "What the untouched model holds" in str(found) and "whole vector" in str(found)
    with pytest.raises(ValueError, match="'effects' has no answer here"):
        found.plot("effects")
    with pytest.raises(ValueError, match="question must be one of encoded, interchanges"):
        found.plot("effect")


def test_without_a_label_the_rest_is_asked(planted, tmp_path):
    model, known, _, _, made, before = planted
    free = replace(known, tests={"own": known.tests["own"].map(lambda row: {"choices": None})})
    found: Any = compare_subspaces(made, model, free)
    assert any(note.startswith("The label was not read: own answers has no two answers")
               for note in found.notes)  # fmt: skip
    assert found.encoded["accuracy"].isna().all() and found.encoded["n"].isna().all()
    ours = before.encoded[before.encoded["subspace"] != "DAS"]
    assert np.allclose(found.encoded["variance"], ours["variance"])
    assert "encoded" not in found.asked() and "variance" in str(found)
    assert (tmp_path / "p" / "tables" / "subspace-encoded.csv").parent == (
        found.save(tmp_path / "p").parent / "tables"
    )


def test_rows_are_read_at_the_last_of_the_edited_tokens(tiny, tmp_path):
    model = tiny("llama")
    known = suite(model)
    a = Subspace.random(32, 2, seed=0)
    first = placed(model, LoReFT, (a,), [(Site("resid_post", 1), "f1")])
    all_of_them = placed(model, LoReFT, (a,), [(Site("resid_post", 1), "f2+l2")])
    made = comparison(model, tmp_path, {"first": {0: first}, "ends": {1: all_of_them}})
    found: Any = compare_subspaces(made, model, known, pairs=1).encoded.set_index("subspace")
    # All prompts begin alike, and a decoder's first token has seen nothing else.
    assert np.isnan(found.loc["first", "variance"])
    assert found.loc["first", "accuracy"] <= found.loc["first", "majority"]
    rows: Any = list(known.tests["own"])
    h = torch.cat(activations(model, rows, Site("resid_post", 1), "last"))
    expected = a.coordinates(h).var(0).sum() / h.var(0).sum()
    assert found.loc["ends", "variance"] == pytest.approx(float(expected), abs=1e-5)


def test_rows_in_which_nothing_is_selected_are_told_of(tiny):
    prompts = [
        {"prompt": one, "answer": "a", "gold": "a", "choices": ["a", "b"]}
        for one in ("The key", "x")
    ]
    some = replace(suite(tiny("llama")), tests={"own": Dataset.from_list(prompts)})
    # Of a prompt of one token, the half at the start is empty.
    place = LAST, parse_positions("f1 rounding=paired")
    with pytest.raises(ValueError, match=r"'first rounding=paired' selects nothing .*: 'x'"):
        hold_rows(tiny("gpt2"), some, [place], seed=0)
