"""The log odds ratio against its definition."""

from importlib import import_module

import numpy as np
import pytest
import torch

import reft_interp as ri
from reft_interp.causal.effects import effects
from reft_interp.evaluation import divergences

ROWS = [
    {"base": "The key", "source": "The doors", "base_answer": " is", "label": " are"},
    {"base": "A cat near", "source": "Two cats near", "base_answer": " are", "label": " is"},
]


@pytest.mark.parametrize("choices", [[" is", " are"], [" is", " was", " are", " in the country"]])
def test_the_odds_are_those_of_the_definition(tiny, choices):
    model = tiny("llama")
    rows = [row | {"choices": choices} for row in ROWS]
    site, on = ri.Site("resid_post", 0), "last"
    interchanges = [
        ri.Interchange(32),
        ri.DistributedInterchange(ri.Subspace.random(32, 3, seed=1)),
    ]
    found = ri.log_odds_ratios(model, rows, [(one, site, on) for one in interchanges])
    assert found.shape == (2, 2)
    for one, values in zip(interchanges, found, strict=True):
        edited = ri.IntervenedModel(model, ri.Placement(one, site, on))
        for row, value in zip(rows, values, strict=True):
            with torch.no_grad():
                ids = torch.tensor([model.tokenizer(row["base"])["input_ids"]])
                before = model(ids)[0, -1].log_softmax(-1)
            after = edited.logits([row["base"]], [row["source"]])[0, -1].log_softmax(-1)
            b, s = (
                model.tokenizer(row[name], add_special_tokens=False)["input_ids"][0]
                for name in ("base_answer", "label")
            )
            expected = (before[b] - before[s]) + (after[s] - after[b])
            assert value == pytest.approx(float(expected), abs=1e-4)
    swapped = ri.log_odds_ratios(
        model, rows, [(interchanges[0], site, on)], answers=("label", "base_answer")
    )
    np.testing.assert_allclose(swapped[0], -found[0], atol=1e-5)


def test_rows_of_a_frame_score_as_lists_do(tiny):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    rows = [row | {"choices": [" is", " are"]} for row in ROWS]
    arrays = [row | {"choices": np.array(row["choices"])} for row in rows]
    one, other = (
        ri.log_odds_ratios(model, some, [(ri.Interchange(32), site, "last")])
        for some in (rows, arrays)
    )
    np.testing.assert_array_equal(one, other)


def test_a_row_that_lacks_a_column_is_named(tiny):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    placed = [(ri.Interchange(32), site, "last")]
    rows = [row | {"choices": [" is", " are"]} for row in ROWS]
    with pytest.raises(ValueError, match=r"pairs: row 0 lacks \['choices'\]"):
        ri.log_odds_ratios(model, ROWS, placed)
    with pytest.raises(ValueError, match="row 0 must have its base_answer among its choices"):
        ri.log_odds_ratios(model, [row | {"base_answer": " no"} for row in rows], placed)
    without = [{k: v for k, v in row.items() if k != "base_answer"} for row in rows]
    for ask in (
        lambda: ri.log_odds_ratios(model, without, placed),
        lambda: effects(model, without, {"swap": ri.Interchange(32)}, site, "last"),
    ):
        with pytest.raises(ValueError, match=r"pairs: row 0 lacks \['base_answer'\]"):
            ask()


def test_divergences_are_of_the_pairs_where_nothing_should_change(tiny, monkeypatch):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    staying = {"base": "Mary and John", "source": "Paris is", "base_answer": " is", "label": " is"}
    asked = []

    def counted(intervened, rows, *others):
        asked.append(len(rows))
        return divergences(intervened, rows, *others)

    monkeypatch.setattr(import_module(effects.__module__), "divergences", counted)
    swap = {"swap": ri.Interchange(32)}
    assert len(effects(model, ROWS, swap, site, "last").divergence["swap"]) == 0
    found = effects(model, [ROWS[0], staying, ROWS[1]], swap, site, "last")
    assert asked == [1]
    edited = ri.IntervenedModel(model, ri.Placement(swap["swap"], site, "last"))
    with torch.no_grad():
        ids = torch.tensor([model.tokenizer(staying["base"])["input_ids"]])
        p = model(ids)[0, -1].double().log_softmax(-1)
    q = edited.logits([staying["base"]], [staying["source"]])[0, -1].double().log_softmax(-1)
    assert found.divergence["swap"] == pytest.approx([float((p.exp() * (p - q)).sum())], abs=1e-5)
