"""Counterfactual pairs as rows that a model runs, and how often an interchange gives the label."""

from typing import Any

import pytest
import torch
from datasets import Dataset

from reft_interp.causal import PreparedPairs, fit_das, interchange_accuracy, interchange_rows
from reft_interp.interventions import DistributedInterchange, Interchange, ZeroAblation
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

BASES = ["The key near", "Paris is a", "Mary and John", "The book was"]
SOURCES = ["The films are", "No, the", "seven is less", "A"]
CHOICES = ["0", "1", "2", "3", "4", "5", "6", "7"]
TOP = Site("resid_post", 1)


def pairs(labels, **columns) -> Dataset:
    given = {"base": BASES, "source": SOURCES, "label": labels} | columns
    return Dataset.from_dict(given)


def said_alone(model, prompt: str) -> str:
    """The choice that the untouched model gives the highest logit after one prompt."""
    with torch.no_grad():
        logits = model(torch.tensor([model.tokenizer(prompt)["input_ids"]]))[0, -1]
    ids = [model.tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in CHOICES]
    return CHOICES[int(torch.stack([logits[token] for (token,) in ids]).argmax())]


def test_bases_are_asked_for_the_label_and_sources_for_nothing():
    spans = [{"who": [0, 3]}] * 4
    bases, sources = interchange_rows(
        pairs(list("0123"), base_spans=spans, source_spans=spans, choices=[CHOICES] * 4)
    )
    assert bases[1] == {
        "prompt": "Paris is a",
        "spans": {"who": [0, 3]},
        "answer": "1",
        "choices": CHOICES,
    }
    assert isinstance(sources, list)
    assert sources[1] == {"prompt": "No, the", "spans": {"who": [0, 3]}}


def test_spans_and_choices_may_be_missing():
    bases, sources = interchange_rows(pairs(list("0123")))
    assert bases[0] == {"prompt": "The key near", "spans": None, "answer": "0"}
    assert isinstance(sources, list)
    assert sources[0] == {"prompt": "The films are", "spans": None}


def test_says_which_columns_are_missing(no_type_checks):
    with pytest.raises(
        ValueError, match=r"pairs: row 0 lacks \['label', 'source'\]; it has \['base"
    ):
        interchange_rows(Dataset.from_dict({"base": BASES}))
    with pytest.raises(ValueError, match="pairs must hold at least one row, got none"):
        interchange_rows([])
    with pytest.raises(ValueError, match=r"row 0 must have its label among its choices.* got '7'"):
        interchange_rows([{**pairs(list("7123")).to_list()[0], "choices": ["x", "y"]}])
    rows: Any = pairs(list("0123"))
    generator: Any = (row for row in rows)
    with pytest.raises(TypeError, match=r'got a DataFrame: give its .to_dict\("records"\)'):
        interchange_rows(rows.to_pandas())
    with pytest.raises(TypeError, match="pairs must be a list of rows, got a generator: give list"):
        interchange_rows(generator)


def test_choices_may_be_arrays():
    rows = pairs(list("0123"), choices=[CHOICES] * 4)
    frame: Any = rows.to_pandas()
    arrays = frame.to_dict("records")
    assert interchange_rows(arrays)[0] == interchange_rows(rows)[0]


def test_a_list_of_rows_is_as_good_as_a_dataset():
    rows = pairs(list("0123"))
    assert interchange_rows(rows.to_list()) == interchange_rows(rows)


def test_the_whole_vector_at_the_top_gives_the_sources_answer(causal_model):
    of_source = [said_alone(causal_model, source) for source in SOURCES]
    of_base = [said_alone(causal_model, base) for base in BASES]
    asked = {"choices": [CHOICES] * 4}

    def score(labels, intervention):
        data = pairs(labels, **asked)
        return interchange_accuracy(causal_model, data, intervention, TOP, "last", batch_size=3)

    assert score(of_source, Interchange()).hits == 4
    assert score(of_base, None).hits == 4
    same = sum(a == b for a, b in zip(of_source, of_base, strict=True))
    assert same < 4
    assert score(of_base, Interchange()).hits == score(of_source, None).hits == same


def test_pairs_are_prepared_for_any_interchange_there(tiny):
    model = tiny("llama")
    of_source = [said_alone(model, source) for source in SOURCES]
    data = pairs(of_source, choices=[CHOICES] * 4)
    prepared = PreparedPairs(model, data, TOP, "last")
    everything = DistributedInterchange(Subspace(torch.eye(32)))
    assert prepared.score(Interchange()).hits == prepared.score(everything).hits == 4
    assert prepared.score(None) == interchange_accuracy(model, data, None, TOP, "last")
    assert prepared.score(None).hits < 4
    with pytest.raises(ValueError, match="takes no source"):
        prepared.score(ZeroAblation(Subspace.random(32, 1, seed=0)))


def test_base_and_source_are_aligned_token_by_token(tiny):
    spans = {"base_spans": [{"who": [0, 3]}] * 4, "source_spans": [{"who": [0, 1]}] * 4}
    spans["base_spans"][2] = {"who": [0, 13]}
    data = pairs(list("0123"), choices=[CHOICES] * 4, **spans)
    with pytest.raises(ValueError, match="are edited and 1 of the source"):
        interchange_accuracy(tiny("llama"), data, Interchange(), TOP, "span:who all")
    assert interchange_accuracy(tiny("llama"), data, Interchange(), TOP, "who").n == 4


def test_tokens_counted_from_the_start_need_prompts_of_one_length(tiny):
    model = tiny("llama")
    given = {"base": ["The key"], "source": ["The doors near the"], "label": [" are"]}
    rows = Dataset.from_dict(given)
    for run in (
        lambda: fit_das(model, rows, TOP, 2, progress=False),
        lambda: interchange_accuracy(model, rows, Interchange(), TOP, 2),
    ):
        with pytest.raises(ValueError, match=r"on: 'indices:2' counts tokens from the start"):
            run()


def test_choices_in_one_text_are_no_list_of_them():
    rows = [{"base": "a", "source": "b", "label": "0", "choices": "0,1"}]
    with pytest.raises(TypeError, match="pairs: row 0 must have a list of texts as its choices"):
        interchange_rows(rows)
