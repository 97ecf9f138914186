"""Whether rows are replayed or run in full, and the reason that is given."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from reft_interp.interventions import DiReFT, VectorAddition
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement, planning
from reft_interp.runtime.batching import encode
from reft_interp.runtime.frozen import freeze
from reft_interp.runtime.planning import Plan, disagreement, free_memory, plan
from reft_interp.runtime.regions import end_columns
from reft_interp.runtime.replaying import can_replay, replay
from reft_interp.runtime.running import answer_positions, run
from reft_interp.sites import Site

ROWS = [
    {"prompt": "The key near the doors", "answer": " is"},
    {"prompt": "Paris is a city in the country of", "answer": " France"},
]


def prepared(model, layer=1, on="last"):
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_pre", layer), on)
    batch = encode(model, ROWS, answers=True)
    return batch, IntervenedModel(model, placed).edits(batch)


def spoilt(frozen):
    return [replace(row, stream=row.stream.roll(1, dims=-1)) for row in frozen]


def decide(model, layer=1, on="last", rows=ROWS, **options) -> Plan:
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_pre", layer), on)
    return plan(model, [placed], rows, **options)


def test_says_what_a_replay_saves(tiny):
    model = tiny("llama")
    batch, _ = prepared(model)
    lengths = batch.answer_end - batch.prompt_start
    suffix = batch.answer_end - batch.prompt_end  # the last prompt token, the answer but its last
    tokens = f"{suffix.sum() / lengths.sum():.0%} of the tokens"
    work = f"{suffix.sum() / lengths.sum() / 2:.0%} of the full work"  # one of two layers
    decided = decide(model)
    assert decided.replays and decided.layers == (1, 2)
    assert decided.work == pytest.approx(float(suffix.sum() / lengths.sum() / 2))
    assert str(decided).startswith(f"replay of the changed region: {tokens} from layer 1 of 2")
    assert work in decided.reason


@pytest.mark.parametrize(
    ("layer", "on", "options", "reason"),
    [
        (1, "last", {"engine": "full"}, "it was asked for"),
        (
            0,
            "first",
            {"rows": [{"prompt": "Paris is a city in the country of " * 3, "answer": " is"}]},
            "of the model's work on these rows",
        ),
    ],
)
def test_says_why_it_runs_in_full(tiny, layer, on, options, reason):
    decided = decide(tiny("llama"), layer, on, **options)
    assert not decided.replays
    assert reason in decided.reason and str(decided).startswith("full run: ")


def test_the_budget_is_in_bytes(freeze_batch, tiny):
    model = tiny("llama")
    frozen = freeze_batch(model, *prepared(model))
    needed = sum(tensor.nbytes for row in frozen for tensor in (row.stream, *row.keys, *row.values))
    assert decide(model, budget=needed).nbytes == needed
    assert "are computed again" not in str(decide(model, budget=needed))
    short = decide(model, budget=needed - 1)
    assert short.replays and 0 < short.nbytes < needed
    assert "for 1 of 2 rows" in str(short) and "are computed again for each batch" in str(short)
    assert decide(model, budget=0).nbytes == 0
    with pytest.raises(ValueError, match="memory_budget must be at least 0 bytes, got -1"):
        decide(model, budget=-1)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux says it in a file")
def test_free_memory_is_what_the_system_could_give(monkeypatch):
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    monkeypatch.setattr(planning, "left_by_groups", lambda: None)  # where tests run in a container
    free = free_memory(torch.device("cpu"))
    # Other processes take and give memory meanwhile.
    assert abs(free - 1024 * kib["MemAvailable"]) < 0.05 * 1024 * kib["MemTotal"]
    if kib["MemAvailable"] > 1.1 * kib["MemFree"]:  # the page cache counts
        assert free > 1024 * kib["MemFree"]


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


def test_a_replay_of_the_right_rows_agrees_and_of_others_does_not(freeze_batch, causal_model):
    batch, edits = prepared(causal_model)
    frozen = freeze_batch(causal_model, batch, edits)
    assert disagreement(causal_model, batch, edits, frozen) is None
    told = disagreement(causal_model, batch, edits, spoilt(frozen))
    assert told is not None and "did not give what the plain run gives" in told


def test_a_disagreement_is_told_as_the_largest_difference_between_logits(freeze_batch, tiny):
    model = tiny("llama")
    batch, edits = prepared(model)
    wrong = spoilt(freeze_batch(model, batch, edits))
    at = answer_positions(model, batch)
    apart = (replay(model, batch, edits, wrong, at) - run(model, batch, edits, at=at)).abs().max()
    assert f": largest difference {apart:.1e} (tol" in str(disagreement(model, batch, edits, wrong))
    holed = [replace(row, stream=torch.full_like(row.stream, torch.nan)) for row in wrong]
    assert "gave NaN or infinity elsewhere" in str(disagreement(model, batch, edits, holed))


def test_bfloat16_rounding_is_no_disagreement(freeze_batch, make_tiny):
    model = make_tiny("llama", seed=1)
    model.to(torch.bfloat16)
    direft = DiReFT(2, width=32)
    nn.init.normal_(next(direft.parameters()))
    batch = encode(model, ROWS, answers=True)
    edits = IntervenedModel(model, Placement(direft, Site("resid_post", 1), "last")).edits(batch)
    frozen = freeze_batch(model, batch, edits)
    assert frozen[0].stream.dtype == torch.bfloat16
    assert disagreement(model, batch, edits, frozen) is None
    assert disagreement(model, batch, edits, spoilt(frozen)) is not None


def test_freezing_keeps_no_more_than_the_regions_need(tiny):
    model = tiny("llama")
    batch, _ = prepared(model)
    first, last = batch.prompt_start + 2, batch.prompt_start + 3
    ends = end_columns([], batch)
    rows = freeze(model, batch, [0, 1], (first, last), ends)
    for row, end in zip(rows, ends.tolist(), strict=True):
        assert row.start == 2
        assert {layer: stream.shape for layer, stream in row.streams.items()} == {
            0: (end - 2, 32),
            1: (end - 2, 32),
        }
        assert row.keys.shape == row.values.shape == (2, 2, 3, 8)  # two layers, two KV heads
        for tensor in (*row.streams.values(), row.keys, row.values):  # no view of the whole batch
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
        region = row.region(1, 3)
        assert region.stream.shape == (end - 3, 32)
        assert [keys.shape for keys in region.keys] == [(1, 2, 3, 8)]
