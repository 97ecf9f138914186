"""peft's methods on a plain copy of the model: the same loss, and the bridge stays what it is."""

import copy
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from reft_interp.interop.peft_methods import PEFT, dora, ia3, lora, prefix_tuning, prompt_tuning
from reft_interp.interop.plain_finetuning import BitFit, PlainFinetuned
from reft_interp.interventions import DistributedInterchange, LoReFT
from reft_interp.models import wrap_model
from reft_interp.models.plain import plain_copy
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import TrainingStopped
from reft_interp.training.finetuning import Schedule
from reft_interp.training.prompting import Prompted
from reft_interp.training.reft_method import ReFT

peft = pytest.importorskip("peft")

ROWS = [
    {"prompt": prompt, "answer": answer}
    for prompt, answer in [
        ("The key near the doors", " is"),
        ("The keys to the old cabinet in the drawer", " are"),
        ("No", " good"),
        ("Paris is a city in", " France and Japan"),
    ]
]
GREEDY = {"max_new_tokens": 3, "do_sample": False}


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_adapters_start_at_the_untouched_model(tiny, architecture):
    model = tiny(architecture)
    adapted = lora(4).adapt(model)
    assert adapted.loss(ROWS) == pytest.approx(Prompted(model).loss(ROWS), abs=1e-5)
    untouched = Prompted(model).generate(ROWS, batch_size=2, **GREEDY)
    assert adapted.generate(ROWS, batch_size=3, **GREEDY) == untouched


def bridge_of(architecture: str, tokenizer: Any, **sizes: Any) -> Any:
    """A tiny random model of an architecture that peft has no target modules for."""
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    config.architectures = [f"{architecture}ForCausalLM"]
    torch.manual_seed(0)
    plain = getattr(transformers, config.architectures[0])(config).eval()
    return wrap_model(plain, tokenizer, name=architecture)


ATTENDS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("architecture", "method", "expected"),
    [
        # Rank times input and output: queries are 32 -> 32, values 32 -> 16.
        ("Olmo2", lora(4), {"q_proj": 4 * (32 + 32), "v_proj": 4 * (32 + 16)}),
        ("Olmo2", dora(4), {"q_proj": 4 * (32 + 32) + 32, "v_proj": 4 * (32 + 16) + 16}),
        ("Olmo2", ia3(), {"k_proj": 16, "v_proj": 16, "down_proj": 64}),
        # Queries, keys and values in one matrix, 32 -> 32 + 16 + 16.
        ("Phi3", lora(4), {"qkv_proj": 4 * (32 + 64)}),
        ("Phi3", ia3(), {"qkv_proj": 64, "down_proj": 64}),
    ],
)
def test_an_architecture_that_peft_does_not_know_is_adapted_at_the_usual_layers(
    tiny_parts, architecture, method, expected
):
    model = bridge_of(architecture, tiny_parts("llama")[1], **ATTENDS)
    with pytest.raises(ValueError, match="Please specify `target_modules`"):  # peft itself
        peft.get_peft_model(plain_copy(model), copy.deepcopy(method.config))
    adapted = method.adapt(model)
    found = dict.fromkeys(expected, 0)
    for name, parameter in adapted.adapted.named_parameters():
        if parameter.requires_grad:
            (layer,) = found.keys() & set(name.split("."))
            found[layer] += parameter.numel()
    assert found == {layer: 2 * count for layer, count in expected.items()}  # two blocks
    assert adapted.loss(ROWS) == pytest.approx(Prompted(model).loss(ROWS), abs=1e-5)
    assert method.config.target_modules is None  # another model may have other layers


@pytest.mark.parametrize(
    "method", [lora(2), dora(2), prompt_tuning(2), BitFit()], ids=lambda method: method.name
)
def test_a_decoders_own_dropout_is_off_where_a_plain_copy_is_trained(tiny, method):
    model = tiny("gpt2")
    assert model.original_model.config.resid_pdrop > 0
    adapted = method.adapt(model)
    batch = encode(model, ROWS, answers=True)
    adapted.train()
    once, again = (float(adapted(batch, batch.labels)["loss"].detach()) for _ in range(2))
    assert once == again
    adapted.eval()
    assert float(adapted(batch, batch.labels)["loss"].detach()) == once


def test_dropout_of_adapters_is_on_when_they_are_trained(tiny):
    adapted = lora(2, dropout=0.5).adapt(tiny("gpt2"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1.0)
    batch = encode(tiny("gpt2"), ROWS, answers=True)
    adapted.train()
    with torch.random.fork_rng():
        once, again = (float(adapted(batch, batch.labels)["loss"].detach()) for _ in range(2))
    assert once != again


def adapted_layers(adapted: Any) -> set[str]:
    names = [n for n, p in adapted.adapted.named_parameters() if p.requires_grad]
    return {part for name in names for part in name.split(".") if part.endswith("_proj")}


@pytest.mark.parametrize("method", [lora(2), dora(2)], ids=lambda method: method.name)
def test_fused_experts_leave_the_attention_to_adapt(tiny, method):
    model = tiny("mixtral")
    with pytest.raises(ValueError, match="No `target_modules` passed"):  # peft itself
        peft.get_peft_model(plain_copy(model), copy.deepcopy(method.config))
    adapted = method.adapt(model)
    assert adapted_layers(adapted) == {"q_proj", "v_proj"}
    given = replace(method.config, target_modules=["q_proj", "v_proj"])
    assert adapted.trained_parameters == PEFT(given).adapt(model).trained_parameters
    assert adapted.loss(ROWS) == pytest.approx(Prompted(model).loss(ROWS), abs=1e-5)


def test_layers_of_pefts_that_the_model_lacks_are_named(tiny):
    with pytest.warns(
        UserWarning, match="IA3: mixtral has no w2 as a layer .*k_proj, v_proj alone"
    ):
        adapted = ia3().adapt(tiny("mixtral"))
    assert adapted_layers(adapted) == {"k_proj", "v_proj"}


def test_names_of_pefts_that_match_nothing_give_way_to_the_usual_layers(tiny, monkeypatch):
    known = {"llama": ["query", "value"]}
    monkeypatch.setattr("peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", known)
    assert adapted_layers(lora(2).adapt(tiny("llama"))) == {"q_proj", "v_proj"}


@pytest.mark.parametrize("method", [lora(2), ia3()], ids=lambda method: method.name)
def test_an_architecture_without_the_usual_layers_is_an_error_that_says_what_to_give(
    tiny_parts, method
):
    model = bridge_of("Mamba", tiny_parts("llama")[1], state_size=4)
    with pytest.raises(ValueError, match=r"no target modules for MambaF.*target_modules=\["):
        method.adapt(model)
    assert lora(2, target_modules=["x_proj"]).adapt(model).trained_parameters > 0


@pytest.mark.parametrize(
    "method",
    [lora(4), dora(4), ia3(), prompt_tuning(3), prefix_tuning(3), PEFT(peft.LoHaConfig(r=2))],
    ids=lambda method: method.name,
)
def test_training_lowers_the_loss_and_leaves_the_bridge_alone(tiny, tmp_path, method):
    model = tiny("llama")
    before = {name: p.clone() for name, p in model.original_model.named_parameters()}
    started = method.fit(model, ROWS, Schedule(1, learning_rate=1e-12)).finetuned.loss(ROWS)
    fit: Any = method.fit(
        model, ROWS, Schedule(15, 4, learning_rate=1e-2), development=ROWS, measured_after=(5, 15)
    )
    assert fit.finetuned.loss(ROWS) < started - 0.02
    assert fit.curve[-1][2] == pytest.approx(fit.finetuned.loss(ROWS), abs=1e-5)
    assert fit.seconds > 0
    for name, p in model.original_model.named_parameters():
        assert torch.equal(p, before[name]), name
        assert not p.requires_grad
    fit.finetuned.save(tmp_path)
    assert list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("method", [prompt_tuning(3), prefix_tuning(3)], ids=lambda m: m.name)
def test_learned_prompts_answer_in_a_batch_as_alone(tiny, method):
    fit: Any = method.fit(tiny("llama"), ROWS, Schedule(15, 4, learning_rate=3e-2))
    together = fit.finetuned.generate(ROWS, batch_size=4, **GREEDY)
    assert together == [fit.finetuned.generate([r], batch_size=1, **GREEDY)[0] for r in ROWS]


def test_another_seed_ends_elsewhere_and_the_same_one_does_not(tiny):
    losses = [
        lora(2).fit(tiny("llama"), ROWS, Schedule(3, 2, 1e-2, seed=seed)).finetuned.loss(ROWS)
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_interventions_beside_adapters_edit_as_in_the_bridge(tiny, architecture):
    model = tiny(architecture)
    both = PEFT(peft.LoraConfig(r=2), reft=ReFT(LoReFT(rank=2), (0, 1), "f1+l1"))
    torch.manual_seed(0)
    adapted = both.adapt(model)  # adapters begin at nothing
    assert both.name == "Lora and LoReFT"
    with torch.no_grad():
        for parameter in adapted.interventions.parameters():
            parameter.normal_()
    intervened = IntervenedModel(model, adapted.placements)
    batch = encode(model, ROWS, answers=True)
    assert adapted.loss(ROWS) == pytest.approx(float(intervened(batch)["loss"].detach()), abs=1e-4)
    assert adapted.generate(ROWS, batch_size=4, **GREEDY) == intervened.generate(ROWS, **GREEDY)
    assert abs(adapted.loss(ROWS) - Prompted(model).loss(ROWS)) > 0.05


def test_both_are_trained_and_saved(tiny, tmp_path):
    model = tiny("llama")
    both = replace(lora(2), reft=ReFT(LoReFT(rank=2), (1,), "l1"), name="both")
    fit: Any = both.fit(model, ROWS, Schedule(10, 4, learning_rate=1e-2))
    adapters = lora(2).adapt(model).trained_parameters
    assert fit.finetuned.trained_parameters == adapters + (2 * 32 + 2 * 32 + 2)
    assert fit.finetuned.loss(ROWS) < Prompted(model).loss(ROWS) - 0.02
    fit.finetuned.save(tmp_path)
    loaded: Any = IntervenedModel.load(tmp_path / "reft", model).placements[0].intervention
    (placed,) = fit.finetuned.placements
    assert torch.equal(loaded.rows(), placed.intervention.rows())


def test_prompts_that_peft_learns_have_no_interventions_beside_them():
    beside = ReFT(LoReFT(rank=2), (1,), "f1")
    with pytest.raises(ValueError, match="PromptTuningConfig puts tokens of its own before"):
        replace(prompt_tuning(4), reft=beside)


def test_an_intervention_that_reads_a_source_has_no_place_beside_adapters(tiny):
    swap = DistributedInterchange(Subspace.random(32, 1, seed=0), trainable=True)
    with pytest.raises(ValueError, match="must edit resid_post and read no source, got Distrib"):
        PEFT(peft.LoraConfig(r=2), reft=ReFT(swap, (0,), "l1")).adapt(tiny("llama"))
    placed = Placement(LoReFT(rank=1), Site("mlp_out", 0), "last")
    with pytest.raises(ValueError, match="must edit resid_post"):
        PEFT(
            peft.LoraConfig(r=2), reft=ReFT(placed.intervention, (0,), "l1", component="mlp_out")
        ).adapt(tiny("llama"))


def test_bitfit_trains_the_biases_alone(tiny):
    model = copy.deepcopy(tiny("gpt2"))
    held = plain_copy(model)
    fit: Any = BitFit().fit(model, ROWS, Schedule(10, 4, learning_rate=1e-2))
    assert fit.finetuned.loss(ROWS) < Prompted(model).loss(ROWS) - 0.02
    changed = dict(fit.finetuned.adapted.named_parameters())
    for name, p in held.named_parameters():
        assert torch.equal(p, changed[name]) != name.endswith("bias"), name
    with pytest.raises(ValueError, match="BitFit trains biases, and tiny-llama"):
        BitFit().fit(tiny("llama"), ROWS, Schedule(1))


def test_small_steps_move_biases_of_a_model_in_half_precision(tiny_parts, tmp_path):
    plain, tokenizer = tiny_parts("gpt2")
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith("bias"):  # of numbers between which bfloat16 has gaps
                parameter.copy_(torch.randn_like(parameter))
    model = wrap_model(plain.bfloat16(), tokenizer, name="half")
    held = {n: p.clone() for n, p in plain_copy(model).named_parameters() if n.endswith("bias")}
    found: Any = BitFit().fit(model, ROWS, Schedule(10, 4, learning_rate=1e-4)).finetuned
    assert found.trained_parameters == sum(p.numel() for p in held.values())
    found.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == held.keys()
    moved = [saved[name].float() != before.float() for name, before in held.items()]
    # Keys' biases change no attention.
    assert torch.cat([one.flatten() for one in moved]).float().mean() > 0.9
    # What is trained is rounded as the model computes, by hand:
    by_hand = copy.deepcopy(plain_copy(model))
    by_hand.load_state_dict(saved, strict=False)
    ids = torch.tensor([tokenizer("The key near the doors")["input_ids"]])
    assert torch.equal(found.adapted(input_ids=ids).logits, by_hand(input_ids=ids).logits)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    for name, parameter in plain_copy(model).named_parameters():
        assert name not in held or torch.equal(parameter, held[name]), name


def test_a_loss_that_is_no_number_ends_the_training(tiny):
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        model.ln_final.weight.fill_(torch.nan)
    told = "the loss became nan at step 1, in row.* whether the model gives numbers at all"
    with pytest.raises(TrainingStopped, match=told) as caught:
        lora(2).fit(model, ROWS, Schedule(2, 4, learning_rate=1e-3))
    assert sorted(caught.value.rows) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", [lora(2), BitFit()])
def test_a_row_without_a_number_is_named(make_tiny, method):
    model = make_tiny("gpt_neox")
    token = model.tokenizer("Paris")["input_ids"][-1]
    with torch.no_grad():
        model.embed.weight[token] = torch.nan
    rows = [*ROWS, {"prompt": "No", "answer": " door"}]
    with pytest.raises(TrainingStopped, match=r"loss became nan at .* in row\(s\) 3 of") as caught:
        method.fit(model, rows, Schedule(5, 2, learning_rate=1e-3))
    assert caught.value.rows == [3]


def test_a_method_trains_in_one_process(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"LoRA runs in one process, .* started 2 together"):
        lora(2).fit(tiny("llama"), ROWS, Schedule(1))


def test_a_row_that_is_too_long_is_named_by_its_place_in_the_data(tiny):
    long = {"prompt": "The key" * 130, "answer": " is"}
    with pytest.raises(ValueError, match=r"rows: row 4 has \d+ tokens .*tiny-llama can read 128"):
        lora(2).fit(tiny("llama"), [*ROWS, long], Schedule(2, 2))


def test_new_tokens_that_learned_positions_leave_no_room_for_are_refused(tiny):
    told = r"max_new_tokens must be at most \d+ after a prompt of \d+ tokens, .*got 128"
    with pytest.raises(ValueError, match=told):
        lora(2).adapt(tiny("gpt2")).generate(ROWS, batch_size=2, max_new_tokens=128)


def test_what_makes_a_method_another_one_is_json(tiny):
    assert lora(2).describe() != lora(4).describe()
    assert PlainFinetuned(tiny("llama"), plain_copy(tiny("llama"))).trained_parameters == 0


def test_without_peft_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "reft-interp\[peft\]"'):
        lora(2)
