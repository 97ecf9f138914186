"""Rows of many cells in one run give what each cell gives alone."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from reft_interp.interventions import DistributedInterchange, LoReFT
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement, constants
from reft_interp.runtime.batching import encode
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.prepared import PreparedRows, prepare_each
from reft_interp.runtime.running import (
    answer_positions,
    can_score_tokens,
    logits_of_tokens,
    run,
    token_logits,
)
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

ROWS = [
    {"prompt": "The key near the doors", "answer": " is on the table"},
    {"prompt": "Paris", "answer": " is"},
    {"prompt": "Is twelve more than three?", "answer": " Yes"},
    {"prompt": "Mary and John went to the", "answer": " store,"},
]
SOURCES = ["No, the", "The films were good", "A", "Tokyo is a city"]
# Components, layers and tokens: cells join at different layers and begin at different tokens.
CELLS = [("resid_post", 1, "l1"), ("resid_pre", 0, "l2"), ("z", 1, "l1"), ("mlp_out", 0, "last")]


def learned(model, component, layer, on, seed=0) -> IntervenedModel:
    site = Site(component, layer)
    start = Subspace.random(site.width(model), 2, seed=seed)
    placed = IntervenedModel(model, Placement(LoReFT(start=start), site, on))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in placed.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 2)
    return placed


def swapped(model, layer, on, seed=0) -> IntervenedModel:
    edit = DistributedInterchange(Subspace.random(32, 4, seed=seed), trainable=True)
    return IntervenedModel(model, Placement(edit, Site("resid_post", layer), on))


def share(intervened: IntervenedModel, prepared: PreparedRows, rows) -> Share:
    inputs = prepared.inputs(rows)
    return Share(intervened, inputs, answer_positions(intervened.model, inputs["batch"]))


def alone(intervened: IntervenedModel, rows, sources=None) -> torch.Tensor:
    """The plain run of one cell's rows."""
    batch = encode(intervened.model, rows, answers=True)
    edits = intervened.edits(batch, intervened.read_sources(batch, sources))
    return run(intervened.model, batch, edits, at=answer_positions(intervened.model, batch))


@pytest.mark.parametrize("budget", [None, 4000])
def test_each_gets_its_own_logits_and_gradients(causal_model, budget):
    model = causal_model
    cells = [learned(model, *cell, seed=i) for i, cell in enumerate(CELLS)]
    cells.append(swapped(model, 1, "last", seed=9))
    wanted = [(c, ROWS, SOURCES if c.needs_source else None) for c in cells]
    prepared = prepare_each(wanted, memory_budget=budget)
    rows = [[0, 1], [2, 3, 1], [3], [0, 2], [1, 0, 3]]
    found = joint_logits([share(*one) for one in zip(cells, prepared, rows, strict=True)])
    for cell, some, logits in zip(cells, rows, found, strict=True):
        sources = [SOURCES[i] for i in some] if cell.needs_source else None
        expected = alone(cell, [ROWS[i] for i in some], sources)
        assert_close(logits, expected, atol=2e-5 * float(expected.detach().abs().max()), rtol=0)
        parameters = list(cell.parameters())
        mixture = torch.linspace(-1, 1, expected.numel()).reshape(expected.shape)
        mine, theirs = (
            torch.autograd.grad((x * mixture).sum(), parameters, retain_graph=True)
            for x in (logits, expected)
        )
        for own, plain in zip(mine, theirs, strict=True):
            assert (own - plain).norm() <= 1e-4 * plain.norm()


@settings(max_examples=15, deadline=None)
@given(
    cells=st.lists(st.sampled_from(CELLS), min_size=2, max_size=5),
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
)
def test_any_cells_on_any_rows(tiny, cells, rows):
    model = tiny("mixtral")
    placed = [learned(model, *cell, seed=i) for i, cell in enumerate(cells)]
    prepared = prepare_each([(one, ROWS, None) for one in placed])
    with torch.no_grad():
        found = joint_logits([share(one, p, rows) for one, p in zip(placed, prepared, strict=True)])
        for one, logits in zip(placed, found, strict=True):
            expected = alone(one, [ROWS[i] for i in rows])
            assert_close(logits, expected, atol=2e-5 * float(expected.detach().abs().max()), rtol=0)


def test_replayed_and_full_runs_join_alike(tiny):
    model = tiny("llama")
    cells = [learned(model, "resid_post", 1, "l1", seed=i) for i in range(2)]
    replayed, full = (PreparedRows(cells[0], ROWS), PreparedRows(cells[1], ROWS, engine="full"))
    with torch.no_grad():
        found = joint_logits([share(cells[0], replayed, [0, 1]), share(cells[1], full, [1, 2])])
        for cell, rows, logits in zip(cells, ([0, 1], [1, 2]), found, strict=True):
            expected = alone(cell, [ROWS[i] for i in rows])
            assert_close(logits, expected, atol=2e-5 * float(expected.detach().abs().max()), rtol=0)


@pytest.mark.parametrize("engine", ["auto", "full"])
def test_logits_of_a_few_tokens_are_those_of_all(causal_model, engine):
    # gemma2 caps its logits, so that a few of them are not a matrix product.
    assert can_score_tokens(causal_model) == (causal_model.cfg.model_name != "tiny-gemma2")
    cell = learned(causal_model, "resid_post", 1, "l1")
    prepared = PreparedRows(cell, ROWS, engine=engine)
    with torch.no_grad():
        (logits,) = joint_logits([share(cell, prepared, [0, 3])])
        (entering,) = joint_logits([share(cell, prepared, [0, 3])], unembed=False)
        tokens = torch.arange(3 * len(logits)).reshape(len(logits), 3)
        few = logits_of_tokens(
            causal_model, tokens, lambda unembed: logits if unembed else entering
        )
    expected = logits.gather(1, tokens)
    assert_close(few, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}
_CAP = {"head_dim": 8, "final_logit_softcapping": 30.0}
_MAMBA = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
}
# What is done to logits behind the output layer: the model's class, and its configuration's.
CHANGED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a multiplier": ("FalconH1ForCausalLM", "FalconH1Config", _MAMBA | {"lm_head_multiplier": 0.5}),
    "a scale": ("CohereForCausalLM", "CohereConfig", {"logit_scale": 0.5}),
    "a cap": ("Gemma2ForCausalLM", "Gemma2Config", _CAP),
    "nothing": ("Gemma2ForCausalLM", "Gemma2Config", _CAP | {"final_logit_softcapping": None}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", list(CHANGED))
def test_logits_that_are_changed_behind_the_output_layer_are_told_from_others(
    tiny_parts, change, dtype
):
    model_class, config_class, settings = CHANGED[change]
    _, tokenizer = tiny_parts("llama")
    config = getattr(transformers, config_class)(
        **_SMALL | settings,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.architectures = [model_class]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = getattr(transformers, model_class)(config).eval().to(dtype), tokenizer
    assert can_score_tokens(wrap_model(*parts, name=change)) == (change == "nothing")


def test_choices_in_half_precision_are_not_rounded_to_the_same_number(make_tiny):
    model = make_tiny("llama").to(torch.bfloat16)
    weight = model.unembed.original_component.weight
    with torch.no_grad():
        weight.zero_()
        weight[5, :2], weight[6, :2] = torch.tensor([32.0, 0.0]), torch.tensor([32.0, 0.0625])
    stream = torch.ones(1, 32, dtype=torch.bfloat16)
    assert (stream @ weight.T)[0, 5] == (stream @ weight.T)[0, 6]
    found = token_logits(model, stream, torch.tensor([[5, 6]]))
    assert found.tolist() == [[32.0, 32.0625]]


def test_a_shared_beginning_is_kept_once(tiny):
    model = tiny("llama")
    shots = "The film was good, and I would see it again. Yes. The book was bad. No. "
    rows = [{"prompt": shots + row["prompt"], "answer": row["answer"]} for row in ROWS]
    cells = [learned(model, "resid_post", layer, "l1") for layer in (0, 1)]
    prepared = prepare_each([(one, rows, None) for one in cells])
    assert "tokens once for all rows" in str(prepared[0].plan)
    apart = PreparedRows(cells[0], [rows[0]])
    assert prepared[0].plan.nbytes < 4 * apart.plan.nbytes
    with torch.no_grad():
        found = joint_logits(
            [share(one, p, [0, 1, 3]) for one, p in zip(cells, prepared, strict=True)]
        )
        for cell, logits in zip(cells, found, strict=True):
            expected = alone(cell, [rows[i] for i in (0, 1, 3)])
            assert_close(logits, expected, atol=2e-5 * float(expected.detach().abs().max()), rtol=0)


def test_each_prompt_is_frozen_once_for_all_cells(tiny, monkeypatch):
    model = tiny("llama")
    ran: list[int] = []
    real = constants.freeze

    def counted(model, batch, *rest):
        ran.append(len(batch))
        return real(model, batch, *rest)

    monkeypatch.setattr(constants, "freeze", counted)
    cells = [
        learned(model, "resid_post", layer, on) for layer in (0, 1) for on in ("l1", "l2", "f1")
    ]
    other_labels = [{**row, "answer": " was"} for row in ROWS[1:3]]  # one token, as before
    prepare_each([(one, ROWS, None) for one in cells] + [(cells[0], other_labels, None)])
    assert sum(ran) == len(ROWS)


def test_what_cannot_be_joined_is_refused(tiny):
    with pytest.raises(ValueError, match="at least one model with interventions"):
        prepare_each([])
    cells = [learned(tiny(name), "resid_post", 1, "l1") for name in ("llama", "gpt2")]
    with pytest.raises(ValueError, match="number 1 is placed in another model"):
        prepare_each([(one, ROWS, None) for one in cells])
