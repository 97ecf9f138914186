"""The parts of a subspace that output weights read and do not, where the truth is closed form."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pretended_device import SECOND, second_device
from tiny_models import tiny_tokenizer
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

import reft_interp as ri
from reft_interp.causal.readable_split import has_split
from reft_interp.models import wrap_model

ROWS = [
    {"base": "The key", "source": "The doors", "base_answer": " is", "label": " are"},
    {"base": "A cat near", "source": "Two cats near", "base_answer": " are", "label": " is"},
    {"base": "Mary and", "source": "Paris is", "base_answer": " is", "label": " are"},
]
PAIRS = [row | {"choices": [" is", " are"]} for row in ROWS]
SITE = ri.Site("mlp_post", 1)


@pytest.fixture
def model(tiny):
    model = tiny("llama")
    assert model.W_out.shape[1] > model.W_out.shape[2]  # so that something is not read
    return model


def test_what_is_not_read_does_nothing_and_what_is_read_does_all(model):
    width = SITE.width(model)
    subspace = ri.Subspace.random(width, 1, seed=0)
    found = ri.readable_split(model, PAIRS, subspace, SITE, "last").set_index("part")
    assert list(found.index) == ["subspace", "read", "not read", "whole component"]
    assert abs(found.loc["not read", "log odds ratio"]) < 1e-4
    weights = model.W_out[SITE.layer].detach().double()
    projection = weights @ torch.linalg.pinv(weights)
    share = float((subspace.basis.double() @ projection).square().sum())
    assert found.loc["read", "share"] == pytest.approx(share, abs=1e-5)
    assert found.loc["not read", "share"] == pytest.approx(1 - share, abs=1e-5)
    # The whole component's effect is that of a plain swap.
    expected = ri.log_odds_ratios(model, PAIRS, [(ri.Interchange(width), SITE, "last")])
    assert found.loc["whole component", "log odds ratio"] == pytest.approx(
        expected.mean(), abs=1e-6
    )
    assert found.loc["whole component", "variance"] == pytest.approx(1)
    assert found.loc["whole component", "rank"] == width


def test_a_subspace_that_is_read_has_no_other_part(model):
    weights = model.W_out[SITE.layer].detach()
    subspace = ri.Subspace.from_matrix(weights.T[:2])
    found = ri.readable_split(model, PAIRS, subspace, SITE, "last").set_index("part")
    assert found.loc["read", "share"] == pytest.approx(1, abs=1e-5)
    assert found.loc["read", "log odds ratio"] == pytest.approx(
        found.loc["subspace", "log odds ratio"], abs=1e-4
    )
    assert str(found.loc["not read", "iia"]) == "nan"


def test_a_head_is_read_whole(model):
    site = ri.Site("z", 0, heads=1)
    subspace = ri.Subspace.random(site.width(model), 2, seed=1)
    found = ri.readable_split(model, PAIRS, subspace, site, "last").set_index("part")
    assert found.loc["read", "share"] == pytest.approx(1, abs=1e-5)


def test_says_what_is_wrong(model):
    with pytest.raises(ValueError, match="site must be all neurons of an MLP"):
        ri.readable_split(
            model, PAIRS, ri.Subspace.random(32, 1, seed=0), ri.Site("resid_post", 0), "last"
        )
    with pytest.raises(ValueError, match="subspace is 8 wide"):
        ri.readable_split(model, PAIRS, ri.Subspace.random(8, 1, seed=0), SITE, "last")


def test_of_an_encoder_what_varies_is_what_stands_beside_masks(tiny):
    model, subspace = tiny("bert"), ri.Subspace.random(64, 1, seed=0)
    held = []
    for row in ROWS:
        ids = model.tokenizer(row["base"])["input_ids"]
        masks = model.tokenizer(row["label"], add_special_tokens=False)["input_ids"]
        read = torch.tensor([ids + [model.tokenizer.mask_token_id] * len(masks)])
        with torch.no_grad():
            _, cache = model.run_with_cache(read)
        held.append(cache[SITE.hook_name][0, len(ids) - 1].double())
    centred = torch.stack(held) - torch.stack(held).mean(0)
    share = float((centred @ subspace.basis.double().T).square().sum() / centred.square().sum())
    found = ri.readable_split(model, PAIRS, subspace, SITE, "last").set_index("part")
    assert found.loc["subspace", "variance"] == pytest.approx(share, rel=1e-3)


def test_one_pair_has_no_variance(model):
    subspace = ri.Subspace.random(SITE.width(model), 1, seed=0)
    found = ri.readable_split(model, PAIRS[:1], subspace, SITE, "last")
    assert bool(found["variance"].isna().all()) and set(found["n"]) == {1}


def test_a_subspace_on_another_device_is_split_as_on_the_cpu(model):
    # Everything that the subspace is compared with is on the CPU when all has been run.
    subspace = ri.Subspace.random(SITE.width(model), 2, seed=0)
    expected = ri.readable_split(model, PAIRS, subspace, SITE, "last")
    with second_device():
        elsewhere = subspace.to(SECOND)
        assert elsewhere.basis.device == SECOND
        found = ri.readable_split(model, PAIRS, elsewhere, SITE, "last")
    pd.testing.assert_frame_equal(found, expected)


def test_choices_of_a_frame_are_arrays():
    rows = [row | {"choices": np.array(row["choices"])} for row in PAIRS]
    assert has_split(SITE, rows)
    assert not has_split(SITE, [row | {"choices": np.array([" was", " are"])} for row in ROWS])


def test_weights_are_those_of_the_layer_beside_mixtures_of_experts():
    tokenizer = tiny_tokenizer("qwen2")
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
    }
    special: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    config = Qwen2MoeConfig(**shape, **special, mlp_only_layers=[1, 2], vocab_size=len(tokenizer))
    config.architectures = ["Qwen2MoeForCausalLM"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loaded = Qwen2MoeForCausalLM(config).eval()
    reading = [loaded.get_parameter(f"model.layers.{i}.mlp.down_proj.weight") for i in (1, 2)]
    rows = [weight.detach()[:2].clone() for weight in reading]
    model = wrap_model(loaded, tokenizer, name="tiny-qwen2-moe")
    for layer, read in zip((1, 2), rows, strict=True):
        site = ri.Site("mlp_post", layer)
        found = ri.readable_split(model, PAIRS, ri.Subspace.from_matrix(read), site, "last")
        # Two of the rows that the layer's own neurons are read by: nothing else is in it.
        assert found.set_index("part").loc["read", "share"] == pytest.approx(1, abs=1e-5)
