"""Edited runs against formulas written out by hand, one unpadded prompt at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interventions import (
    Clamp,
    DiReFT,
    DistributedInterchange,
    Interchange,
    LoReFT,
    VectorAddition,
)
from reft_interp.positions import Positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.running import record, run
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

PROMPTS = ["The key near the doors", "Paris", "Is twelve more than three? Yes"]
# Padding changes the order of float32 sums; logits are of order 1.
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}

Formula = Callable[[Tensor], Tensor]
ByHand = tuple[str, Callable[[int], Sequence[int]], Formula]
"""A hook's name, the tokens of a prompt of n tokens, and what happens to each."""


def naive_logits(model: TransformerBridge, prompt: str, edits: Sequence[ByHand]) -> Tensor:
    """Logits of one prompt, edited token by token in hooks that are written here."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])

    def hook_for(tokens: Callable[[int], Sequence[int]], formula: Formula):
        def hook(activation: Tensor, hook: Any) -> Tensor:
            new = activation.clone()
            for token in tokens(ids.shape[1]):
                new[0, token] = formula(activation[0, token])
            return new

        return hook

    hooks: list[Any] = [(name, hook_for(tokens, formula)) for name, tokens, formula in edits]
    with torch.no_grad():
        return model.run_with_hooks(ids, fwd_hooks=hooks)[0]


def check_against_naive(
    model: TransformerBridge,
    intervened: IntervenedModel,
    edits: Sequence[ByHand],
    padding_side: Any,
) -> None:
    batch = encode(model, PROMPTS, padding_side=padding_side)
    with torch.no_grad():
        logits = run(model, batch, intervened.edits(batch))
    for i, prompt in enumerate(PROMPTS):
        real = slice(int(batch.prompt_start[i]), int(batch.prompt_end[i]))
        expected = naive_logits(model, prompt, edits)
        assert_close(logits[i, real], expected, **CLOSE)
        assert (expected - naive_logits(model, prompt, [])).abs().max() > 0.01  # it does something


def stir(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_several_placements_do_what_the_formulas_say(tiny_model, padding_side):
    loreft, direft = LoReFT(2, width=32), DiReFT(3, width=32)
    stir(loreft)
    stir(direft, seed=1)
    direction = Subspace.random(32, 1, seed=3).basis[0]
    intervened = IntervenedModel(
        tiny_model,
        [
            Placement(direft, Site("mlp_out", 1), "every"),
            Placement(VectorAddition(direction, strength=2.0), Site("attn_out", 0), -1),
            Placement(loreft, Site("resid_post", 0), "f1+l1"),
        ],
    )
    # LoReFT and DiReFT from their parameters: R = L⁻¹A is what Gram-Schmidt makes of A.
    A, W, b = (p.detach() for p in loreft.parameters())
    first = A[0] / A[0].norm()
    second = A[1] - first * (A[1] @ first)
    R = torch.stack([first, second / second.norm()])
    D, V, c = (p.detach() for p in direft.parameters())
    edits: list[ByHand] = [
        ("blocks.1.hook_mlp_out", range, lambda h: h + D.T @ (V @ h + c)),
        ("blocks.0.hook_attn_out", lambda n: [n - 1], lambda h: h + 2.0 * direction),
        (
            "blocks.0.hook_resid_post",
            lambda n: sorted({0, n - 1}) if n > 1 else [0],
            lambda h: h + R.T @ (W @ h + b - R @ h),
        ),
    ]
    check_against_naive(tiny_model, intervened, edits, padding_side)


@pytest.mark.parametrize("clamp_first", [True, False])
def test_edits_at_one_site_happen_in_the_order_of_placements(tiny_model, clamp_first):
    subspace = Subspace.random(32, 1, seed=0)
    r = subspace.basis[0]
    placed = [
        Placement(Clamp(subspace, torch.tensor([3.0])), Site("resid_post", 0), "l1"),
        Placement(VectorAddition(r, strength=2.0), Site("resid_post", 0), "l1"),
    ]
    intervened = IntervenedModel(tiny_model, placed if clamp_first else placed[::-1])
    coordinate = 5.0 if clamp_first else 3.0  # the clamp erases what was added before it
    edit: ByHand = (
        "blocks.0.hook_resid_post",
        lambda n: [n - 1],
        lambda h: h + r * (coordinate - r @ h),
    )
    check_against_naive(tiny_model, intervened, [edit], "right")


def test_an_edit_sees_what_the_one_below_it_left(tiny):
    model = tiny("llama")
    subspace = Subspace.random(32, 2, seed=0)
    low = Placement(VectorAddition(subspace.basis[0], strength=50.0), Site("resid_pre", 0), "every")
    high = Placement(DiReFT(2, width=32), Site("resid_post", 0), "every")
    stir(high.intervention)
    both = IntervenedModel(model, [high, low]).logits(PROMPTS)
    assert_close(IntervenedModel(model, [low, high]).logits(PROMPTS), both, atol=0, rtol=0)
    assert not torch.allclose(IntervenedModel(model, [high]).logits(PROMPTS), both)


def test_chosen_heads_and_neurons_are_edited_and_no_others(tiny):
    model = tiny("llama")
    heads = VectorAddition(torch.arange(1.0, 17.0))
    neurons = VectorAddition(torch.tensor([4.0, -4.0, 8.0]))
    intervened = IntervenedModel(
        model,
        [
            Placement(heads, Site("z", 0, heads=(3, 1)), "l1"),
            Placement(neurons, Site("mlp_post", 1, neurons=(7, 0, 60)), "f1"),
        ],
    )

    def on_heads(z: Tensor) -> Tensor:
        z = z.clone()
        z[3] += torch.arange(1.0, 9.0)
        z[1] += torch.arange(9.0, 17.0)
        return z

    def on_neurons(h: Tensor) -> Tensor:
        h = h.clone()
        h[7], h[0], h[60] = h[7] + 4, h[0] - 4, h[60] + 8
        return h

    edits: list[ByHand] = [
        ("blocks.0.attn.hook_z", lambda n: [n - 1], on_heads),
        ("blocks.1.mlp.hook_post", lambda n: [0], on_neurons),
    ]
    check_against_naive(model, intervened, edits, "right")


def test_logits_at_positions_are_those_of_the_whole_run(tiny_model):
    batch = encode(tiny_model, PROMPTS)
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", 0), "l1")
    edits = IntervenedModel(tiny_model, placed).edits(batch)
    at = Positions(torch.tensor([0, 0, 2]), torch.tensor([1, 3, 2]))
    with torch.no_grad():
        logits = run(tiny_model, batch, edits, at=at)
        whole = run(tiny_model, batch, edits)
    assert_close(logits, whole[at.rows, at.columns], **CLOSE)


def test_records_what_the_untouched_run_holds(tiny_model):
    batch = encode(tiny_model, PROMPTS)
    at = Positions(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 4]))
    sites = [Site("mlp_out", 1), Site("resid_post", 0), Site("z", 0)]
    held = record(tiny_model, batch, [(site, at) for site in sites])
    for i, (row, column) in enumerate(zip(at.rows.tolist(), at.columns.tolist(), strict=True)):
        ids = torch.tensor([tiny_model.tokenizer(PROMPTS[row])["input_ids"]])
        with torch.no_grad():
            _, cache = tiny_model.run_with_cache(ids)
        for site, values in zip(sites, held, strict=True):
            assert_close(values[i], cache[site.hook_name][0, column].flatten(), **CLOSE)


def test_recording_a_decoder_stops_after_the_highest_site(tiny):
    model = tiny("gpt2")
    batch = encode(model, PROMPTS)
    at = Positions(torch.tensor([0]), torch.tensor([0]))
    ran = []

    def note(activation: Tensor, hook: Any) -> None:
        ran.append(hook.name)

    hooks = [(f"blocks.{layer}.mlp.hook_in", note) for layer in (0, 1)]
    with model.hooks(fwd_hooks=hooks):
        record(model, batch, [(Site("resid_post", 0), at)])
        assert ran == ["blocks.0.mlp.hook_in"]
        record(model, batch, [(Site("resid_mid", 1), at)])
    assert ran[1:] == ["blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in"]


@settings(max_examples=8, deadline=None)
@given(rank=st.integers(1, 32), layer=st.integers(0, 1), seed=st.integers(0, 1000))
def test_an_interchange_with_oneself_changes_nothing(tiny, rank, layer, seed):
    model = tiny("llama")
    edit = DistributedInterchange(Subspace.random(32, rank, seed=seed))
    intervened = IntervenedModel(model, Placement(edit, Site("resid_post", layer), "f1+l1"))
    batch = encode(model, PROMPTS)
    with torch.no_grad():
        untouched = run(model, batch)
    assert_close(intervened.logits(PROMPTS, PROMPTS), untouched, **CLOSE)
    assert not torch.allclose(intervened.logits(PROMPTS, PROMPTS[::-1]), untouched, atol=1e-3)


def test_a_whole_interchange_of_the_last_token_gives_the_sources_answer(causal_model):
    bases, sources = ["The key", "Tokyo is a city"], ["The films were good", "No, the book"]
    top = Placement(Interchange(), Site("resid_post", 1), "last")
    intervened = IntervenedModel(causal_model, top)
    batch = encode(causal_model, bases)
    logits = intervened.logits(bases, sources)
    for i, (base, source) in enumerate(zip(bases, sources, strict=True)):
        last = logits[i, batch.prompt_end[i] - 1]
        assert_close(last, naive_logits(causal_model, source, [])[-1], **CLOSE)
        assert not torch.allclose(last, naive_logits(causal_model, base, [])[-1], atol=1e-2)
