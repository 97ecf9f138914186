"""Folders: what is read is what was written, and what is damaged says so."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reft_interp.interventions import (
    INTERVENTIONS,
    RED,
    BoundlessInterchange,
    Clamp,
    ConsReFT,
    DiReFT,
    DistributedInterchange,
    FeatureEncoder,
    FeatureInterchange,
    Interchange,
    LinearCombination,
    LobiReFT,
    LoReFT,
    MaskedInterchange,
    MeanAblation,
    NonlinearInterchange,
    NoReFT,
    PlaceboInterchange,
    ResampleAblation,
    SparseAutoencoder,
    VectorAddition,
    ZeroAblation,
)
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.saving import CONFIG, TENSORS, read_notes
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

PROMPTS = ["The key near the doors", "Paris"]
SOURCES = ["No, the book was bad", "The keys"]
SPACE = Subspace.random(32, 2, seed=5)

MATRIX = torch.randn(32, 40, generator=torch.Generator().manual_seed(3))
AUTOENCODER = SparseAutoencoder(
    FeatureEncoder(MATRIX, MATRIX[0], input_bias=MATRIX[:, 1], threshold=MATRIX[2].abs()), MATRIX.T
)
EXAMPLES = [
    Interchange(),
    DistributedInterchange(SPACE),
    DistributedInterchange(SPACE, trainable=True),
    MaskedInterchange(SPACE, sparsity=0.2),
    BoundlessInterchange(Subspace.random(32, 32, seed=1)),
    FeatureInterchange(AUTOENCODER),
    FeatureInterchange(SparseAutoencoder(FeatureEncoder(MATRIX, k=3), MATRIX.T), sparsity=0.3),
    NonlinearInterchange(2, hidden=5, depth=2),
    PlaceboInterchange(SPACE, Subspace.random(32, 2, seed=9)),
    LoReFT(2, dropout=0.2),
    LoReFT(2, dtype=torch.bfloat16),
    NoReFT(2, activation="gelu", offset=True),
    ConsReFT(2),
    DiReFT(2),
    DiReFT(2, orthonormal=True, activation="relu"),
    LobiReFT(2),
    RED(),
    VectorAddition(torch.arange(32.0), strength=3.0),
    Clamp(SPACE, torch.tensor([3.0, -4.0])),
    ZeroAblation(SPACE),
    MeanAblation(SPACE, torch.arange(32.0)),
    ResampleAblation(SPACE),
    LinearCombination([LoReFT(2), DiReFT(1)], [-1, 0.5]),
    LinearCombination([DistributedInterchange(SPACE), RED()], [1.5, 2]),
]


def stir(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def logits_of(intervened: IntervenedModel) -> torch.Tensor:
    return intervened.logits(PROMPTS, SOURCES if intervened.needs_source else None)


def loreft(model, seed: int = 0) -> IntervenedModel:
    intervened = IntervenedModel(model, Placement(LoReFT(2), Site("resid_post", 0), "f1+l1"))
    stir(intervened, seed)
    return intervened


def saved_config(folder: Path) -> dict:
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def change_config(folder: Path, **changes) -> None:
    text = json.dumps(saved_config(folder) | changes)
    (folder / CONFIG).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("intervention", EXAMPLES, ids=lambda i: type(i).__name__)
def test_what_is_loaded_gives_the_same_logits(tiny, tmp_path, intervention):
    model = tiny("llama")
    placed = Placement(intervention, Site("resid_post", 0), "f1+l1")
    intervened = IntervenedModel(model, placed).eval()
    stir(intervened)
    before, untouched = (
        logits_of(intervened),
        model(torch.tensor([model.tokenizer(PROMPTS[0])["input_ids"]])),
    )
    assert not torch.allclose(before[0, -1], untouched[0, -1])
    intervened.save(tmp_path / "new" / "folder")
    loaded = IntervenedModel.load(tmp_path / "new" / "folder", model)
    assert torch.equal(logits_of(loaded), before)
    for (name, one), (_, other) in zip(
        intervened.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other) and one.dtype == other.dtype, name
    for one, other in zip(intervened.parameters(), loaded.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad
    assert loaded.explain() == intervened.explain()


def test_every_intervention_has_an_example_above():
    assert {type(example) for example in EXAMPLES} == set(INTERVENTIONS.values())


def test_sites_positions_and_sharing_are_kept(tiny, tmp_path):
    model = tiny("llama")
    shared, other = LoReFT(2, width=16), DiReFT(2, width=3)
    intervened = IntervenedModel(
        model,
        [
            Placement(shared, Site("z", 0, heads=(3, 1)), 'substring:" the" all occurrence=-1'),
            Placement(other, Site("mlp_post", 1, neurons=(7, 0, 60)), [0, -1]),
            Placement(shared, Site("z", 1, heads=(0, 2)), "f7+l7 rounding=pyreft"),
        ],
    )
    stir(intervened)
    prompts = ["The key near the doors", "Mary and the boy"]
    intervened.save(tmp_path)
    loaded = IntervenedModel.load(tmp_path, model)
    for one, two in zip(intervened.placements, loaded.placements, strict=True):
        assert (one.site, one.on) == (two.site, two.on)
    first, second, third = (placement.intervention for placement in loaded.placements)
    assert first is third is not second
    assert len(loaded.interventions) == 2
    assert torch.equal(loaded.logits(prompts), intervened.logits(prompts))


def test_a_loaded_model_has_no_dropout(tiny, tmp_path):
    model = tiny("llama")
    placed = Placement(LoReFT(2, dropout=0.9), Site("resid_post", 0), "every")
    intervened = IntervenedModel(model, placed).train()
    stir(intervened)
    assert not torch.equal(logits_of(intervened), logits_of(intervened))  # training drops
    intervened.save(tmp_path)
    assert torch.equal(
        logits_of(IntervenedModel.load(tmp_path, model)), logits_of(intervened.eval())
    )


def test_the_folder_is_readable_and_nothing_is_pickled(tiny, tmp_path):
    loreft(tiny("llama")).save(tmp_path, {"why": "a test", "steps": 3})
    assert sorted(file.name for file in tmp_path.iterdir()) == [CONFIG, TENSORS]
    for file in tmp_path.iterdir():
        # A pickle would be a zip archive, or begin with its protocol's opcode.
        assert file.read_bytes()[:2] != b"PK" and file.read_bytes()[:1] != b"\x80"
    config = saved_config(tmp_path)
    assert config["model"]["name"] == "tiny-llama"
    assert config["placements"] == [
        {
            "intervention": 0,
            "site": {"component": "resid_post", "layer": 0},
            "positions": "f1+l1",
        }
    ]
    assert read_notes(tmp_path) == {"why": "a test", "steps": 3}


def test_saving_again_replaces_and_leaves_other_files(tiny, tmp_path):
    model = tiny("llama")
    (tmp_path / "README.md").write_text("mine")
    loreft(model, seed=0).save(tmp_path)
    later = loreft(model, seed=1)
    later.save(tmp_path)
    assert torch.equal(logits_of(IntervenedModel.load(tmp_path, model)), logits_of(later))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_folder(tiny, tmp_path):
    model = tiny("llama")
    old, new = loreft(model, seed=0), loreft(model, seed=1)
    old.save(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        new.save(tmp_path, {"rows": object()})  # found out after the tensors were written
    assert torch.equal(logits_of(IntervenedModel.load(tmp_path, model)), logits_of(old))
    assert not torch.equal(logits_of(new), logits_of(old))
    assert sorted(os.listdir(tmp_path)) == [CONFIG, TENSORS]  # no half-written file stays


def test_a_folder_of_another_size_is_refused(tiny, make_tiny, tmp_path):
    loreft(tiny("gpt2")).save(tmp_path)
    deep = make_tiny("gpt2", n_layer=3)
    with pytest.raises(ValueError, match=r"n_layers 2\), but the model is tiny-gpt2 \(n_layers 3"):
        IntervenedModel.load(tmp_path, deep)
    wide = make_tiny("gpt2", n_embd=40)
    with pytest.raises(ValueError, match=r"d_model 32\), but the model is tiny-gpt2 \(d_model 40"):
        IntervenedModel.load(tmp_path, wide)


def test_another_model_of_that_size_is_loaded_with_a_warning(tiny, tmp_path):
    loreft(tiny("llama")).save(tmp_path)
    with pytest.warns(UserWarning, match="made for a model with") as caught:
        loaded = IntervenedModel.load(tmp_path, tiny("qwen2"))
    assert {str(w.message).split(" with ")[1].split(";")[0] for w in caught} == {
        "name 'tiny-llama'",
        "architecture 'LlamaForCausalLM'",
    }
    assert loaded.model is tiny("qwen2")


@pytest.mark.parametrize("missing", [CONFIG, TENSORS])
def test_a_folder_that_lacks_a_file_says_which(tiny, tmp_path, missing):
    loreft(tiny("llama")).save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no {missing} in it"):
        IntervenedModel.load(tmp_path, tiny("llama"))


@pytest.mark.parametrize("keep", [0, 4, 50, -8])
def test_damaged_tensors_are_refused_by_name(tiny, tmp_path, keep):
    loreft(tiny("llama")).save(tmp_path)
    path = tmp_path / TENSORS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{TENSORS} is damaged"):
        IntervenedModel.load(tmp_path, tiny("llama"))


def test_tensors_of_another_shape_are_refused(tiny, tmp_path):
    model = tiny("llama")
    loreft(model).save(tmp_path / "rank 2")
    IntervenedModel(model, Placement(LoReFT(3), Site("resid_post", 0), "f1")).save(
        tmp_path / "rank 3"
    )
    shutil.copy(tmp_path / "rank 3" / TENSORS, tmp_path / "rank 2" / TENSORS)
    with pytest.raises(ValueError, match=r"does not fit config.json: .*rows.matrix"):
        IntervenedModel.load(tmp_path / "rank 2", model)


def test_tensors_of_another_saving_are_refused(tiny, tmp_path):
    """As a saving that is cut off between its two moves leaves them."""
    model = tiny("llama")
    for name, seed in (("old", 0), ("new", 1)):
        edit = LoReFT(start=Subspace.random(32, 2, seed=seed))
        IntervenedModel(model, Placement(edit, Site("resid_post", 0), "f1")).save(tmp_path / name)
    shutil.copy(tmp_path / "new" / TENSORS, tmp_path / "old" / TENSORS)
    with pytest.raises(ValueError, match=f"{TENSORS} is not the file that config.json was saved"):
        IntervenedModel.load(tmp_path / "old", model)
    # Folders of earlier versions do not say which tensors are theirs.
    config = json.loads((tmp_path / "old" / CONFIG).read_text())
    del config["interventions_sha256"]
    (tmp_path / "old" / CONFIG).write_text(json.dumps(config))
    IntervenedModel.load(tmp_path / "old", model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is damaged"),
        ("[]", "config.json has format None; this version reads 1"),
        ('{"format": 1}', "config.json is damaged: it lacks interventions, model, notes"),
        ('{"format": 2}', "config.json has format 2; this version reads 1"),
    ],
)
def test_a_damaged_config_is_refused_by_name(tiny, tmp_path, text, message):
    loreft(tiny("llama")).save(tmp_path)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=message):
        IntervenedModel.load(tmp_path, tiny("llama"))


def paths(held: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where everything in a configuration is, from outside to inside."""
    inside = held.items() if isinstance(held, dict) else enumerate(held)
    for name, value in inside:
        yield (*here, name)
        if isinstance(value, dict | list):
            yield from paths(value, (*here, name))


# Nothing is read of these, a model's name and revision only tell it apart, what an intervention
# leaves out has a default, and any text is a position's span.
HARMLESS = {
    ("reft_interp",): "all",
    ("interventions_sha256",): ["nothing"],
    ("notes", "why"): "all",
    ("model", "revision"): "all",
    ("model", "dtype"): "all",
    ("model", "name"): ["zzz"],
    ("model", "architecture"): ["zzz"],
    ("interventions", 0, "arguments", "activation"): ["nothing"],
    ("interventions", 0, "arguments", "dropout"): ["nothing"],
    ("interventions", 0, "arguments", "dtype"): ["nothing"],
    ("placements", 0, "positions"): ["zzz"],
}


@pytest.mark.filterwarnings("ignore:.*was made for a model with")
@pytest.mark.parametrize("value", ["nothing", None, "zzz", -1, [1]], ids=repr)
def test_a_config_that_is_wrong_anywhere_is_refused_by_its_file(tiny, tmp_path, value):
    placed = Placement(LoReFT(2, width=16), Site("z", 1, heads=(0, 1)), "f1+l1")
    IntervenedModel(tiny("llama"), placed).save(tmp_path, {"why": "a test"})
    whole = saved_config(tmp_path)
    for path in paths(whole):
        config = copy.deepcopy(whole)
        *outside, last = path
        part: Any = config
        for name in outside:
            part = part[name]
        if value == "nothing":
            del part[last]
        else:
            part[last] = value
        (tmp_path / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        harmless = HARMLESS.get(path, [])
        if harmless == "all" or value in harmless:
            IntervenedModel.load(tmp_path, tiny("llama"))
            continue
        with pytest.raises(ValueError) as told:
            IntervenedModel.load(tmp_path, tiny("llama"))
        assert str(tmp_path) in str(told.value), path
        assert type(told.value) is ValueError, path


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("interventions", [{"arguments": {}}], r"interventions\[0\] lacks class"),
        ("interventions", None, "'interventions' must be a list, got None"),
        (
            "interventions",
            [{"class": "LoReFT", "arguments": {"rank": 2, "dtype": "zzz"}}],
            r"interventions\[0\]: dtype must be one of torch's, got 'zzz'",
        ),
        ("placements", [{"intervention": 0, "positions": "l1"}], r"placements\[0\] lacks site"),
        (
            "placements",
            [{"intervention": 1, "site": {}, "positions": "l1"}],
            r"placements\[0\] is of intervention 1, and there are 1",
        ),
    ],
)
def test_what_is_wrong_with_a_config_is_said(tiny, tmp_path, part, value, message):
    loreft(tiny("llama")).save(tmp_path)
    change_config(tmp_path, **{part: value})
    with pytest.raises(ValueError, match=rf"config\.json .*{message}"):
        IntervenedModel.load(tmp_path, tiny("llama"))


def test_weights_that_are_no_numbers_are_refused_by_name(tiny, tmp_path):
    intervened = loreft(tiny("llama"))
    with torch.no_grad():
        intervened.interventions[0].get_parameter("value.bias")[1] = torch.nan
    intervened.save(tmp_path)
    told = r"interventions.safetensors: 1 of the 2 numbers of '0.value.bias' are NaN"
    with pytest.raises(ValueError, match=told):
        IntervenedModel.load(tmp_path, tiny("llama"))


@pytest.mark.parametrize(
    ("saved", "here", "warns"),
    [("aaa", "bbb", True), ("aaa", "aaa", False), (None, "bbb", False), ("aaa", None, False)],
)
def test_another_revision_of_the_model_is_loaded_with_a_warning(
    tiny_parts, tmp_path, saved, here, warns
):
    def model(revision):
        return wrap_model(*tiny_parts("llama"), name="org/tiny", revision=revision)

    loreft(model(saved)).save(tmp_path)
    told = "made for org/tiny at revision aaa; this model is at revision bbb"
    with pytest.warns(UserWarning, match=told) if warns else nullcontext():
        IntervenedModel.load(tmp_path, model(here))


def test_an_unknown_intervention_is_refused_by_name(tiny, tmp_path):
    loreft(tiny("llama")).save(tmp_path)
    entry = saved_config(tmp_path)["interventions"][0]
    change_config(tmp_path, interventions=[entry | {"class": "HyperReFT"}])
    with pytest.raises(ValueError, match="unknown intervention 'HyperReFT'; the known ones are"):
        IntervenedModel.load(tmp_path, tiny("llama"))


def test_a_loaded_intervention_trains_on(tiny, tmp_path):
    model = tiny("llama")
    intervened = loreft(model)
    intervened.save(tmp_path)
    loaded = IntervenedModel.load(tmp_path, model)
    rows = [{"prompt": prompt, "answer": " is"} for prompt in PROMPTS]
    for one in (intervened, loaded):
        one.loss(rows).backward()
    for one, other in zip(intervened.parameters(), loaded.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert one.grad.abs().max() > 0
        assert_close(other.grad, one.grad)
