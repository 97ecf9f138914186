"""Rows whose constants are computed once."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

from reft_interp.interventions import ConsReFT, DistributedInterchange, LoReFT, VectorAddition
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.constants import FrozenRows, RecordedSources
from reft_interp.runtime.encoded_rows import EncodedRows
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.replaying import replay
from reft_interp.runtime.running import prompt_ends, run
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

ROWS = [
    {"prompt": "The key near the doors", "answer": " is on the table"},
    {"prompt": "Paris", "answer": " is"},
    {"prompt": "Is twelve more than three?", "answer": " Yes"},
    {"prompt": "Mary and John went to the", "answer": " store,"},
    {"prompt": "The book", "answer": " was bad."},
]
SOURCES = ["No, the", "The films were good", "A", "Tokyo is a city", "seven is"]


def swapped(model) -> IntervenedModel:
    return IntervenedModel(
        model,
        [
            Placement(VectorAddition(torch.ones(32)), Site("resid_post", 1), "f1"),
            Placement(
                DistributedInterchange(Subspace.random(32, 4, seed=0)), Site("resid_post", 1), "l1"
            ),
        ],
    )


@pytest.mark.parametrize("engine", ["auto", "full"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 1], [2]])
def test_any_batch_of_them_has_the_loss_of_the_rows(causal_model, engine, order):
    intervened = IntervenedModel(causal_model, swapped(causal_model).placements[1:])
    prepared = PreparedRows(intervened, ROWS, SOURCES, batch_size=2, engine=engine)
    assert prepared.plan.replays == (engine == "auto")
    inputs = prepared.inputs(order)
    assert (inputs["frozen"] is None) == (engine == "full")
    expected = intervened.loss([ROWS[i] for i in order], [SOURCES[i] for i in order])
    assert_close(intervened(**inputs)["loss"], expected, atol=1e-5, rtol=1e-5)
    other = intervened.loss([ROWS[i] for i in order], [SOURCES[i - 1] for i in order])
    assert abs(other - expected) > 1e-4


def test_sources_are_kept_for_the_placements_that_read_them(tiny):
    intervened = swapped(tiny("llama"))
    prepared = PreparedRows(intervened, ROWS, SOURCES, batch_size=2)
    assert len(prepared) == len(ROWS)
    for i in range(len(ROWS)):
        held = prepared.inputs([i])["sources"]
        expected = intervened.read_sources(encode(intervened.model, [ROWS[i]]), [SOURCES[i]])
        assert expected is not None and held[0] is expected[0] is None
        assert held[1] is not None and expected[1] is not None
        assert_close(held[1], expected[1], atol=1e-5, rtol=1e-5)


def test_rows_without_answers_end_with_the_prompt(tiny):
    intervened = swapped(tiny("llama"))
    prompts = [row["prompt"] for row in ROWS]
    prepared = PreparedRows(intervened, prompts, SOURCES, answers=False)
    assert prepared.plan.replays
    inputs = prepared.inputs(range(len(ROWS)))
    batch = inputs["batch"]
    assert torch.equal(batch.answer_end, batch.prompt_end)
    edits = intervened.edits(batch, inputs["sources"], inputs["positions"])
    ends = prompt_ends(batch)
    replayed = replay(intervened.model, batch, edits, inputs["frozen"], ends)
    logits = intervened.logits(prompts, SOURCES)
    expected = torch.stack(
        [row[end - 1] for row, end in zip(logits, batch.prompt_end, strict=True)]
    )
    assert_close(replayed, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="row 0 has no 'answer'"):
        PreparedRows(intervened, prompts, SOURCES)


def test_every_row_is_looked_at_before_any_step(tiny):
    intervened = swapped(tiny("llama"))
    with pytest.raises(ValueError, match="sources: 4 for 5 rows; one for each is needed"):
        PreparedRows(intervened, ROWS, SOURCES[:4])
    with pytest.raises(ValueError, match="sources are missing"):
        PreparedRows(intervened, ROWS)
    with pytest.raises(ValueError, match="has no 'answer'"):
        PreparedRows(intervened, [*ROWS, {"prompt": "The"}], [*SOURCES, "The"])
    placed = Placement(LoReFT(2), Site("resid_post", 0), 'substring:" the"')
    with pytest.raises(ValueError, match="0 occurrences of ' the' in the prompt of row"):
        PreparedRows(IntervenedModel(tiny("llama"), placed), ROWS)


@pytest.mark.parametrize("budget", [0, 4000, None])
def test_what_memory_does_not_hold_is_computed_again(tiny, budget):
    intervened = swapped(tiny("llama"))
    prepared = PreparedRows(intervened, ROWS, SOURCES, batch_size=2, memory_budget=budget)
    assert prepared.plan.replays
    assert ("computed again" in str(prepared.plan)) == (budget is not None)
    order = [4, 0, 2]
    expected = intervened.loss([ROWS[i] for i in order], [SOURCES[i] for i in order])
    assert_close(intervened(**prepared.inputs(order))["loss"], expected, atol=1e-5, rtol=1e-5)


def test_sources_count_in_the_memory_that_may_be_taken(tiny):
    intervened = swapped(tiny("llama"))
    prepared = PreparedRows(intervened, ROWS, SOURCES)
    held = prepared.nbytes - prepared.plan.nbytes
    assert held == 4 * 32 * len(SOURCES)
    short = PreparedRows(intervened, ROWS, SOURCES, memory_budget=prepared.nbytes - 1)
    assert short.plan.nbytes < prepared.plan.nbytes
    whole = PreparedRows(intervened, ROWS, SOURCES, memory_budget=prepared.nbytes)
    assert whole.plan.nbytes == prepared.plan.nbytes


def test_dropout_is_no_reason_to_run_in_full(tiny):
    """Two runs differ under dropout; that says nothing about the replay."""
    placed = Placement(ConsReFT(4, dropout=0.5), Site("resid_post", 1), "l1")
    intervened = IntervenedModel(tiny("llama"), placed).train()
    nn.init.constant_(intervened.interventions[0].get_parameter("value.coordinates"), 3.0)
    assert PreparedRows(intervened, ROWS).plan.replays
    assert intervened.training


@pytest.mark.parametrize("error", [RuntimeError, IndexError, TypeError, ValueError])
def test_a_replay_that_fails_is_announced_and_not_used(make_tiny, error):
    model = make_tiny("gpt2")
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", 1), "l1")
    intervened = IntervenedModel(model, placed)
    columns = max(len(model.tokenizer(row["prompt"] + row["answer"])["input_ids"]) for row in ROWS)

    def refuse_a_part(stream, hook):
        if stream.shape[1] < columns:
            raise error("a part of the text")

    expected = intervened.loss(ROWS)
    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", refuse_a_part)]):
        told = f"a replay failed with {error.__name__}: a part of the text"
        with pytest.warns(UserWarning, match=f"{told}; running in full"):
            prepared = PreparedRows(intervened, ROWS)
        assert str(prepared.plan) == f"full run: {told}"
        assert_close(intervened(**prepared.inputs(range(len(ROWS))))["loss"], expected)


@pytest.mark.parametrize("most", [1, 2])
def test_what_memory_does_not_hold_at_once_is_prepared_in_parts(make_tiny, most):
    """Sources and constants alike; the error is pretended."""
    model = make_tiny("llama")
    intervened = swapped(model)
    whole = PreparedRows(intervened, ROWS, SOURCES)
    ran = []

    def refuse_many(stream, hook):
        if len(stream) > most:
            raise torch.OutOfMemoryError("no memory for so many rows")
        ran.append(len(stream))

    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", refuse_many)]):
        encoded = EncodedRows(model)
        prepared = PreparedRows._encoded(intervened, encoded, ROWS, SOURCES, "vocabulary")
        recorded = RecordedSources()
        reads = [reads for reads, _ in prepared._reads]
        recorded.record(model, reads)
        assert sum(ran) == len(SOURCES) and max(ran) == most
        ran.clear()
        frozen = FrozenRows(model, [prepared._regions], 2**40)
        frozen.fill()
        assert sum(ran) == len(ROWS) and max(ran) == most
    for one, other in zip(
        frozen.regions(prepared._regions, range(len(ROWS))),
        whole.inputs(range(len(ROWS)))["frozen"],
        strict=True,
    ):
        assert_close(one.stream, other.stream, atol=1e-5, rtol=1e-5)
        for some, others in zip(one.keys, other.keys, strict=True):
            assert_close(some, others, atol=1e-5, rtol=1e-5)
    [held] = recorded.of(reads[0])
    assert_close(torch.cat(held), whole.inputs(range(len(ROWS)))["sources"][1])


def test_memory_that_does_not_hold_one_row_is_told_of(make_tiny):
    model = make_tiny("llama")

    def refuse(stream, hook):
        raise torch.OutOfMemoryError("no memory at all")

    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", refuse)]),
        pytest.raises(torch.OutOfMemoryError, match="no memory at all"),
    ):
        PreparedRows(IntervenedModel(model, placed_last()), ROWS)


@pytest.fixture
def refuse_plain_runs(monkeypatch):
    """`refuse_plain_runs(most)`: no memory for the plain run of more rows beside a replay."""
    ran: list[int] = []

    def refuse(most: int) -> list[int]:
        def run_of_few(model, batch, edits, **options):
            if len(batch) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            ran.append(len(batch))
            return run(model, batch, edits, **options)

        monkeypatch.setattr("reft_interp.runtime.planning.run", run_of_few)
        return ran

    return refuse


def test_a_replay_is_compared_in_parts_where_memory_holds_no_more(make_tiny, refuse_plain_runs):
    ran = refuse_plain_runs(2)
    assert PreparedRows(IntervenedModel(make_tiny("llama"), placed_last()), ROWS).plan.replays
    assert sum(ran) == len(ROWS) and max(ran) == 2


def test_a_wrong_replay_is_found_in_any_part(make_tiny, refuse_plain_runs):
    """Only the longest row has a fifth token."""
    refuse_plain_runs(1)
    model, rows = make_tiny("gpt2"), [ROWS[1], *ROWS[:1]]
    intervened = IntervenedModel(model, placed_last())

    def turn_fifth_column(stream, hook):
        return torch.where(torch.arange(stream.shape[1])[:, None] == 4, -5 * stream, stream)

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", turn_fifth_column)]):
        with pytest.warns(UserWarning, match="a replay did not give what the plain run gives"):
            assert not PreparedRows(intervened, rows).plan.replays


def test_where_a_replay_leaves_no_memory_for_one_row_all_run_in_full(make_tiny, refuse_plain_runs):
    refuse_plain_runs(0)
    intervened = IntervenedModel(make_tiny("llama"), placed_last())
    told = "memory does not hold a run of one row beside .*: CUDA out of memory"
    with pytest.warns(UserWarning, match=f"{told}; running in full"):
        prepared = PreparedRows(intervened, ROWS)
    assert re.fullmatch(f"full run: {told}", str(prepared.plan))
    inputs = prepared.inputs(range(len(ROWS)))
    assert inputs["frozen"] is None
    assert_close(intervened(**inputs)["loss"], intervened.loss(ROWS))


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_processes_that_share_a_model_all_replay_or_none(
    make_tiny, refuse_plain_runs, monkeypatch, rows
):
    refuse_plain_runs(0)
    for module in ("batching", "prepared"):
        monkeypatch.setattr(f"reft_interp.runtime.{module}.is_sharded", lambda _: True)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        PreparedRows(IntervenedModel(make_tiny("llama"), placed_last()), rows)


def test_rows_of_a_sharded_model_are_not_prepared_in_smaller_parts(make_tiny, monkeypatch):
    """The processes that share it would wait for one another for ever."""
    model, ran = make_tiny("llama"), []

    def refuse_many(stream, hook):
        ran.append(len(stream))
        if len(stream) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("reft_interp.runtime.batching.is_sharded", lambda _: True)
    told = rf"no memory for {len(ROWS)} rows at once, .* a smaller batch_size=.* out of memory"
    for intervened in (swapped(model), IntervenedModel(model, placed_last())):
        sources = SOURCES if intervened.placements[1:] else None
        ran.clear()
        with (
            model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", refuse_many)]),
            pytest.raises(torch.OutOfMemoryError, match=told),
        ):
            PreparedRows(intervened, ROWS, sources)
        assert ran == [len(ROWS)]


def placed_last() -> Placement:
    return Placement(VectorAddition(torch.ones(32)), Site("resid_post", 1), "l1")


@pytest.mark.parametrize("budget", [0, None])
def test_layers_whose_caches_differ_in_shape_run_in_full(tiny_parts, budget):
    """Gemma 4's heads are wider in the layers that see everything."""
    _, tokenizer = tiny_parts("gemma2")
    wide: dict[str, Any] = {"global_head_dim": 16}  # which its signature does not show
    config = Gemma4TextConfig(
        vocab_size=len(tokenizer),
        vocab_size_per_layer_input=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        head_dim=8,
        **wide,
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.architectures = ["Gemma4ForCausalLM"]
    model = wrap_model(Gemma4ForCausalLM(config).eval(), tokenizer, name="tiny-gemma4")
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", 1), "l1")
    intervened = IntervenedModel(model, placed)
    with pytest.warns(UserWarning, match=r"a replay failed with .*; running in full") as told:
        prepared = PreparedRows(intervened, ROWS, memory_budget=budget)
    assert len(told) == 1 and not prepared.plan.replays
    inputs = prepared.inputs(range(len(ROWS)))
    assert_close(intervened(**inputs)["loss"], intervened.loss(ROWS))


def test_a_replay_that_goes_wrong_is_announced_and_not_used(make_tiny):
    model = make_tiny("gpt2")
    # A hook that counts columns of the batch does not survive a replay, which has others.
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", 1), "l1")
    intervened = IntervenedModel(model, placed)

    def turn_third_column(stream, hook):
        return torch.where(torch.arange(stream.shape[1])[:, None] == 2, -5 * stream, stream)

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", turn_third_column)]):
        told = r"did not give what the plain run gives: largest difference \d.* \(tolerance .*\)"
        with pytest.warns(UserWarning, match=f"{told}; running in full"):
            prepared = PreparedRows(intervened, ROWS)
        assert not prepared.plan.replays and re.search(told, prepared.plan.reason)
        assert prepared.inputs([0])["frozen"] is None
        inputs = prepared.inputs([0])
        assert_close(intervened(**inputs)["loss"], intervened.loss(ROWS[:1]))
    assert PreparedRows(intervened, ROWS).plan.replays
