"""The untrained copy: same shape, other weights, no training left."""

import pytest
import torch
from transformers import LlamaForCausalLM

from reft_interp.models import identify, untrained_copy, wrap_model


def test_no_weight_of_the_trained_model_is_kept(tiny_model):
    before = {name: p.clone() for name, p in tiny_model.named_parameters()}
    fresh = untrained_copy(tiny_model)
    own = dict(fresh.named_parameters())
    assert own.keys() == before.keys()
    for name, trained in before.items():
        if trained.std() > 0:  # norms and biases begin as constants
            assert not torch.equal(own[name], trained), name
    assert all(torch.equal(p, before[name]) for name, p in tiny_model.named_parameters())
    assert not any(p.requires_grad for p in fresh.parameters())


def test_it_runs_and_repeats_with_its_seed(tiny):
    model = tiny("llama")
    ids = torch.tensor([model.tokenizer("The key near the doors")["input_ids"]])
    state = torch.get_rng_state()
    one, two, three = (untrained_copy(model, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(ids), two(ids))
    assert not torch.allclose(one(ids), three(ids))
    assert not torch.allclose(one(ids), model(ids))
    assert identify(one).name == "untrained tiny-llama"
    assert identify(one).n_layers == identify(model).n_layers
    assert one.original_model.config is not model.original_model.config


def test_weights_are_made_in_the_dtype_of_the_model(tiny_parts, monkeypatch):
    parts, tokenizer = tiny_parts("llama")
    model = wrap_model(parts.to(torch.bfloat16), tokenizer, name="tiny-llama")
    made = []
    begin = LlamaForCausalLM.__init__

    def watched(self, *args):
        begin(self, *args)
        made.append({p.dtype for p in self.parameters()})

    monkeypatch.setattr(LlamaForCausalLM, "__init__", watched)
    fresh = untrained_copy(model)
    assert made == [{torch.bfloat16}] and torch.get_default_dtype() == torch.float32
    assert {p.dtype for p in fresh.parameters()} == {torch.bfloat16}
    # As the configuration says, and so as the trained one began: 32 * 32 numbers of spread 0.1.
    weight = fresh.original_model.get_parameter("model.layers.0.mlp.up_proj.weight")
    assert float(weight.float().std()) == pytest.approx(0.1, rel=0.1)
    # Of what is loaded in bfloat16 they are float32; rounded, they would turn other angles.
    frequencies = dict(fresh.named_buffers())
    assert {b.dtype for name, b in frequencies.items() if "inv_freq" in name} == {torch.float32}


def test_a_sharded_model_is_refused(tiny, monkeypatch):
    monkeypatch.setattr("reft_interp.models.untrained.is_sharded", lambda _: True)
    with pytest.raises(ValueError, match="sharded over several processes"):
        untrained_copy(tiny("llama"))
