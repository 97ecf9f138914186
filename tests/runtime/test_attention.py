"""Attention with stacked query heads against the bridge's own."""

import pytest
import torch
from torch.testing import assert_close
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

from reft_interp.runtime.attention import _is_exact, grouped, grouped_attention
from reft_interp.runtime.batching import encode
from reft_interp.runtime.running import run

PROMPTS = ["The key near the doors is on the table", "Paris", "Is twelve more than three?"]


def eager(query, key, value, mask, *, softcap=None):
    """Line by line, one query head at a time, in float64."""
    copies = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        q, k, v = query[:, head], key[:, head // copies], value[:, head // copies]
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        heads.append((scores + mask[:, 0]).softmax(-1) @ v)
    return torch.stack(heads, dim=2)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    ("heads", "shared", "pos", "past"), [(6, 2, 3, 5), (4, 4, 1, 4), (3, 1, 2, 2)]
)
def test_it_is_softmax_attention(heads, shared, pos, past, softcap):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, n, length, 8, dtype=torch.float64, generator=generator, requires_grad=True)
        for n, length in ((heads, pos), (shared, past), (shared, past))
    )
    mask = torch.zeros(2, 1, pos, past, dtype=torch.float64)
    mask[1, :, :, 0] = torch.finfo(torch.float64).min
    found, pattern = grouped_attention(
        torch.nn.Identity(), query, key, value, mask, softcap=softcap
    )
    expected = eager(query, key, value, mask, softcap=softcap)
    assert pattern is None and found.shape == (2, pos, heads, 8)
    # The patterns are float32, as the models have them.
    assert_close(found, expected, atol=1e-6, rtol=0)
    mixture = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).reshape(found.shape)
    for mine, theirs in zip(
        torch.autograd.grad((found * mixture).sum(), (query, key, value)),
        torch.autograd.grad((expected * mixture).sum(), (query, key, value)),
        strict=True,
    ):
        assert_close(mine, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "mixtral"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_models_whose_heads_share_keys_give_the_same_logits(tiny, architecture, padding_side):
    model = tiny(architecture)
    assert _is_exact(model)
    batch = encode(model, PROMPTS, padding_side=padding_side)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        plain = run(model, batch)
        with grouped(model):
            assert all("forward" in block.attn.__dict__ for block in model.blocks)
            found = run(model, batch)
    assert_close(found[real], plain[real], atol=1e-5, rtol=0)
    assert model.original_model.config._attn_implementation == "eager"
    assert not any("forward" in block.attn.__dict__ for block in model.blocks)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "bert"])
def test_other_models_keep_the_bridges_own(tiny, architecture):
    model = tiny(architecture)
    assert not _is_exact(model)
    with grouped(model):
        assert not any("forward" in block.attn.__dict__ for block in model.blocks)


@pytest.mark.parametrize("hook", ["hook_pattern", "hook_attn_scores", "hook_rot_k"])
def test_where_somebody_looks_inside_the_bridge_computes(make_tiny, hook):
    model = make_tiny("llama")
    assert _is_exact(model)
    batch = encode(model, PROMPTS)
    seen = []

    def halve(activation, hook):
        seen.append(hook.name)
        return activation / 2

    with torch.no_grad(), model.hooks(fwd_hooks=[(f"blocks.1.attn.{hook}", halve)]):
        plain = run(model, batch)
        with grouped(model):
            assert "forward" in model.blocks[0].attn.__dict__
            assert "forward" not in model.blocks[1].attn.__dict__
            found = run(model, batch)
    assert len(seen) == 2
    real = batch.attention_mask.bool()
    assert_close(found[real], plain[real], atol=1e-5, rtol=0)


def test_heads_can_be_edited_all_the_same(tiny):
    model = tiny("llama")
    batch = encode(model, PROMPTS)

    def silence(z, hook):
        z = z.clone()
        z[:, :, 1] = 0
        return z

    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", silence)]):
        plain = run(model, batch)
        with grouped(model):
            assert "forward" in model.blocks[0].attn.__dict__
            found = run(model, batch)
    real = batch.attention_mask.bool()
    assert_close(found[real], plain[real], atol=1e-5, rtol=0)
    with torch.no_grad():
        assert (run(model, batch)[real] - plain[real]).abs().max() > 1e-3


def test_an_architecture_on_which_it_fails_keeps_the_bridges_own(make_tiny, monkeypatch):
    def fails(self, *args, **kwargs):
        raise TypeError("an argument that is not known")

    model = make_tiny("llama")
    monkeypatch.setattr(AttentionBridge, "forward", fails)
    assert not _is_exact(model)
    assert model.original_model.config._attn_implementation == "eager"
    assert not any("forward" in block.attn.__dict__ for block in model.blocks)


def test_nothing_stays_after_an_interrupt(tiny):
    model = tiny("llama")
    assert _is_exact(model)
    with pytest.raises(KeyboardInterrupt), grouped(model):
        raise KeyboardInterrupt
    assert model.original_model.config._attn_implementation == "eager"
    assert not any("forward" in block.attn.__dict__ for block in model.blocks)
