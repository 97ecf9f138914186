"""Models whose layers are on several devices of one process. The second device is a pretended one
(`pretended_device`): it refuses what a GPU refuses, and computes what the CPU computes."""

from collections.abc import Iterator

import pytest
import torch
from pretended_device import SECOND, OnSecond, second_device, spread
from tiny_models import tiny_parts
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaForCausalLM, TrainingArguments

import reft_interp as ri
from reft_interp.interop.peft_methods import lora
from reft_interp.models import load_model, plain, spreading, untrained, wrap_model
from reft_interp.models.devices import devices_of_attention
from reft_interp.probing.tokens import promoted_tokens
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.training.finetuning import Schedule
from reft_interp.training.processes import check_processes

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]

ROWS = [
    {"prompt": f"The {word} near the {other}", "answer": " are" if word.endswith("s") else " is"}
    for word in ("key", "keys", "door", "doors")
    for other in ("cars", "old film")
]
PROMPTS = [str(row["prompt"]) for row in ROWS]
SITES = [ri.Site("resid_post", layer) for layer in range(4)]
DECODERS = ["llama", "gpt_neox", "qwen2", "gemma2", "gpt2", "mixtral"]


def parts(architecture: str):
    deeper = {"n_layer": 4} if architecture == "gpt2" else {"num_hidden_layers": 4}
    return tiny_parts(architecture, **deeper)


@pytest.fixture(params=DECODERS)
def both(request) -> Iterator[tuple[TransformerBridge, TransformerBridge]]:
    """The same model on one device and on two."""
    yield from _both(request.param)


@pytest.fixture
def llamas() -> Iterator[tuple[TransformerBridge, TransformerBridge]]:
    yield from _both("llama")


def _both(architecture: str) -> Iterator[tuple[TransformerBridge, TransformerBridge]]:
    hf_model, tokenizer = parts(architecture)
    with second_device():
        yield (
            wrap_model(*parts(architecture), name="whole"),
            wrap_model(spread(hf_model), tokenizer, name="spread"),
        )


def placed(bridge: TransformerBridge) -> ri.IntervenedModel:
    """LoReFT on both devices and where they meet."""
    return ri.IntervenedModel(
        bridge,
        [
            ri.Placement(ri.LoReFT(start=ri.Subspace.random(32, 2, seed=1)), site, "f1+l1")
            for site in SITES
        ],
    )


def test_a_device_refuses_what_is_on_the_other():
    with second_device():
        here, there = torch.ones(2), torch.ones(2).to(SECOND)
        assert (there.device, (there + 1).device) == (SECOND, SECOND)
        assert torch.equal((there + 1).to("cpu"), here + 1)
        with pytest.raises(RuntimeError, match="on tensors of cpu, cpu:1"):
            torch.add(here, there)


def test_the_layers_are_on_two_devices(both):
    _, two = both
    assert devices_of_attention(two) == [torch.device("cpu")] * 2 + [SECOND] * 2


@pytest.mark.parametrize("engine", ["auto", "full"])
def test_gradients_are_those_of_one_device(both, engine):
    losses, gradients = [], []
    for bridge in both:
        intervened = placed(bridge)
        prepared = PreparedRows(intervened, ROWS, engine=engine)
        loss = intervened(**prepared.inputs(range(len(ROWS))))["loss"]
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in intervened.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert len(gradients[0]) == len(gradients[1]) == 12
    for one, two in zip(*gradients, strict=True):
        assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_replay_begins_at_either_device(llamas, layer):
    shared = "The author near the cars was reading a long book. The author near the cars: "
    rows = [{**row, "prompt": f"{shared}{row['prompt']}"} for row in ROWS]
    found = []
    for bridge in llamas:
        at = ri.Placement(ri.LoReFT(start=ri.Subspace.random(32, 2, seed=1)), SITES[layer], "l1")
        intervened = ri.IntervenedModel(bridge, at)
        prepared = PreparedRows(intervened, rows)
        assert prepared.plan.replays, prepared.plan.reason
        inputs = prepared.inputs(range(len(rows)))
        assert inputs["frozen"] is not None
        found.append(intervened(**inputs)["loss"].item())
        found.append(intervened(**{**inputs, "frozen": None})["loss"].item())
    assert found == pytest.approx([found[0]] * 4, rel=1e-5)


def test_training_ends_with_the_weights_of_one_device(llamas, tmp_path):
    trained = []
    for i, bridge in enumerate(llamas):
        intervened = placed(bridge)
        ri.train(intervened, ROWS, epochs=3, learning_rate=1e-2, batch_size=4, progress=False)
        intervened.save(tmp_path / str(i))
        trained.append(dict(intervened.named_parameters()))
        again = ri.IntervenedModel.load(tmp_path / str(i), bridge)
        assert torch.equal(again.logits(PROMPTS), intervened.logits(PROMPTS))
    assert trained[0].keys() == trained[1].keys()
    for name, weight in trained[0].items():
        assert_close(trained[1][name], weight, rtol=1e-4, atol=1e-5)
        assert not isinstance(trained[1][name], OnSecond)


def test_continuations_are_those_of_one_device(both):
    for when in ("prompt", "every token"):
        one, two = (
            placed(bridge).generate(PROMPTS[:3], when=when, max_new_tokens=3) for bridge in both
        )
        assert one == two


def test_interchange_and_reading_are_those_of_one_device(both):
    found = []
    for bridge in both:
        swap = [ri.Placement(ri.Interchange(32), site, "last") for site in SITES[1:3]]
        swapped = ri.IntervenedModel(bridge, swap).logits(PROMPTS[:4], PROMPTS[4:])
        read = ri.activations(bridge, PROMPTS, SITES[3], "last")
        found.append((swapped, read))
    for one, two in zip(*found, strict=True):
        assert not isinstance(two, OnSecond)
        assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_choices_are_scored_as_on_one_device(llamas):
    rows = [{**row, "choices": [" is", " are"]} for row in ROWS]
    one, two = (ri.accuracy(placed(bridge), rows) for bridge in llamas)
    assert one == two


def test_das_finds_what_it_finds_on_one_device(llamas):
    pairs = [
        {
            "base": base["prompt"],
            "source": source["prompt"],
            "base_answer": base["answer"],
            "source_answer": source["answer"],
            "label": source["answer"],
            "choices": [" is", " are"],
        }
        for base, source in zip(ROWS, reversed(ROWS), strict=True)
    ]
    one, two = (
        ri.fit_das(bridge, pairs, SITES[2], "last", rank=2, epochs=2, progress=False).subspace
        for bridge in llamas
    )
    assert one.overlap(two) == pytest.approx(1, abs=1e-4)


def test_what_directions_promote_is_read_on_the_last_device(both):
    one, two = (promoted_tokens(bridge, torch.eye(32)[:2]) for bridge in both)
    assert one.equals(two)


def test_a_plain_copy_is_spread_alike(llamas, monkeypatch):
    moved = []
    monkeypatch.setattr(
        spreading, "dispatch_model", lambda model, where: (moved.append(where), spread(model))[1]
    )
    one, two = (plain.plain_copy(bridge) for bridge in llamas)
    assert moved == [llamas[1].original_model.hf_device_map]
    ids = torch.arange(5, 11)[None]
    assert_close(one(ids).logits, two(ids).logits)


def test_lora_trains_as_on_one_device(llamas, monkeypatch):
    monkeypatch.setattr(spreading, "dispatch_model", lambda model, where: spread(model))
    losses = [
        lora(2).fit(bridge, ROWS, Schedule(3, 4, 1e-2, seed=0)).finetuned.loss(ROWS)
        for bridge in llamas
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_an_untrained_copy_is_spread_alike(llamas, monkeypatch):
    monkeypatch.setattr(spreading, "dispatch_model", lambda model, where: spread(model))
    one, two = (untrained.untrained_copy(bridge, seed=3) for bridge in llamas)
    assert devices_of_attention(two)[-1] == SECOND
    ids = torch.arange(5, 11)[None]
    assert_close(one(ids), two(ids))


def test_several_processes_do_not_train_on_one_that_is_spread(llamas, tmp_path, monkeypatch):
    settings = TrainingArguments(str(tmp_path), use_cpu=True)
    check_processes(llamas[1], settings)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match=r"several devices \(device_map\), and 2 processes"):
        check_processes(llamas[1], settings)
    check_processes(llamas[0], settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("model")
    hf_model, tokenizer = parts("llama")
    hf_model.save_pretrained(at)
    tokenizer.save_pretrained(at)
    return at


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_the_map_reaches_transformers(folder, device_map, monkeypatch):
    given = []
    plainly = LlamaForCausalLM.from_pretrained

    def from_pretrained(name, **options):
        given.append(options["device_map"])
        return plainly(name, **options)

    with monkeypatch.context() as patched:
        patched.setattr(LlamaForCausalLM, "from_pretrained", from_pretrained)
        bridge = load_model(folder, device_map=device_map)
    assert given == [device_map]
    ids = torch.arange(5, 11)[None]
    assert torch.equal(bridge(ids), load_model(folder, device="cpu")(ids))


def test_what_says_twice_where_weights_go_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="device_map says where weights go, got device='cpu'"):
        load_model(folder, device="cpu", device_map="auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="among processes, got device_map too"):
        load_model(folder, device_map="auto", sharded=True)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"model.gguf is a file"):
        load_model(tmp_path / "model.gguf", device_map="auto")


def test_weights_that_no_device_has_room_for_are_refused(folder, tmp_path):
    on_disk = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    on_disk |= {"model.norm": "cpu", "model.layers": "disk"}
    with pytest.raises(ValueError, match=r"device_map: model.embed_tokens and 4 other modules"):
        load_model(folder, device_map=on_disk)


def test_a_map_that_transformers_cannot_read_is_refused(folder):
    with pytest.raises(ValueError, match="device_map"):
        load_model(folder, device_map="everywhere")
