"""A replay of the changed region against the plain run: same logits, same gradients, less work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interventions import DiReFT, Interchange, LoReFT, VectorAddition
from reft_interp.models import wrap_model
from reft_interp.positions import Positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.frozen import frozen_bytes
from reft_interp.runtime.regions import first_columns
from reft_interp.runtime.replaying import can_replay, replay
from reft_interp.runtime.rotary_scaling import length_of_other_angles
from reft_interp.runtime.running import run
from reft_interp.sites import Site

pytestmark = pytest.mark.no_cover

LAYERS = 3
# Shorter than all prompts but "Paris", so that a wrong window would show.
WINDOW = 4

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    # With the usual 0.02 each block would change the stream so little that one that was left
    # out would hardly show.
    "initializer_range": 0.2,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
_HEAD = _GROUPED | {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {
        "n_embd": 32,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": 128,
        "initializer_range": 0.2,
    },
    "GPTNeoXForCausalLM": _SHAPE,
    "OPTForCausalLM": {
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
        "init_std": 0.2,
    },
    "LlamaForCausalLM": _GROUPED,
    "MistralForCausalLM": _GROUPED | {"sliding_window": WINDOW},
    "Qwen2ForCausalLM": _GROUPED,
    "Qwen3ForCausalLM": _HEAD,
    "Gemma2ForCausalLM": _HEAD | {"sliding_window": WINDOW},
    "Gemma3ForCausalLM": _HEAD | {"sliding_window": WINDOW},
    "PhiForCausalLM": _GROUPED,
    "MixtralForCausalLM": _GROUPED | {"num_local_experts": 4},
    "Qwen3MoeForCausalLM": _HEAD | _EXPERTS,
}
CONFIG_CLASSES = {"Gemma3ForCausalLM": "Gemma3TextConfig"}

ROWS = [
    {"prompt": "The key near the doors is on the table in the old", "answer": " drawer."},
    {"prompt": "Paris", "answer": " is a city in"},
    {"prompt": "Is twelve more than three? Yes, and seven", "answer": " is"},
]
# (layer, positions, padding): the beginning, the end, and in the middle of a row.
REGIONS = [
    (0, "f1", "right"),
    (1, "l1", "right"),
    (1, "l2", "left"),
    (2, "f1+l1", "left"),
    (2, "last", "right"),
]


@pytest.fixture(scope="module", params=list(CONFIGS))
def decoder(request, tiny_parts) -> TransformerBridge:
    """A random decoder of three layers, of each architecture that a replay is claimed for."""
    name: str = request.param
    return wrap_model(*_random(name, CONFIGS[name], tiny_parts), name=f"tiny-{name}")


def _random(name: str, settings: dict[str, Any], tiny_parts: Any) -> tuple[Any, Any]:
    model_class = getattr(transformers, name)
    config_class = CONFIG_CLASSES.get(name)
    config_class = getattr(transformers, config_class) if config_class else model_class.config_class
    _, tokenizer = tiny_parts("llama")  # whose prompts begin with BOS
    config = config_class(
        **{"initializer_range": 0.2, **settings},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.architectures = [name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config).eval(), tokenizer


def stirred(intervention: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in intervention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return intervention


def answers_at(batch) -> Positions:
    rows, columns = (batch.labels != -100).nonzero(as_tuple=True)
    return Positions(rows, columns - 1)


def gradients(logits: torch.Tensor, intervened: IntervenedModel) -> torch.Tensor:
    # A fixed mixture, rather than a sum: softmax sees differences of logits.
    mixture = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
    parameters = list(intervened.parameters())
    if not logits.requires_grad:  # no edit is seen by any of these logits
        return torch.zeros(sum(p.numel() for p in parameters))
    found = torch.autograd.grad((logits * mixture).sum(), parameters, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@contextmanager
def matrix_products(model: TransformerBridge) -> Iterator[list[tuple[int, int]]]:
    """Within it: (layer, tokens) of each weight matrix that runs in a block."""
    ran: list[tuple[int, int]] = []
    handles = []
    for layer, block in enumerate(model.blocks):

        def note(module: nn.Module, inputs: Any, *, layer: int = layer) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor):
                shape = inputs[0].shape
                ran.append((layer, shape[:2].numel() if len(shape) > 2 else shape[0]))

        for module in block.modules():
            if isinstance(getattr(module, "weight", None), nn.Parameter) and not any(
                True for _ in module.children()
            ):
                handles.append(module.register_forward_pre_hook(note))
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("layer", "on", "padding_side"), REGIONS)
def test_logits_and_gradients_are_those_of_the_plain_run(
    freeze_batch, decoder, layer, on, padding_side
):
    intervened = IntervenedModel(
        decoder,
        [
            Placement(stirred(LoReFT(2, width=32)), Site("resid_post", layer), on),
            Placement(
                stirred(DiReFT(2, width=32), seed=1),
                Site("mlp_out", min(layer + 1, LAYERS - 1)),
                "l1",
            ),
        ],
    )
    batch = encode(decoder, ROWS, answers=True, padding_side=padding_side)
    edits, at = intervened.edits(batch), answers_at(batch)
    plain = run(decoder, batch, edits, at=at)
    with torch.no_grad():
        untouched = run(decoder, batch, at=at)
    assert (plain - untouched).abs().max() > 0.1  # the edits matter

    frozen = freeze_batch(decoder, batch, edits)
    replayed = replay(decoder, batch, edits, frozen, at)
    # Two orders of float32 sums, of numbers that random weights of 0.2 make large.
    scale = float(plain.detach().abs().max())
    assert_close(replayed, plain, atol=2e-5 * scale, rtol=0)
    expected, found = gradients(plain, intervened), gradients(replayed, intervened)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        (Site("mlp_out", 1), 1),
        (Site("resid_pre", 2), 2),
        # What leaves a block is what enters the next.
        (Site("resid_post", 0), 1),
        (Site("resid_post", 2), 2),
    ],
    ids=str,
)
def test_only_the_region_runs(freeze_batch, decoder, site, layer):
    placed = Placement(VectorAddition(torch.ones(32)), site, "l2")
    intervened = IntervenedModel(decoder, placed)
    batch = encode(decoder, ROWS, answers=True)
    edits, at = intervened.edits(batch), answers_at(batch)
    frozen = freeze_batch(decoder, batch, edits)
    # The last answer token predicts nothing that is looked at.
    lengths = (batch.answer_end - 1 - batch.prompt_start).tolist()
    starts = [
        max(0, int(end - start) - 2)
        for start, end in zip(batch.prompt_start, batch.prompt_end, strict=True)
    ]
    assert [row.start for row in frozen] == starts
    width = max(length - start for length, start in zip(lengths, starts, strict=True))

    # The first replay of a model compares its attention with the bridge's own, once.
    replay(decoder, batch, edits, frozen, at)
    with matrix_products(decoder) as plain:
        run(decoder, batch, edits, at=at)
    assert {ran for ran, _ in plain} == set(range(LAYERS))
    assert max(tokens for _, tokens in plain) >= batch.input_ids.numel()
    with matrix_products(decoder) as replayed:
        replay(decoder, batch, edits, frozen, at)
    assert {ran for ran, _ in replayed} == set(range(layer, LAYERS))
    assert max(tokens for _, tokens in replayed) == len(batch) * width
    assert width < batch.input_ids.shape[1] / 2


WORDS = ["The", " key", " near", " doors", " is", " on", " a", " table", "?", " Paris"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map("".join)
sites = st.one_of(
    st.builds(
        Site,
        st.sampled_from(["resid_pre", "attn_out", "mlp_out", "resid_post", "z"]),
        st.integers(0, 1),
    ),
    st.builds(Site, st.just("z"), st.integers(0, 1), heads=st.sampled_from([0, (1, 3)])),
    st.builds(Site, st.just("mlp_post"), st.integers(0, 1), neurons=st.sampled_from([7, (0, 5)])),
)
placements = st.tuples(
    sites,
    st.sampled_from(
        ["f1", "l1", "l3", "f1+l1", "every", "0", "-1", "f1 of=answer", "l1 of=answer"]
    ),
    st.integers(1, 2),
)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "mixtral"])
@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=4),
    placed=st.lists(placements, min_size=1, max_size=3),
    padding_side=st.sampled_from(["left", "right"]),
)
@example(
    rows=[("The key", " is on a table"), ("Paris", " is")],
    placed=[(Site("resid_post", 1), "l1 of=answer", 2)],
    padding_side="right",
)
def test_any_placements_on_any_rows_replay(
    freeze_batch, tiny, architecture, rows, placed, padding_side
):
    model = tiny(architecture)
    if architecture == "mixtral":  # which has no neurons
        placed = [(Site("mlp_out", s.layer) if s.neurons else s, on, r) for s, on, r in placed]
    intervened = IntervenedModel(
        model,
        [
            Placement(stirred(LoReFT(min(rank, width), width=width), seed=i), site, on)
            for i, (site, on, rank) in enumerate(placed)
            for width in [site.width(model)]
        ],
    )
    given_rows = [{"prompt": prompt, "answer": answer} for prompt, answer in rows]
    batch = encode(model, given_rows, answers=True, padding_side=padding_side)
    edits, at = intervened.edits(batch), answers_at(batch)
    plain = run(model, batch, edits, at=at)
    replayed = replay(model, batch, edits, freeze_batch(model, batch, edits), at)
    scale = max(1.0, float(plain.detach().abs().max()))
    assert_close(replayed, plain, atol=2e-5 * scale, rtol=0)
    expected, found = gradients(plain, intervened), gradients(replayed, intervened)
    assert (found - expected).norm() <= 1e-4 * max(1.0, float(expected.norm()))


def test_the_region_holds_the_token_that_predicts_the_answer(tiny):
    model = tiny("gpt2")
    batch = encode(model, ROWS, answers=True)
    for on in ("every", "l1", "f1 of=answer"):
        placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", 0), on)
        edits = IntervenedModel(model, placed).edits(batch)
        starts = first_columns([edit.positions for edit in edits], batch)
        expected = batch.prompt_start if on == "every" else batch.prompt_end - 1
        assert torch.equal(starts, expected)


def test_rows_frozen_apart_are_replayed_together(freeze_batch, decoder):
    placed = Placement(stirred(LoReFT(2, width=32)), Site("resid_post", 1), "l2")
    intervened = IntervenedModel(decoder, placed)
    apart = []
    for row in ROWS:
        batch = encode(decoder, [row], answers=True)
        apart += freeze_batch(decoder, batch, intervened.edits(batch))
    batch = encode(decoder, ROWS, answers=True, padding_side="left")
    edits, at = intervened.edits(batch), answers_at(batch)
    with torch.no_grad():
        plain = run(decoder, batch, edits, at=at)
        replayed = replay(decoder, batch, edits, apart, at)
    assert_close(replayed, plain, atol=2e-5 * float(plain.abs().max()), rtol=0)


def test_an_interchange_replays(freeze_batch, decoder):
    placed = Placement(Interchange(), Site("resid_post", 1), "last")
    intervened = IntervenedModel(decoder, placed)
    batch = encode(decoder, ROWS, answers=True)
    edits = intervened.edits(batch, intervened.read_sources(batch, ["The key", "A", "No, the"]))
    at = answers_at(batch)
    with torch.no_grad():
        plain = run(decoder, batch, edits, at=at)
        replayed = replay(decoder, batch, edits, freeze_batch(decoder, batch, edits), at)
        assert (plain - run(decoder, batch, at=at)).abs().max() > 0.1
    assert_close(replayed, plain, atol=2e-5 * float(plain.abs().max()), rtol=0)


_SIX: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4}
_SIX_AS_IN_GPT2 = {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 128}
# Architectures whose blocks return tuples, of which models take the first.
TUPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "hidden_size": 32,
            "num_layers": 6,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 3]],
            "window_size": WINDOW,
            "max_position_embeddings": 128,
            "intermediate_size": 64,
        },
    ),
    "falcon": ("FalconForCausalLM", _SIX),
    "falcon with alibi": ("FalconForCausalLM", _SIX | {"alibi": True}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 6, "n_head": 4}),
    "gptj": ("GPTJForCausalLM", _SIX_AS_IN_GPT2 | {"rotary_dim": 8}),
    "codegen": ("CodeGenForCausalLM", _SIX_AS_IN_GPT2 | {"rotary_dim": 8}),
    # As many heads as rows: what is one a head is not one a row.
    "mpt": ("MptForCausalLM", {"d_model": 48, "n_layers": 6, "n_heads": len(ROWS)}),
}


@pytest.fixture(scope="module", params=list(TUPLES))
def tuple_decoder(request, tiny_parts) -> TransformerBridge:
    """A random decoder of six layers whose blocks return tuples."""
    name, settings = TUPLES[request.param]
    return wrap_model(*_random(name, settings, tiny_parts), name=f"tiny-{request.param}")


@pytest.mark.parametrize("layer", [0, 1, 3, 5])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_blocks_that_return_tuples_are_passed_over(
    freeze_batch, tuple_decoder, layer, padding_side
):
    model, width = tuple_decoder, tuple_decoder.cfg.d_model
    site = Site("resid_pre", layer)
    placed = Placement(stirred(LoReFT(2, width=width)), site, "l2")
    intervened = IntervenedModel(model, placed)
    batch = encode(model, ROWS, answers=True, padding_side=padding_side)
    edits, at = intervened.edits(batch), answers_at(batch)
    plain = run(model, batch, edits, at=at)
    with torch.no_grad():
        assert (plain - run(model, batch, at=at)).abs().max() > 0.1  # the edits matter
    replayed = replay(model, batch, edits, freeze_batch(model, batch, edits), at)
    assert_close(replayed, plain, atol=2e-5 * float(plain.detach().abs().max()), rtol=0)
    expected, found = gradients(plain, intervened), gradients(replayed, intervened)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_rows_join_at_their_own_layers_where_blocks_return_tuples(freeze_batch, tuple_decoder):
    model, vector = tuple_decoder, torch.linspace(-2, 2, tuple_decoder.cfg.d_model)
    batch = encode(model, ROWS, answers=True, padding_side="left")
    edits, regions = [], []
    for row, layer in enumerate([4, 2, 5]):
        placed = Placement(VectorAddition(vector), Site("resid_pre", layer), "l1")
        (of_all,) = IntervenedModel(model, placed).edits(batch)
        regions.append(freeze_batch(model, batch, [of_all])[row])
        own = of_all.positions.rows == row
        positions = Positions(of_all.positions.rows[own], of_all.positions.columns[own])
        edits.append(replace(of_all, positions=positions))
    at = answers_at(batch)
    with torch.no_grad():
        plain = run(model, batch, edits, at=at)
        replayed = replay(model, batch, edits, regions, at)
        assert (plain - run(model, batch, at=at)).abs().max() > 0.1
    assert_close(replayed, plain, atol=2e-5 * float(plain.abs().max()), rtol=0)


def at_the_same_token(model: TransformerBridge, at: Sequence[int], tokens: int):
    """Rows of so many tokens, each with one of them as its span."""
    text = "The key near the doors is on the table. " * 12
    spans = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"][:tokens]
    prompt = text[: spans[-1][1]]
    return [{"prompt": prompt, "answer": " is", "spans": {"s": list(spans[i])}} for i in at]


_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 1.0,
}


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "OPTForCausalLM", "Phi3ForCausalLM"])
def test_padding_has_no_positions_that_no_row_has(freeze_batch, tiny_parts, name):
    """Of two rows the longer region begins early, so that the other is padded by as much."""
    settings = {
        "GPT2LMHeadModel": CONFIGS["GPT2LMHeadModel"] | {"n_positions": 64},
        "OPTForCausalLM": CONFIGS["OPTForCausalLM"] | {"max_position_embeddings": 64},
        "Phi3ForCausalLM": _GROUPED
        | {"max_position_embeddings": 512, "rope_scaling": _LONGROPE}
        | {"original_max_position_embeddings": 64},
    }
    model = wrap_model(*_random(name, settings[name], tiny_parts), name=f"short {name}")
    generator = torch.Generator().manual_seed(0)
    vector = VectorAddition(torch.randn(32, generator=generator))
    intervened = IntervenedModel(model, Placement(vector, Site("resid_post", 1), "s"))
    batch = encode(model, at_the_same_token(model, [50, 4], 60), answers=True)
    edits, at = intervened.edits(batch), answers_at(batch)
    frozen = freeze_batch(model, batch, edits)
    with torch.no_grad():
        plain = run(model, batch, edits, at=at)
        replayed = replay(model, batch, edits, frozen, at)
    assert_close(replayed, plain, atol=2e-5 * float(plain.abs().max()), rtol=0)


def test_only_decoders_are_replayed(tiny_model):
    assert can_replay(tiny_model) == (tiny_model.cfg.model_name != "tiny-bert")


def test_memory_is_foretold_to_the_byte(freeze_batch, decoder):
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_pre", 1), "l2")
    batch = encode(decoder, ROWS, answers=True)
    frozen = freeze_batch(decoder, batch, IntervenedModel(decoder, placed).edits(batch))
    tensors = [t for row in frozen for t in (row.stream, *row.keys, *row.values)]
    prefix = sum(row.start for row in frozen)
    suffix = sum(len(row.stream) for row in frozen)
    expected = sum(t.numel() * t.element_size() for t in tensors)
    assert frozen_bytes(decoder, [1], prefix, suffix) == expected


@pytest.mark.parametrize(("longest", "replays"), [(60, True), (70, False)])
def test_rows_whose_angles_are_those_of_longer_ones_run_in_full(tiny_parts, longest, replays):
    settings = _GROUPED | {
        "max_position_embeddings": 512,
        "rope_scaling": _LONGROPE,
        "original_max_position_embeddings": 64,
    }
    model = wrap_model(*_random("Phi3ForCausalLM", settings, tiny_parts), name="longrope")
    vector = VectorAddition(torch.ones(32))
    intervened = IntervenedModel(model, Placement(vector, Site("resid_post", 1), "last"))
    plan = intervened.plan(at_the_same_token(model, [4, 4], longest))
    assert plan.replays is replays
    assert replays or "and beyond 64 the model's rotary angles are those" in plan.reason


def test_angles_that_no_length_changes_have_no_limit(tiny):
    assert [length_of_other_angles(tiny(name)) for name in ("llama", "gpt2", "gemma2")] == [
        None
    ] * 3
