"""Edits folded into weights: the folded model, on its own, is as the hooked one."""

from functools import wraps

import pytest
import torch
from tiny_models import tiny_that_sees
from torch import nn
from torch.testing import assert_close
from trained import PROMPTS, RANK, SOURCELESS, trained
from transformers import AutoModelForCausalLM

from reft_interp.interop import fold_into_weights
from reft_interp.interventions import Interchange, LobiReFT
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site

CLOSE = {"atol": 1e-5, "rtol": 0}
SHIFTS = ["LobiReFT", "VectorAddition", "sum of shifts"]
CURVED = ["LoReFT gelu", "NoReFT offset", "DiReFT orthonormal", "sum of curves"]
UNSTATED = pytest.mark.filterwarnings("ignore:transformers' Qwen2ForCausalLM has no setting")


def logits_of(model, tokenizer):
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        return model(**inputs).logits, inputs["attention_mask"].bool()


def check(parts, intervened):
    model, tokenizer = parts
    plain, real = logits_of(model, tokenizer)
    assert fold_into_weights(intervened, model) is model
    folded, _ = logits_of(model, tokenizer)
    assert_close(folded[real], intervened.logits(PROMPTS)[real], **CLOSE)
    assert (folded - plain).abs().max() > 0.05
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@UNSTATED
@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("site", [Site("resid_post", 0), Site("resid_pre", 1), Site("mlp_out", 1)])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "qwen2"])
def test_a_shift_is_a_bias(tiny, tiny_parts, architecture, site, name):
    intervened = IntervenedModel(tiny(architecture), Placement(trained()[name], site, "every"))
    check(tiny_parts(architecture), intervened)


@UNSTATED
@pytest.mark.parametrize("name", [name for name in SOURCELESS if name not in CURVED])
@pytest.mark.parametrize("component", ["mlp_out", "attn_out"])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "qwen2"])
def test_an_affine_map_of_a_sublayer_is_another_output_layer(
    tiny, tiny_parts, architecture, component, name
):
    placement = Placement(trained()[name], Site(component, 1), "every")
    check(tiny_parts(architecture), IntervenedModel(tiny(architecture), placement))


def test_attention_takes_edits_where_the_mlp_is_a_mixture(tiny, tiny_parts):
    placement = Placement(trained()["Clamp"], Site("attn_out", 0), "every")
    with pytest.warns(UserWarning, match="no setting for a bias"):
        check(tiny_parts("mixtral"), IntervenedModel(tiny("mixtral"), placement))


def test_several_edits_of_one_layer_keep_their_order(tiny, tiny_parts):
    made = trained()
    placements = [
        Placement(made["LobiReFT"], Site("resid_pre", 1), "every"),
        Placement(made["VectorAddition"], Site("resid_post", 0), "every"),
        Placement(made["Clamp"], Site("mlp_out", 0), "every"),
        Placement(made["NoReFT"], Site("mlp_out", 0), "every"),
        Placement(made["ZeroAblation"], Site("attn_out", 1), "every"),
    ]
    check(tiny_parts("gpt2"), IntervenedModel(tiny("gpt2"), placements))


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])
def test_a_saved_model_keeps_what_was_folded(tmp_path, tiny, tiny_parts, architecture):
    made = trained()
    placements = [
        Placement(made["LobiReFT"], Site("resid_post", 0), "every"),
        Placement(made["Clamp"], Site("attn_out", 1), "every"),
    ]
    intervened = IntervenedModel(tiny(architecture), placements)
    model, tokenizer = tiny_parts(architecture)
    fold_into_weights(intervened, model).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    folded, real = logits_of(again, tokenizer)
    assert_close(folded[real], intervened.logits(PROMPTS)[real], **CLOSE)


def test_a_model_that_sees_images_too_is_folded_and_saved(tmp_path):
    name = "LlavaForConditionalGeneration"
    made = wrap_model(*tiny_that_sees(name), name="tiny")
    intervened = IntervenedModel(
        made, Placement(trained()["LobiReFT"], Site("resid_post", 0), "every")
    )
    model, tokenizer = tiny_that_sees(name)
    check((model, tokenizer), intervened)
    model.save_pretrained(tmp_path)
    folded, real = logits_of(type(model).from_pretrained(tmp_path).eval(), tokenizer)
    assert_close(folded[real], intervened.logits(PROMPTS)[real], **CLOSE)


def test_a_bias_that_the_configuration_cannot_name_is_told(tiny, tiny_parts):
    placement = Placement(trained()["LobiReFT"], Site("resid_post", 0), "every")
    with pytest.warns(UserWarning, match=r"Qwen2ForCausalLM has no setting .*0\.mlp\.down_proj"):
        check(tiny_parts("qwen2"), IntervenedModel(tiny("qwen2"), placement))


def test_generation_is_that_of_every_token(tiny, tiny_parts):
    placement = Placement(trained()["VectorAddition"], Site("resid_post", 0), "every")
    intervened = IntervenedModel(tiny("gpt2"), placement)
    model, tokenizer = tiny_parts("gpt2")
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    settings = {"max_new_tokens": 8, "do_sample": False}
    untouched = model.generate(**inputs, **settings)
    fold_into_weights(intervened, model)
    tokens = model.generate(**inputs, **settings)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    expected = intervened.generate(PROMPTS, when="every token", max_new_tokens=8)
    assert tokenizer.batch_decode(new, skip_special_tokens=True) == expected
    assert not torch.equal(tokens, untouched)


# What is refused


def refused(tiny, tiny_parts, architecture, edit, site, on, message):
    model, tokenizer = tiny_parts(architecture)
    before = logits_of(model, tokenizer)[0]
    intervened = IntervenedModel(tiny(architecture), Placement(edit, site, on))
    with pytest.raises(ValueError, match=message):
        fold_into_weights(intervened, model)
    assert torch.equal(logits_of(model, tokenizer)[0], before)


@pytest.mark.parametrize("name", ["LoReFT", "NoReFT", "RED", "DiReFT", "Clamp", "sum of maps"])
def test_an_affine_map_of_the_stream_is_refused(tiny, tiny_parts, name):
    edit = trained()[name]
    message = "what it adds depends on h"
    refused(tiny, tiny_parts, "llama", edit, Site("resid_post", 0), "every", message)


@pytest.mark.parametrize("name", CURVED)
def test_what_is_not_affine_is_refused(tiny, tiny_parts, name):
    edit = trained()[name]
    refused(tiny, tiny_parts, "gpt2", edit, Site("mlp_out", 0), "every", "not affine in h")


@pytest.mark.parametrize("on", ["last", "f3+l3", "every of=answer"])
def test_some_of_the_tokens_are_refused(tiny, tiny_parts, on):
    edit = trained()["LobiReFT"]
    refused(tiny, tiny_parts, "gpt2", edit, Site("resid_post", 0), on, "only edits on 'every'")


@pytest.mark.parametrize(
    ("architecture", "site", "message"),
    [
        ("gemma2", Site("resid_post", 0), "norms or scales what the mlp gives"),
        ("gemma2", Site("attn_out", 0), "norms or scales what the attn gives"),
        ("mixtral", Site("resid_post", 0), "mixture of experts"),
        ("bert", Site("resid_post", 0), "is an encoder"),
        ("llama", Site("resid_pre", 0), "'resid_pre' from layer 1 on"),
        ("llama", Site("resid_mid", 0), "'resid_pre' from layer 1 on"),
        ("llama", Site("z", 0), "'resid_pre' from layer 1 on"),
    ],
)
def test_places_where_no_bias_is_a_shift_are_refused(tiny, tiny_parts, architecture, site, message):
    edit = trained()["LobiReFT"]
    refused(tiny, tiny_parts, architecture, edit, site, "every", message)


def test_a_source_is_refused(tiny, tiny_parts):
    site = Site("mlp_out", 0)
    refused(tiny, tiny_parts, "gpt2", Interchange(), site, "every", "it reads a source")


@pytest.mark.usefixtures("no_type_checks")
def test_another_model_is_refused(tiny, tiny_parts):
    placement = Placement(trained()["LobiReFT"], Site("resid_post", 0), "every")
    intervened = IntervenedModel(tiny("llama"), placement)
    with pytest.raises(ValueError, match="GPT2LMHeadModel with 2 layers of width 32, but"):
        fold_into_weights(intervened, tiny_parts("gpt2")[0])
    with pytest.raises(ValueError, match=r"a plain transformers model.*got TransformerBridge"):
        fold_into_weights(intervened, tiny("llama"))
    told = "a plain transformers model of its own.*got the LlamaForCausalLM that .* placed in"
    with pytest.raises(ValueError, match=told):
        fold_into_weights(intervened, tiny("llama").original_model)


class Scaled(nn.Module):
    """An MLP whose output is scaled, as some architectures do outside of it."""

    def __init__(self, mlp):
        super().__init__()
        self.down_proj = mlp.down_proj
        self.mlp = mlp

    def forward(self, h):
        return 0.5 * self.mlp(h)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_architecture_that_scales_the_sum_is_noticed_and_undone(tiny, tiny_parts, dtype):
    model, tokenizer = tiny_parts("llama")
    model.to(dtype)
    block = model.model.layers[0]
    block.mlp = Scaled(block.mlp)
    before = logits_of(model, tokenizer)[0]
    placement = Placement(LobiReFT(RANK), Site("resid_post", 0), "every")
    intervened = IntervenedModel(tiny("llama"), placement)
    with torch.no_grad():
        for parameter in intervened.parameters():
            parameter.add_(1)
    with pytest.raises(ValueError, match="more or less than they"):
        fold_into_weights(intervened, model)
    assert torch.equal(logits_of(model, tokenizer)[0], before)


def test_a_check_that_cannot_run_leaves_the_weights_alone(tiny, tiny_parts, monkeypatch):
    model, _ = tiny_parts("llama")
    made = trained()
    placements = [
        Placement(made["LobiReFT"], Site("resid_post", 0), "every"),
        Placement(made["Clamp"], Site("attn_out", 1), "every"),
    ]
    before = {name: held.clone() for name, held in model.state_dict().items()}
    run, runs = type(model).forward, []

    @wraps(run)  # hooks ask for its arguments
    def forward(self, *given, **options):
        runs.append(1)
        if len(runs) == 3:  # untouched, with hooks, folded
            raise torch.OutOfMemoryError("no memory for the logits")
        return run(self, *given, **options)

    monkeypatch.setattr(type(model), "forward", forward)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for the logits"):
        fold_into_weights(IntervenedModel(tiny("llama"), placements), model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], held) for name, held in before.items())
