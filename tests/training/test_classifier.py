"""A classifier computes what transformers' own model computes under forward hooks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled_sentences import sentences
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_encoders import TOKENIZERS, tiny_encoder
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import RobertaConfig
from transformers.models.roberta.modeling_roberta import RobertaClassificationHead

from reft_interp import saved_files
from reft_interp.interventions import Interchange, LoReFT
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import Classifier
from reft_interp.training.heads import DenseHead

START = Subspace.random(32, 2, seed=3)
ROWS = sentences(6)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
ARCHITECTURES = pytest.mark.parametrize("architecture", [*TOKENIZERS, "llama", "gpt2"])


def moving(seed: int) -> LoReFT:
    """A LoReFT that has moved away from doing nothing."""
    reft = LoReFT(start=START)
    generator = torch.Generator().manual_seed(seed)
    value: Any = reft.value
    with torch.no_grad():
        value.weight += torch.randn(2, 32, generator=generator) / 4
        value.bias += torch.randn(2, generator=generator)
    return reft


def placed(model, on="f3+l1") -> IntervenedModel:
    return IntervenedModel(
        model, [Placement(moving(layer), Site("resid_post", layer), on) for layer in (0, 1)]
    )


def classifier(model, classes: int | None = 3, **options: Any) -> Classifier:
    torch.manual_seed(0)
    made = Classifier(placed(model), classes, **options)
    with torch.no_grad():  # a head that begins near zero would hide differences
        for parameter in made.head.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    return made


@pytest.fixture
def parts(make_encoder, tiny, tiny_parts):
    """`parts(architecture)`: a hooked model, and the same one as transformers has it."""

    def make(architecture: str):
        if architecture in TOKENIZERS:
            return make_encoder(architecture), *tiny_encoder(architecture)
        return tiny(architecture), *tiny_parts(architecture)

    return make


def by_hand(own, tokenizer, architecture: str, made: Classifier) -> torch.Tensor:
    """Row by row, so without padding: transformers' model, hooks on its layers, the formulas."""
    outputs = []
    assert made.intervened is not None

    def edit(layer: int):
        reft: Any = made.intervened.interventions[layer]  # pyright: ignore[reportOptionalMemberAccess]
        R, W, b = reft.rows(), reft.value.weight, reft.value.bias

        def hook(module, inputs, output):
            h = output[0] if isinstance(output, tuple) else output
            edited = h + (h @ W.T + b - h @ R.T) @ R
            h = torch.cat([edited[:, :3], h[:, 3:-1], edited[:, -1:]], dim=1)
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return hook

    base = {"bert": "bert", "roberta": "roberta", "llama": "model", "gpt2": "transformer"}
    stack = getattr(own, base[architecture])
    layers = {"llama": "layers", "gpt2": "h"}
    blocks = getattr(stack, layers[architecture]) if architecture in layers else stack.encoder.layer
    hooks = [block.register_forward_hook(edit(layer)) for layer, block in enumerate(blocks)]
    try:
        for row in ROWS:
            pair = architecture in TOKENIZERS
            texts = (row["text_a"], row["text_b"]) if pair else (row["prompt"],)
            last = stack(**tokenizer(*texts, return_tensors="pt")).last_hidden_state[0]
            head = dict(made.head.named_parameters())
            if pair:
                inner = torch.tanh(last[0] @ head["dense.weight"].T + head["dense.bias"])
            else:
                inner = last[-1]
            outputs.append(inner @ head["out_proj.weight"].T + head["out_proj.bias"])
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(outputs)


@ARCHITECTURES
def test_outputs_and_gradients_are_those_of_transformers_own_model(parts, architecture):
    model, own, tokenizer = parts(architecture)
    made = classifier(model)
    outputs, expected = made(ROWS), by_hand(own, tokenizer, architecture, made)
    assert_close(outputs, expected, atol=1e-5, rtol=0)
    names = [name for name, _ in made.named_parameters()]
    found, wanted = (
        torch.autograd.grad(cross_entropy(of, LABELS), list(made.parameters()))
        for of in (outputs, expected)
    )
    for name, one, two in zip(names, found, wanted, strict=True):
        assert_close(one, two, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert one.abs().max() > 1e-4, name
    # The edits do something, and so does each text of a pair.
    without = Classifier(model, 3)
    without.head.load_state_dict(made.head.state_dict())
    assert (without(ROWS) - outputs).abs().max() > 0.01


@ARCHITECTURES
def test_gradients_reach_the_head_and_the_interventions_and_nothing_else(parts, architecture):
    model, *_ = parts(architecture)
    made = classifier(model)
    before = {name: p.clone() for name, p in model.original_model.named_parameters()}
    cross_entropy(made(ROWS), LABELS).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    optimiser = torch.optim.SGD(made.parameters(), lr=0.1)
    optimiser.step()
    for name, parameter in model.original_model.named_parameters():
        assert not parameter.requires_grad and parameter.grad is None, name
        assert torch.equal(parameter, before[name]), name


def test_the_head_is_robertas():
    config = RobertaConfig(hidden_size=32, classifier_dropout=0.2)
    config.num_labels = 3
    theirs, ours = RobertaClassificationHead(config), DenseHead(32, 3, dropout=0.2)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(5, 4, 32)
    outputs = []
    for head, given in ((theirs, features), (ours, features[:, 0])):
        torch.manual_seed(1)  # in training mode: dropout in the same two places
        outputs.append(head.train()(given))
    assert_close(*outputs)
    assert (ours.eval()(features[:, 0]) - outputs[1]).abs().max() > 1e-4


def test_counts_what_is_trained_with_and_without_the_head(make_encoder, tiny):
    # Of each LoReFT: R and W, 2 x 32, and b, 2. Of the head: 32 x 32 + 32, and 3 x 32 + 3.
    made = classifier(make_encoder("bert"))
    assert made.intervention_parameters == 2 * (2 * 2 * 32 + 2)
    assert made.head_parameters == 32 * 32 + 32 + 3 * 32 + 3
    assert made.trained_parameters == made.intervention_parameters + made.head_parameters
    assert made.trained_parameters == sum(p.numel() for p in made.parameters())
    alone = Classifier(tiny("llama"), None)
    assert (alone.intervention_parameters, alone.head_parameters) == (0, 33)


def test_predicts_in_the_order_of_rows_whatever_the_batches(make_encoder):
    made = classifier(make_encoder("bert"))
    rows = sentences(20)
    with torch.no_grad():  # so that no class wins everywhere
        made.head.out_proj.bias -= made(rows).mean(0)
    expected = [int(made(rows[i : i + 1]).argmax()) for i in range(20)]
    assert len(set(expected)) > 1
    assert made.predict(rows, batch_size=3) == made.predict(rows) == expected
    scorer = classifier(make_encoder("bert"), None)
    scores = scorer.predict(rows, batch_size=3)
    assert scores == pytest.approx(scorer(rows)[:, 0].tolist(), abs=1e-5)


def test_dropout_is_off_but_in_training_and_what_the_configuration_says(make_encoder, tiny):
    made = classifier(make_encoder("roberta"))
    assert made.head.dropout.p == 0.1 and torch.equal(made(ROWS), made(ROWS))
    made.train()
    assert not torch.allclose(made(ROWS), made(ROWS))
    assert made.predict(ROWS) == made.eval().predict(ROWS)
    assert Classifier(make_encoder("bert", classifier_dropout=0.3), 2).head.dropout.p == 0.3
    assert Classifier(make_encoder("bert"), 2, head_dropout=0).head.dropout.p == 0.0
    assert Classifier(tiny("llama"), 2).head.dropout.p == 0.0


@ARCHITECTURES
@pytest.mark.parametrize("edited", [True, False])
def test_a_saved_classifier_predicts_the_same(parts, architecture, edited, tmp_path):
    model, *_ = parts(architecture)
    longest = 9 if architecture in TOKENIZERS else None
    made = classifier(model, max_length=longest)
    if not edited:
        made = Classifier(model, None, head_dropout=0.25)
    made.save(tmp_path, {"told": 1})
    again = Classifier.load(tmp_path, model)
    assert torch.equal(again(ROWS), made(ROWS))
    assert (again.classes, again.max_length) == (made.classes, made.max_length)
    assert again.head.dropout.p == made.head.dropout.p
    assert (again.intervened is None) == (not edited)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {"config.json", "head.safetensors", "interventions.safetensors"}
    assert json.loads((tmp_path / "config.json").read_text())["notes"] == {"told": 1}


def test_a_folder_that_does_not_fit_is_refused(make_encoder, tiny, tmp_path):
    model = make_encoder("bert")
    made = classifier(model)
    with pytest.raises(FileNotFoundError, match=r"no saved classifier: there is no config\.json"):
        Classifier.load(tmp_path, model)
    made.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ValueError, match=r"n_layers 2.*n_layers 1"):
        Classifier.load(tmp_path, make_encoder("bert", num_hidden_layers=1))
    with (
        pytest.warns(UserWarning, match=r"was made for a model with (name|architecture)"),
        pytest.raises(ValueError, match="holds a DenseHead, but tiny-llama takes a LastTokenHead"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | {"max_length": None}))
        Classifier.load(tmp_path, tiny("llama"))
    tensors = load_file(tmp_path / "head.safetensors")
    save_file(tensors | {"out_proj.bias": torch.zeros(4)}, tmp_path / "head.safetensors")
    for read in (Classifier.load, lambda folder, _: made.load_weights(folder)):
        with pytest.raises(ValueError, match=r"head\.safetensors does not fit.*out_proj\.bias"):
            read(tmp_path, model)
    (tmp_path / "head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        Classifier.load(tmp_path, model)
    save_file(tensors, tmp_path / "head.safetensors")
    for broken, message in (
        ("{", "is damaged"),
        ("[]", "is no configuration of a classifier"),
        (json.dumps(config | {"format": 9}), "has format 9; this version reads 1"),
        (json.dumps({"kind": "classifier", "format": 1}), "is damaged: it lacks classes, head"),
    ):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ValueError, match=message):
            Classifier.load(tmp_path, model)


def test_what_no_classifier_can_be_is_refused(make_encoder, tiny):
    model = make_encoder("bert")
    with pytest.raises(ValueError, match="classes must be at least 2, or None for a score, got 1"):
        Classifier(model, 1)
    swap = IntervenedModel(model, Placement(Interchange(), Site("resid_post", 0), "f1"))
    with pytest.raises(ValueError, match="reads one text a row, but an intervention here needs"):
        Classifier(swap, 2)
    with pytest.raises(ValueError, match="head_dropout must be at least 0 and below 1, got 1"):
        Classifier(model, 2, head_dropout=1)
    with pytest.raises(ValueError, match="tiny-llama is a decoder, whose prompt ends with what"):
        Classifier(tiny("llama"), 2, max_length=8)


def test_a_text_that_is_too_long_is_told_or_cut(make_encoder):
    model = make_encoder("bert")  # reads 40 tokens
    rows = [ROWS[0], {"text_a": "the key " * 30, "text_b": "is old"}]
    with pytest.raises(ValueError, match="row 1 has 65 tokens, and tiny-bert can read 40"):
        Classifier(model, 2)(rows)
    assert Classifier(model, 2, max_length=40)(rows).shape == (2, 2)
    # One text alone is read too, where a row has no second.
    single = [{"text_a": "the key is old", "text_b": None}]
    assert torch.equal(classifier(model)(single), classifier(model)(["the key is old"]))


@pytest.mark.parametrize("full", ["head.safetensors", "interventions.safetensors", "config.json"])
def test_a_full_disk_leaves_the_classifier_that_was_there(tiny, tmp_path, monkeypatch, full):
    model = tiny("llama")
    before, after = classifier(model), classifier(model)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(1.0)
    before.save(tmp_path)

    def no_space(write):
        def fails(held, file, *rest, **options):
            if Path(file).name.startswith(full):
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            return write(held, file, *rest, **options)

        return fails

    def no_space_for_text(file, *rest, **options):
        if file.name.startswith(full):
            raise OSError(28, "No space left on device")
        return write_text(file, *rest, **options)

    write_text = Path.write_text
    monkeypatch.setattr(saved_files, "save_file", no_space(saved_files.save_file))
    monkeypatch.setattr(Path, "write_text", no_space_for_text)
    with pytest.raises(OSError, match="No space left") as caught:
        after.save(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert torch.equal(Classifier.load(tmp_path, model)(ROWS), before(ROWS))
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"config.json", "head.safetensors", "interventions.safetensors"}


def test_a_head_that_was_saved_under_its_former_name_is_read(tiny, tmp_path):
    made = Classifier(tiny("llama"), 3)
    made.save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["head"]["class"] == "LastTokenHead"
    config["head"]["class"] = "LinearHead"
    path.write_text(json.dumps(config))
    again = Classifier.load(tmp_path, tiny("llama"))
    rows = [{"prompt": "The key"}, {"prompt": "The old doors"}]
    assert torch.equal(again(rows), made(rows))
    config["head"]["class"] = "DenseHead"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds a DenseHead, but tiny-llama takes a LastToken"):
        Classifier.load(tmp_path, tiny("llama"))


@pytest.mark.usefixtures("no_type_checks")
def test_classes_and_tokens_are_whole_numbers(make_encoder):
    with pytest.raises(TypeError, match=r"classes must be a whole number, or None .* got 2\.5"):
        Classifier(make_encoder("bert"), 2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"max_length must be a whole number, got 8\.5"):
        Classifier(make_encoder("bert"), 2, max_length=8.5)  # pyright: ignore[reportArgumentType]
