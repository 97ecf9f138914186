"""Whether rows are replayed or run in full, and the reason that is given."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn

from reft_interp.interventions import DiReFT, VectorAddition
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.frozen import freeze
from reft_interp.runtime.planning import Plan, agrees, free_memory, freeze_batch, plan
from reft_interp.runtime.replaying import can_replay
from reft_interp.sites import Site

ROWS = [
    {"prompt": "The key near the doors", "answer": " is"},
    {"prompt": "Paris is a city in the country of", "answer": " France"},
]


def prepared(model, layer=1, on="last"):
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", layer), on)
    batch = encode(model, ROWS, answers=True)
    return batch, IntervenedModel(model, placed).edits(batch)


def spoilt(frozen):
    return [replace(row, stream=row.stream.roll(1, dims=-1)) for row in frozen]


def decide(model, layer=1, on="last", **options) -> Plan:
    batch, edits = prepared(model, layer, on)
    return plan(model, [batch], [edits], **options)


def test_says_what_a_replay_saves(tiny):
    model = tiny("llama")
    batch, edits = prepared(model)
    lengths = batch.answer_end - batch.prompt_start
    suffix = batch.answer_end - batch.prompt_end + 1  # the last prompt token and the answer
    tokens = f"{suffix.sum() / lengths.sum():.0%} of the tokens"
    work = f"{suffix.sum() / lengths.sum() / 2:.0%} of the full work"  # one of two layers
    decided = plan(model, [batch], [edits])
    assert decided.replays
    assert str(decided).startswith(f"replay of the changed region: {tokens} from layer 1 of 2")
    assert work in decided.reason


@pytest.mark.parametrize(
    ("layer", "on", "options", "reason"),
    [
        (1, "last", {"engine": "full"}, "it was asked for"),
        (0, "first", {}, "the region is 100% of the model's work"),
        (1, "last", {"budget": 0}, r"need 0 MB, 0 MB are granted"),
    ],
)
def test_says_why_it_runs_in_full(tiny, layer, on, options, reason):
    decided = decide(tiny("llama"), layer, on, **options)
    assert not decided.replays
    assert reason in decided.reason and str(decided).startswith("full run: ")


def test_the_budget_is_in_bytes(tiny):
    model = tiny("llama")
    batch, edits = prepared(model)
    frozen = freeze_batch(model, batch, edits)
    needed = sum(
        t.numel() * t.element_size() for row in frozen for t in (row.stream, row.keys, row.values)
    )
    assert decide(model, budget=needed).replays
    assert not decide(model, budget=needed - 1).replays
    assert 0 < free_memory(torch.device("cpu")) < 2**50


def test_encoders_run_in_full(tiny):
    decided = decide(tiny("bert"))
    assert not decided.replays and "only decoders" in decided.reason


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        ("MambaForCausalLM", {"state_size": 4}),
        (
            "Qwen3NextForCausalLM",
            {
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "intermediate_size": 64,
                "num_experts": 4,
                "moe_intermediate_size": 32,
                "num_experts_per_tok": 2,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "layer_types": ["linear_attention", "full_attention"],
            },
        ),
    ],
)
def test_models_with_a_state_run_in_full(tiny_parts, model_class, config):
    _, tokenizer = tiny_parts("gpt2")
    named = getattr(transformers, model_class)
    hf_config = named.config_class(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, **config
    )
    model = wrap_model(named(hf_config).eval(), tokenizer, name="tiny-state")
    assert not can_replay(model)
    assert not decide(model).replays


def test_a_replay_of_the_right_rows_agrees_and_of_others_does_not(causal_model):
    batch, edits = prepared(causal_model)
    frozen = freeze_batch(causal_model, batch, edits)
    assert agrees(causal_model, batch, edits, frozen)
    assert not agrees(causal_model, batch, edits, spoilt(frozen))


def test_bfloat16_rounding_is_no_disagreement(make_tiny):
    model = make_tiny("llama", seed=1)
    model.to(torch.bfloat16)
    direft = DiReFT(2, width=32)
    nn.init.normal_(next(direft.parameters()))
    batch = encode(model, ROWS, answers=True)
    edits = IntervenedModel(model, Placement(direft, Site("resid_post", 1), "last")).edits(batch)
    frozen = freeze_batch(model, batch, edits)
    assert frozen[0].stream.dtype == torch.bfloat16
    assert agrees(model, batch, edits, frozen)
    assert not agrees(model, batch, edits, spoilt(frozen))


def test_freezing_keeps_no_more_than_the_region_needs(tiny):
    model = tiny("llama")
    batch, _ = prepared(model)
    starts = batch.prompt_start + 2
    for row, end in zip(freeze(model, batch, 1, starts), batch.answer_end.tolist(), strict=True):
        assert (row.layer, row.start) == (1, 2)
        assert row.stream.shape == (end - 2, 32)
        assert row.keys.shape == row.values.shape == (1, 2, 2, 8)  # one layer, two KV heads
        for tensor in (row.stream, row.keys, row.values):  # not a view of the whole batch
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
