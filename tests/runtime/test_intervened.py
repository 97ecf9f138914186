"""The object that a user runs: its loss, its parameters, its sources, what it says of itself."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close

from reft_interp.interventions import (
    DistributedInterchange,
    Interchange,
    LobiReFT,
    LoReFT,
    VectorAddition,
)
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.answer_loss import answer_loss
from reft_interp.runtime.batching import encode
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

ROWS = [
    {"prompt": "The key near the doors", "answer": " is on the table"},
    {"prompt": "Paris", "answer": " is"},
    {"prompt": "Is twelve more than three?", "answer": " Yes, and seven"},
]
VECTOR = torch.linspace(-2, 2, 32)


def added(model, on: Any = "l1", layer: int = 0) -> IntervenedModel:
    return IntervenedModel(model, Placement(VectorAddition(VECTOR), Site("resid_post", layer), on))


def naive_loss(model, rows, *, edited: bool = True) -> torch.Tensor:
    """−log p of each answer token, from runs of one unpadded row, with VECTOR added on the
    prompt's last token; the mean over all answer tokens."""
    encoder = model.cfg.model_name == "tiny-bert"
    losses = []
    for row in rows:
        prompt = model.tokenizer(row["prompt"])["input_ids"]
        answer = model.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
        shown = [model.tokenizer.mask_token_id] * len(answer) if encoder else answer

        def hook(activation: torch.Tensor, hook: Any, *, last: int = len(prompt) - 1):
            new = activation.clone()
            new[0, last] += VECTOR
            return new

        hooks: list[Any] = [("blocks.0.hook_resid_post", hook)] if edited else []
        with torch.no_grad():
            logits = model.run_with_hooks(torch.tensor([prompt + shown]), fwd_hooks=hooks)[0]
        for i, token in enumerate(answer):
            column = len(prompt) + i - (0 if encoder else 1)
            losses.append(logits[column].logsumexp(-1) - logits[column, token])
    return torch.stack(losses).mean()


def test_the_loss_is_the_cross_entropy_of_the_answer_tokens(tiny_model):
    loss = added(tiny_model).loss(ROWS)
    assert_close(loss, naive_loss(tiny_model, ROWS), atol=2e-5, rtol=0)
    assert abs(loss.item() - naive_loss(tiny_model, ROWS, edited=False).item()) > 2e-4


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("replayed", [True, False])
def test_the_loss_does_not_depend_on_padding_or_replay(
    freeze_batch, causal_model, padding_side, replayed
):
    intervened = added(causal_model)
    batch = encode(causal_model, ROWS, answers=True, padding_side=padding_side)
    edits = intervened.edits(batch)
    frozen = freeze_batch(causal_model, batch, edits) if replayed else None
    with torch.no_grad():
        loss = answer_loss(causal_model, batch, edits, frozen)
    assert_close(loss, naive_loss(causal_model, ROWS), atol=1e-4, rtol=1e-4)


def test_parts_of_a_step_add_up_to_the_whole(tiny):
    intervened = added(tiny("llama"))
    count = int((encode(tiny("llama"), ROWS, answers=True).labels != -100).sum())
    parts = [
        intervened(encode(intervened.model, [row], answers=True), num_items_in_batch=count)["loss"]
        for row in ROWS
    ]
    assert_close(sum(parts), intervened.loss(ROWS))


def test_an_encoder_cannot_see_the_answer(tiny):
    model = tiny("bert")
    batch = encode(model, ROWS, answers=True)
    shown = batch.input_ids[batch.labels != -100]
    assert (shown == model.tokenizer.mask_token_id).all()
    assert not (batch.labels == model.tokenizer.mask_token_id).any()
    decoder = encode(tiny("gpt2"), ROWS, answers=True)
    at_answers = decoder.labels != -100
    assert torch.equal(decoder.input_ids[at_answers], decoder.labels[at_answers])


def test_an_encoder_without_a_mask_token_has_no_answers(make_tiny):
    model = make_tiny("bert")
    model.tokenizer.mask_token = None
    assert encode(model, ROWS).labels.eq(-100).all()
    with pytest.raises(ValueError, match="tiny-bert: its tokenizer has no mask token"):
        added(model).loss(ROWS)


def test_a_gradient_is_what_finite_differences_say(tiny):
    model = tiny("llama")
    placed = Placement(LobiReFT(2), Site("resid_post", 0), "f1+l1")
    intervened = IntervenedModel(model, placed)
    loss = intervened.loss(ROWS)
    loss.backward()
    for parameter in intervened.parameters():
        gradient = parameter.grad
        assert gradient is not None
        direction = torch.ones_like(parameter)
        step = 1e-2
        with torch.no_grad():
            parameter += step * direction
            above = intervened.loss(ROWS)
            parameter -= 2 * step * direction
            below = intervened.loss(ROWS)
            parameter += step * direction
        # float32 losses of about 6 are good to 1e-6, so their quotient to 1e-4.
        slope = (gradient * direction).sum()
        assert_close(slope, (above - below) / (2 * step), atol=5e-4, rtol=1e-2)


def test_only_the_interventions_are_parameters(tiny_model):
    intervened = IntervenedModel(tiny_model, Placement(LoReFT(2), Site("resid_post", 0), "f1"))
    assert intervened.trained_parameters == 2 * 32 + 2 * 32 + 2  # R, W, b
    assert sum(t.numel() for t in intervened.state_dict().values()) == 2 * 32 + 2 * 32 + 2
    assert not any(p.requires_grad for p in tiny_model.parameters())


def test_a_template_becomes_a_module_at_each_site_and_a_module_is_shared(tiny):
    model = tiny("llama")
    sites = [Site("resid_post", 0), Site("mlp_out", 1)]
    apart = IntervenedModel(model, [Placement(LobiReFT(2), site, "l1") for site in sites])
    template = LobiReFT(2)
    of_one = IntervenedModel(model, [Placement(template, site, "l1") for site in sites])
    shared = LobiReFT(2, width=32)
    with torch.no_grad():
        next(iter(shared.value.parameters())).fill_(0.5)  # at 0 the rows would get no gradient
    together = IntervenedModel(model, [Placement(shared, site, "l1") for site in sites])
    sizes = [intervened.trained_parameters for intervened in (apart, of_one, together)]
    assert sizes[0] == sizes[1] == 2 * sizes[2]

    # The gradient of a shared module is the sum of what its copies at each site get.
    for i, intervened in enumerate((apart, together)):
        for module in intervened.interventions:
            module.load_state_dict(shared.state_dict())
        intervened.loss(ROWS).backward()
        assert len(intervened.interventions) == 2 - i
    copies = zip(*(module.parameters() for module in apart.interventions), strict=True)
    for parameter, (first, second) in zip(shared.parameters(), copies, strict=True):
        assert first.grad is not None and second.grad is not None
        assert not torch.allclose(first.grad, second.grad)
        assert_close(parameter.grad, first.grad + second.grad)


def test_what_it_gets_and_what_it_lacks(tiny):
    model = tiny("gpt2")
    with pytest.raises(ValueError, match="at least one placement, got none"):
        IntervenedModel(model, [])
    with pytest.raises(ValueError, match=r"layer must be between 0 and 1 .*got 2"):
        IntervenedModel(model, Placement(LoReFT(2), Site("resid_post", 2), "f1"))
    with pytest.raises(ValueError, match="LoReFT edits activations 16 wide, but they are 32"):
        IntervenedModel(model, Placement(LoReFT(2, width=16), Site("resid_post", 0), "f1"))


def test_sources_are_asked_for_where_they_are_needed(tiny):
    model = tiny("gpt2")
    swapped = IntervenedModel(model, Placement(Interchange(), Site("resid_post", 0), "last"))
    assert swapped.needs_source and not added(model).needs_source
    with pytest.raises(ValueError, match="sources are missing"):
        swapped.logits(["The key"])
    with pytest.raises(ValueError, match="1 for 2 rows; one for each"):
        swapped.logits(["The key", "Paris"], ["The keys"])
    with pytest.raises(ValueError, match=r"no intervention here takes a source \(VectorAddition\)"):
        added(model).logits(["The key"], ["The keys"])
    assert added(model).read_sources(encode(model, ["The key"]), None) is None


def test_misaligned_spans_are_shown(tiny):
    model = tiny("gpt2")
    placed = Placement(Interchange(), Site("resid_post", 0), "span:who all")
    swapped = IntervenedModel(model, placed)
    rows = [
        {"prompt": "The key", "spans": {"who": [0, 3]}},
        {"prompt": "Mary and John went", "spans": {"who": [0, 13]}},
    ]
    sources = [
        {"prompt": "The book", "spans": {"who": [0, 3]}},
        {"prompt": "Mary went", "spans": {"who": [0, 4]}},
    ]
    with pytest.raises(ValueError, match=r"row 1: .* tokens of the base") as raised:
        swapped.logits(rows, sources)
    assert "'Mary and John went'" in str(raised.value) and "'Mary went'" in str(raised.value)
    assert swapped.logits(rows[:1], sources[:1]).shape[0] == 1


def test_each_placement_reads_its_own_source_tokens(tiny):
    model = tiny("llama")
    intervened = IntervenedModel(
        model,
        [
            Placement(Interchange(), Site("mlp_out", 1), "f1"),
            Placement(VectorAddition(VECTOR), Site("resid_post", 0), "last"),
            Placement(
                DistributedInterchange(Subspace.random(32, 2, seed=0)), Site("resid_post", 0), "l2"
            ),
        ],
    )
    sources = ["The films were good", "Mary and John"]
    held = intervened.read_sources(encode(model, ["The key is", "The keys to"]), sources)
    assert held is not None and held[1] is None
    for i, source in enumerate(sources):
        ids = torch.tensor([model.tokenizer(source)["input_ids"]])
        with torch.no_grad():
            _, cache = model.run_with_cache(ids)
        first, last = held[0], held[2]
        assert first is not None and last is not None
        assert_close(first[i], cache["blocks.1.hook_mlp_out"][0, 0], atol=1e-5, rtol=1e-5)
        expected = cache["blocks.0.hook_resid_post"][0, -2:]
        assert_close(last[2 * i : 2 * i + 2], expected, atol=1e-5, rtol=1e-5)


def test_rows_of_a_dataset_do_as_well(tiny):
    intervened = added(tiny("llama"))
    dataset = Dataset.from_list(ROWS)
    assert torch.equal(intervened.loss(dataset), intervened.loss(ROWS))
    assert torch.equal(intervened.logits(dataset), intervened.logits(ROWS))


def test_shows_the_edited_tokens(tiny):
    shown = repr(added(tiny("gpt2"), "f1+l1").show(["The key near the doors"]))
    marked, plain = "The", " key near the"
    assert marked in shown and plain.strip() in shown
    assert shown != repr(added(tiny("gpt2"), "l1").show(["The key near the doors"]))


def test_explains_in_the_order_in_which_it_happens(tiny):
    intervened = IntervenedModel(
        tiny("gpt2"),
        [
            Placement(LoReFT(2), Site("resid_post", 1), "f1"),
            Placement(VectorAddition(VECTOR), Site("mlp_out", 1), "last"),
            Placement(LobiReFT(1), Site("resid_pre", 0), "every"),
        ],
    )
    assert intervened.explain().splitlines() == [
        "LobiReFT at blocks.0.hook_resid_pre on every (width 32, 33 trained parameters)",
        "VectorAddition at blocks.1.hook_mlp_out on last (width 32, 0 trained parameters)",
        "LoReFT at blocks.1.hook_resid_post on first (width 32, 130 trained parameters)",
    ]


def test_it_prints_as_what_is_done_where(tiny):
    placed = IntervenedModel(tiny("llama"), Placement(LoReFT(rank=2), Site("resid_post", 1), "l1"))
    assert repr(placed) == "IntervenedModel(tiny-llama: LoReFT at blocks.1.hook_resid_post on last)"


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("wrong", [LoReFT(4), [LoReFT(4)], "l1"])
def test_an_intervention_by_itself_is_no_placement(tiny, wrong):
    told = r"placements must be Placement\(intervention, site, on\), .*got (LoReFT|str)"
    with pytest.raises(TypeError, match=told):
        IntervenedModel(tiny("llama"), wrong)


@pytest.mark.parametrize("number", [1, 9, -2])
def test_a_placement_that_is_not_there_is_not_shown(tiny, number):
    one = added(tiny("llama"))
    assert str(one.show(["Paris"], -1)) == str(one.show(["Paris"]))
    with pytest.raises(IndexError, match=f"placement must be between 0 and 0, got {number}"):
        one.show(["Paris"], number)
