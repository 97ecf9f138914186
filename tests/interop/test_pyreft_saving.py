"""Folders for pyreft. Truth: the tensors that pyreft itself would have saved, written as in
`test_pyreft`, whose helpers know each class's formula and torch's own parametrization.
"""

import json
from typing import Any

import pytest
import torch
from test_pyreft import PROMPTS, WIDTH, Saved, formula, rotation_of, saved, write
from torch.testing import assert_close
from trained import trained

from reft_interp.interop import load_pyreft, save_pyreft
from reft_interp.interop.pyreft_classes import CLASSES
from reft_interp.interventions import ConsReFT, DiReFT, LoReFT, orthogonal_parts
from reft_interp.interventions.edits import Add, Set
from reft_interp.interventions.rows import PartOfRows
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training.reft_method import ReFT

POST = Site("resid_post", 1)
# The classes that pyreft has, by the names in `trained`.
OURS = {
    "LoReFT": "LoreftIntervention",
    "NoReFT": "NoreftIntervention",
    "NoReFT offset": "NoreftIntervention",
    "ConsReFT": "ConsreftIntervention",
    "LobiReFT": "LobireftIntervention",
    "DiReFT": "NodireftIntervention",
    "DiReFT orthonormal": "DireftIntervention",
}
ACTIVATION = {"NoReFT offset": lambda v: v.clip(0), "DiReFT orthonormal": lambda v: v.clip(0)}


def config_of(folder) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def read(folder) -> list[Saved]:
    """What the files hold, in the order of the configuration, as pyvene finds them."""
    keys = config_of(folder)["sorted_keys"]
    return [torch.load(folder / f"intkey_{key}.bin", weights_only=True) for key in keys]


@pytest.mark.parametrize("add_bias", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
def test_pyreft_to_ours_and_back_is_the_same_file(tmp_path, tiny, kind, add_bias):
    tensors = saved(kind, add_bias=add_bias)
    given = write(tmp_path / "given", (kind, tensors))
    save_pyreft(load_pyreft(given, tiny("llama"), on="l1"), tmp_path / "back")
    (found,) = read(tmp_path / "back")
    if kind == "NodireftIntervention":
        tensors.pop("proj_layer.bias", None)  # which this class of pyreft ignores
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        # Many parameters stand for one rotation: that is compared below.
        if "parametrizations" not in name:
            assert torch.equal(found[name], tensor)
    if "rotate_layer.parametrizations.weight.original" in tensors:
        expected, same = (torch.from_numpy(rotation_of(t)) for t in (tensors, found))
        assert_close(same, expected, atol=1e-6, rtol=0)  # float32 parameters
    config, again = (
        json.loads((f / "config.json").read_text()) for f in (given, tmp_path / "back")
    )
    assert {**again, "transformers_version": config["transformers_version"]} == config


@pytest.mark.parametrize("kind", CLASSES)
def test_a_second_round_changes_nothing(tmp_path, tiny, kind):
    given = write(tmp_path / "given", (kind, saved(kind)))
    first, second = tmp_path / "first", tmp_path / "second"
    save_pyreft(load_pyreft(given, tiny("llama"), on="l1"), first)
    save_pyreft(load_pyreft(first, tiny("llama"), on="l1"), second)
    ((once,), (twice,)) = read(first), read(second)
    for name, tensor in once.items():
        if not name.endswith(".base"):  # beside the rotation it has columns that do nothing
            assert torch.equal(twice[name], tensor)


@pytest.mark.filterwarnings("ignore:pyreft does not record activation")
@pytest.mark.parametrize("name", OURS)
def test_what_was_trained_here_computes_pyrefts_formula(tmp_path, tiny, name):
    edit = trained()[name]
    save_pyreft(IntervenedModel(tiny("llama"), Placement(edit, POST, "last")), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["intervention_types"] == [f"<class 'pyreft.interventions.{OURS[name]}'>"]
    (tensors,) = read(tmp_path)
    h = torch.randn(5, WIDTH)
    f = ACTIVATION.get(name, lambda v: v)
    expected = torch.from_numpy(formula(OURS[name], tensors, h.double().numpy(), f))
    assert_close(edit(h).double(), expected, atol=2e-6, rtol=0)  # float32 against float64
    assert (expected - h).abs().max() > 0.1


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize(
    ("kind", "template"),
    [
        ("LoreftIntervention", LoReFT(2)),
        ("ConsreftIntervention", ConsReFT(2)),
        ("DireftIntervention", DiReFT(2, orthonormal=True)),
    ],
)
def test_a_part_is_saved_as_it_is_used(tmp_path, tiny, kind, template, outside):
    """Its own slice of the shared parameter is orthonormal, but not out of the others any more."""
    kept_out = Subspace.random(WIDTH, 2, seed=5) if outside else None
    first, second = orthogonal_parts(template, template, width=WIDTH, outside=kept_out)
    assert isinstance(first, Set | Add) and isinstance(first.rows, PartOfRows)
    torch.manual_seed(0)
    with torch.no_grad():
        shared = first.rows.whole.matrix
        if outside:  # orthonormal as a whole, but leaning into what it stays out of
            shared.copy_(Subspace.random(WIDTH, 4, seed=6).basis)
        else:  # the second's slice stays orthonormal, but leans into the first's
            shared[:2] += 0.5 * torch.randn(2, WIDTH)
        for parameter in first.value.parameters():
            parameter.add_(torch.randn_like(parameter))
    h = torch.randn(5, WIDTH)
    for edit in (first, second):
        save_pyreft(IntervenedModel(tiny("llama"), Placement(edit, POST, "last")), tmp_path)
        (tensors,) = read(tmp_path)
        expected = torch.from_numpy(formula(kind, tensors, h.double().numpy()))
        assert_close(edit(h).double(), expected, atol=1e-5, rtol=0)  # float32 parameters


def test_placements_come_back_where_they_were(tmp_path, tiny):
    made = trained()
    sites = [Site(c, 1) for c in ("resid_pre", "resid_post", "attn_out", "mlp_out", "z")]
    placements = [Placement(made["LoReFT"], site, "l1") for site in sites]
    placements += [Placement(made["DiReFT"], POST, "l1"), Placement(made["LoReFT"], POST, "l1")]
    intervened = IntervenedModel(tiny("llama"), placements)
    save_pyreft(intervened, tmp_path)
    again = load_pyreft(tmp_path, tiny("llama"), on=["l1"] * len(placements))
    assert [p.site for p in again.placements] == [p.site for p in placements]
    # The rows go through their parametrization once more.
    assert_close(again.logits(PROMPTS), intervened.logits(PROMPTS), atol=1e-5, rtol=0)


def pyreft_locations(count: int, n: int, first: int, last: int) -> list[list[int]]:
    """Of pyreft's get_intervention_locations with share_weights=False, what is no padding."""
    prefix = list(range(min(n // 2, first)))
    suffix = list(range(n - min(n // 2, last), n))
    return [prefix] * (count // 2) + [suffix] * (count // 2)


@pytest.mark.parametrize("by_layer", [True, False])
def test_an_untied_reft_is_written_in_the_order_that_pyreft_expects(tmp_path, tiny, by_layer):
    model = tiny("llama")
    torch.manual_seed(0)
    method = ReFT(LoReFT(rank=2), on="f3+l2 rounding=pyreft", tied=False)
    placements = [one.built_for(model) for one in method.placements(model)]
    for placement in placements:
        placement.intervention.load_state_dict(
            {n: t + torch.randn_like(t) for n, t in placement.intervention.state_dict().items()}
        )
    if not by_layer:
        placements = [*placements[::2], *placements[:0:-2]]  # f f, then l l from the top
    intervened = IntervenedModel(model, placements)
    save_pyreft(intervened, tmp_path)
    layers = [int(key.split("_")[1]) for key in config_of(tmp_path)["sorted_keys"]]
    batch = encode(model, [{"prompt": PROMPTS[0]}])
    locations = pyreft_locations(len(layers), len(batch.input_ids[0]), 3, 2)
    assert len(layers) == len(placements) == 4
    weights = [tensors["weight"] for tensors in read(tmp_path)]
    for layer, where, weight in zip(layers, locations, weights, strict=True):
        (ours,) = [
            p
            for p in placements
            if torch.equal(p.intervention.state_dict()["value.weight"], weight)
        ]
        assert ours.site.layer == layer and ours.on(batch).columns.tolist() == where
    again = load_pyreft(tmp_path, model, on="f3+l2")
    assert_close(again.logits(PROMPTS), intervened.logits(PROMPTS), atol=1e-5, rtol=0)


def test_an_activation_has_to_be_said_again(tmp_path, tiny):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()["LoReFT gelu"], POST, "last"))
    with pytest.warns(UserWarning, match="give act_fn='gelu'"):
        save_pyreft(intervened, tmp_path)
    again = load_pyreft(tmp_path, tiny("llama"), on="last", act_fn="gelu")
    assert_close(again.logits(PROMPTS), intervened.logits(PROMPTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["VectorAddition", "Clamp", "ZeroAblation", "MeanAblation"])
def test_what_pyreft_has_not_is_refused(tmp_path, tiny, name):
    intervened = IntervenedModel(tiny("llama"), Placement(trained()[name], POST, "last"))
    with pytest.raises(ValueError, match=rf"pyreft has no class .* {name} does; .* LoReFT"):
        save_pyreft(intervened, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("architecture", "site"),
    [
        ("llama", Site("resid_mid", 0)),
        ("llama", Site("mlp_post", 0)),
        ("llama", Site("z", 0, heads=1)),
        ("gemma2", Site("mlp_out", 0)),
    ],
)
def test_places_that_pyreft_has_not_are_refused(tmp_path, tiny, architecture, site):
    intervened = IntervenedModel(tiny(architecture), Placement(LoReFT(3), site, "last"))
    with pytest.raises(ValueError, match="pyreft has no place blocks"):
        save_pyreft(intervened, tmp_path)


def test_a_disk_that_is_full_leaves_all_of_what_was_there(tmp_path, tiny, monkeypatch):
    one, other = (
        IntervenedModel(
            tiny("llama"), [Placement(trained()[name], Site("resid_post", i), "l1") for i in (0, 1)]
        )
        for name in ("LoReFT", "ConsReFT")
    )
    save_pyreft(one, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write_tensors, files = torch.save, []

    def full(tensors, file):
        files.append(file)
        if len(files) == 2:
            raise OSError("no space left on device")
        write_tensors(tensors, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        save_pyreft(other, tmp_path)
    assert len(before) == 3 and {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
