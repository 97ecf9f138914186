"""A result may be given where a model with interventions is meant: the outcome is the same."""

import pandas as pd
import pytest
import torch

from reft_interp.causal import DASResult
from reft_interp.interop import (
    export_to_transformers,
    fold_into_weights,
    save_control_vector,
    save_pyreft,
)
from reft_interp.interventions import LobiReFT
from reft_interp.runtime import IntervenedModel, Placement, compose, interpolated, scaled
from reft_interp.runtime.trained import intervened_of
from reft_interp.sites import Site
from reft_interp.training import Classifier, ReFTResult

PROMPTS = ["The key near the doors", "Paris"]


@pytest.fixture
def intervened(tiny):
    placed = Placement(LobiReFT(2), Site("resid_post", 1), "every")
    made = IntervenedModel(tiny("llama"), placed)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    return made


@pytest.fixture(params=[ReFTResult, DASResult])
def result(request, intervened):
    return request.param(intervened, pd.DataFrame(), {"epochs": 1})


@pytest.mark.parametrize("write", [export_to_transformers, save_pyreft, save_control_vector])
def test_a_result_is_written_as_what_it_holds(tmp_path, intervened, result, write):
    found = []
    for i, given in enumerate((intervened, result)):
        folder = tmp_path / str(i)
        write(given, folder / "vector.gguf" if write is save_control_vector else folder)
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] and found[0] == found[1]


def test_a_result_is_folded_as_what_it_holds(tiny_parts, intervened, result):
    tokens = torch.tensor([[1, 5, 7, 9, 3]])
    both = [
        fold_into_weights(given, tiny_parts("llama")[0])(tokens).logits
        for given in (intervened, result)
    ]
    assert torch.equal(*both)


def test_results_are_put_together_as_what_they_hold(intervened, result):
    rows = [{"prompt": prompt, "edits": "a"} for prompt in PROMPTS]
    assert torch.equal(compose({"a": result}).logits(rows), intervened.logits(PROMPTS))
    assert torch.equal(scaled(result, -1).logits(PROMPTS), scaled(intervened, -1).logits(PROMPTS))
    between, expected = (
        interpolated(one, scaled(intervened, 2), 0.5).logits(PROMPTS)
        for one in (result, intervened)
    )
    assert torch.equal(between, expected)


def test_what_holds_no_such_model_is_told_what_to_give(intervened):
    asked = intervened_of.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    for given in (Classifier(intervened, 2), intervened.model, "folder"):
        told = (
            rf"named\['a'\] must be an IntervenedModel, .* \.intervened, got {type(given).__name__}"
        )
        with pytest.raises(TypeError, match=told):
            asked(given, "named['a']")
