"""The untrained copy: same shape, other weights, no training left."""

import pytest
import torch

from reft_interp.models import identify, untrained_copy


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


def test_a_sharded_model_is_refused(tiny, monkeypatch):
    monkeypatch.setattr("reft_interp.models.untrained.is_sharded", lambda _: True)
    with pytest.raises(ValueError, match="sharded over several processes"):
        untrained_copy(tiny("llama"))
