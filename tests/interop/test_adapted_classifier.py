"""A classifier on an adapted plain encoder begins as the one on the frozen bridge."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from labelled_sentences import sentences
from torch.testing import assert_close

from reft_interp.interop import push_to_hub
from reft_interp.interop.adapted_classifier import AdaptedClassifier
from reft_interp.interop.peft_methods import PEFT, dora, ia3, lora, prefix_tuning, prompt_tuning
from reft_interp.interop.plain_finetuning import BitFit, copy_to_train
from reft_interp.interventions import LoReFT
from reft_interp.runtime import IntervenedModel
from reft_interp.training import Classifier, ReFT
from reft_interp.training.finetuning import Schedule

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.usefixtures("long_training")

CHOICES = [" no", " yes"]
ROWS: list[Any] = [
    {**row, "choices": CHOICES, "answer": CHOICES[i % 4 == 0]} for i, row in enumerate(sentences(8))
]
SINGLE: list[Any] = [{**row, "text_b": None} for row in ROWS]


@pytest.fixture(scope="module")
def hooked(make_encoder):
    return {name: make_encoder(name) for name in ("bert", "roberta")}.__getitem__


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_adapters_begin_at_the_untouched_states(hooked, architecture):
    model = hooked(architecture)
    expected = Classifier(model, 2).states(ROWS)
    for method in (lora(2), dora(2), ia3(), BitFit()):
        adapted = AdaptedClassifier(model, method.adapt(model), 2)
        assert_close(adapted.states(ROWS), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_interventions_beside_adapters_edit_as_in_the_bridge(hooked, architecture):
    model = hooked(architecture)
    both = PEFT(peft.LoraConfig(r=2), reft=ReFT(LoReFT(rank=2), (0, 1), "f2+l1"))
    adapted = AdaptedClassifier(model, both.adapt(model), 2)
    with torch.no_grad():
        for parameter in adapted.adapted.interventions.parameters():
            parameter.normal_()
    expected = Classifier(IntervenedModel(model, adapted.adapted.placements), 2).states(ROWS)
    assert_close(adapted.states(ROWS), expected, atol=1e-4, rtol=0)
    assert (expected - Classifier(model, 2).states(ROWS)).abs().max() > 0.1


def test_as_many_numbers_are_trained_as_there_are(hooked):
    model = hooked("bert")  # 2 blocks, 32 wide, 64 inside

    def counted(method) -> int:
        return AdaptedClassifier(model, method.adapt(model), 3).intervention_parameters

    assert counted(lora(4)) == 2 * 2 * 4 * (32 + 32)  # queries and values
    assert counted(dora(4)) == 2 * 2 * (4 * (32 + 32) + 32)
    # Queries, keys, values, output, the MLP's two, two norms in a block; that of the embeddings.
    assert counted(BitFit()) == 2 * (4 * 32 + 64 + 32 + 2 * 32) + 32
    assert counted(prompt_tuning(5)) == 5 * 32
    assert counted(prefix_tuning(5)) == 5 * 2 * 2 * 32
    both = replace(lora(4), reft=ReFT(LoReFT(rank=1), (0, 1), "f1"))
    assert counted(both) == counted(lora(4)) + 2 * (32 + 32 + 1)
    head = AdaptedClassifier(model, BitFit().adapt(model), 3)
    assert head.head_parameters == (32 * 32 + 32) + (32 * 3 + 3)
    assert head.trained_parameters == head.head_parameters + head.intervention_parameters


@pytest.mark.parametrize(
    ("architecture", "method"),
    [
        ("bert", lora(2)),
        ("roberta", BitFit()),
        ("roberta", prompt_tuning(3)),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_training_lowers_the_loss_and_leaves_the_bridge_alone(
    hooked, tmp_path, architecture, method
):
    model = hooked(architecture)
    before = {name: p.clone() for name, p in model.original_model.named_parameters()}
    start: Any = method.fit(model, ROWS, Schedule(1, learning_rate=1e-12)).finetuned
    fit: Any = method.fit(
        model, ROWS, Schedule(8, 8, learning_rate=3e-2), development=ROWS, measured_after=(8,)
    )
    assert fit.finetuned.loss(ROWS) < start.loss(ROWS) - 0.05
    assert fit.curve[-1][2] == pytest.approx(fit.finetuned.loss(ROWS), abs=1e-5)
    adapted = [p for p in start.classifier.adapted.parameters() if p.requires_grad]
    moved = [p for p in fit.finetuned.classifier.adapted.parameters() if p.requires_grad]
    assert adapted and all((a - b).abs().max() > 1e-4 for a, b in zip(adapted, moved, strict=True))
    for name, p in model.original_model.named_parameters():
        assert torch.equal(p, before[name]) and not p.requires_grad, name
    fit.finetuned.save(tmp_path)
    assert (tmp_path / "head.safetensors").is_file() and not list(tmp_path.rglob("*.bin"))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_the_encoders_own_dropout_is_off_while_it_trains(hooked):
    model = hooked("bert")
    assert model.original_model.config.hidden_dropout_prob == 0.1
    adapted = AdaptedClassifier(model, lora(2).adapt(model), 2).train()
    batch = adapted._encode([{"prompt": "the key is old"}])
    assert torch.equal(adapted.state(batch), adapted.state(batch))
    assert not torch.equal(adapted(["the key"]), adapted(["the key"]))  # the head's is on
    assert copy_to_train(model).config.hidden_dropout_prob == 0.0
    assert model.original_model.config.hidden_dropout_prob == 0.1


@pytest.mark.parametrize("method", [prompt_tuning(2), prefix_tuning(2)], ids=lambda m: m.name)
def test_token_types_that_peft_leaves_out_are_missed(hooked, method):
    with pytest.raises(ValueError, match=r"peft leaves out token types .*tiny-bert tells two tex"):
        method.fit(hooked("bert"), ROWS, Schedule(1))
    # Of single texts all are 0, which is what they are without.
    adapted = AdaptedClassifier(hooked("bert"), method.adapt(hooked("bert")), 2)
    alone = torch.cat([adapted.states([row]) for row in SINGLE])
    assert_close(adapted.states(SINGLE), alone, atol=1e-5, rtol=0)


def test_what_is_saved_of_peft_is_loaded_beside_transformers_own_encoder(hooked, tmp_path):
    model = hooked("roberta")
    fit: Any = lora(2).fit(model, ROWS, Schedule(3, 8, learning_rate=1e-2))
    fit.finetuned.save(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy_to_train(model), str(tmp_path)).eval()
    batch = fit.finetuned.classifier._encode([{"prompt": "the key is old"}])
    with torch.no_grad():
        states = loaded(batch.input_ids, batch.attention_mask).last_hidden_state[:, 0]
        assert_close(states, fit.finetuned.classifier.state(batch), atol=1e-5, rtol=0)


def test_what_its_files_cannot_do_is_refused(hooked, tmp_path):
    model = hooked("bert")
    adapted = AdaptedClassifier(model, BitFit().adapt(model), 2)
    with pytest.raises(ValueError, match="notes have no place among the files of an adapted"):
        adapted.save(tmp_path, {"rows": 8})
    assert not list(tmp_path.iterdir())
    adapted.save(tmp_path)
    with pytest.raises(TypeError, match=r"load: what an .* PeftModel.from_pretrained .* head\.saf"):
        AdaptedClassifier.load(tmp_path, model)
    with pytest.raises(TypeError, match=r"load_weights: what an adapted encoder's `save` writes"):
        adapted.load_weights(tmp_path)
    with pytest.raises(TypeError, match="an adapted encoder is shared by peft's own push_to_hub"):
        push_to_hub(adapted, "someone/number")
