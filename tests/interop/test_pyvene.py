"""pyvene's folders, without pyvene: written here as it writes them, against its own formulas."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import serve
from test_hub import use
from test_pyreft import PROMPTS, Saved, rotation, rotation_of
from torch.testing import assert_close

from reft_interp.interop import load_pyvene
from reft_interp.interop.pyvene import CLASSES
from reft_interp.interventions import (
    BoundlessInterchange,
    Clamp,
    DistributedInterchange,
    Interchange,
    MaskedInterchange,
    VectorAddition,
    ZeroAblation,
)
from reft_interp.runtime import IntervenedModel

WIDTH = 32
SOURCES = ["The keys near the door is on the", "No,", "The authors was"]


CONSTANT = ["AdditionIntervention", "SubtractionIntervention"]


def saved(kind: str, *, temperature: float = 0.01) -> Saved:
    torch.manual_seed(0)
    low = kind.startswith("LowRank")
    state, _ = rotation(4 if low else WIDTH, WIDTH)
    sizes = {"embed_dim": torch.tensor(WIDTH), "interchange_dim": torch.tensor(WIDTH)}
    heat = {"temperature": torch.tensor(temperature)}
    logits = torch.randn(WIDTH)
    logits += logits.sign()  # none is near zero, where a mask is soft at any temperature
    constant = sizes | {"source_representation": torch.randn(WIDTH)}
    return {
        "VanillaIntervention": {},
        "ZeroIntervention": {},
        "AdditionIntervention": constant,
        "SubtractionIntervention": constant,
        "RotatedSpaceIntervention": sizes | state,
        "LowRankRotatedSpaceIntervention": sizes | state,
        "BoundlessRotatedSpaceIntervention": {"intervention_boundaries": torch.tensor([0.3])}
        | heat
        | {"intervention_population": torch.arange(WIDTH)}
        | sizes
        | state,
        "SigmoidMaskIntervention": {"mask": logits} | heat | sizes,
        "SigmoidMaskRotatedSpaceIntervention": {"masks": logits} | heat | sizes | state,
    }[kind]


def write(folder: Path, kind: str, tensors: Saved, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    key = "layer_0_comp_block_output_unit_pos_nunit_1#0"
    if tensors:
        torch.save(tensors, folder / f"intkey_{key}.bin")
    partition, dimension = fields.pop("partition", None), fields.pop("dimension", WIDTH)
    config = {
        "intervention_constant_sources": [kind in [*CONSTANT, "ZeroIntervention"]],
        "intervention_dimensions": [dimension],
        "intervention_types": [f"<class 'pyvene.models.interventions.{kind}'>"],
        "mode": "parallel",
        "representations": [[0, "block_output", "pos", 1, 4, None, None, partition, *[None] * 6]],
        "sorted_keys": [key],
        "transformers_version": "4.57.6",
        **fields,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def formula(kind: str, tensors: Saved, h, s, chosen: Any):
    """pyvene's forward, in float64; its masks at a temperature near zero."""
    if "source_representation" in tensors:
        s = tensors["source_representation"].double().view(-1).expand_as(h)
    elif kind == "ZeroIntervention":
        s = torch.zeros_like(h)
    if kind in CONSTANT:
        out = h.clone()
        out[:, chosen] += s[:, chosen] if kind == "AdditionIntervention" else -s[:, chosen]
        return out
    if kind in ("VanillaIntervention", "ZeroIntervention"):
        out = h.clone()
        out[:, chosen] = s[:, chosen]
        return out
    if "rotate_layer.parametrizations.weight.original" in tensors:
        R = torch.from_numpy(rotation_of(tensors))
    else:
        R = torch.eye(WIDTH).double()
    change = (s - h) @ R
    if "temperature" not in tensors:
        return h + change[:, chosen] @ R[:, chosen].T
    T = tensors["temperature"].double()
    if "intervention_boundaries" in tensors:
        i = torch.arange(WIDTH).double()
        b = tensors["intervention_boundaries"].double()[0] * WIDTH
        m = torch.sigmoid(i / T) * torch.sigmoid((b - i) / T)
        assert m[0] == 0.5  # what the warning is about
        m[0] = 1
    else:
        m = torch.sigmoid(next(t for n, t in tensors.items() if "mask" in n).double() / T)
    return h + (m * change) @ R.T


EXPECTED = {
    "VanillaIntervention": Interchange,
    "RotatedSpaceIntervention": DistributedInterchange,
    "LowRankRotatedSpaceIntervention": DistributedInterchange,
    "BoundlessRotatedSpaceIntervention": BoundlessInterchange,
    "SigmoidMaskIntervention": MaskedInterchange,
    "SigmoidMaskRotatedSpaceIntervention": MaskedInterchange,
    "AdditionIntervention": VectorAddition,
    "SubtractionIntervention": VectorAddition,
    "ZeroIntervention": ZeroAblation,
}


@pytest.mark.filterwarnings("ignore:the mask of this Boundless")
@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_computes_its_formula(tmp_path, tiny, kind):
    tensors = saved(kind)
    found = load_pyvene(write(tmp_path, kind, tensors), tiny("llama"), on="last")
    (edit,) = found.interventions
    assert type(edit) is EXPECTED[kind]
    h, s = torch.randn(2, 5, WIDTH)
    edited = edit(h, s) if edit.needs_source else edit(h)
    expected = formula(kind, tensors, h.double(), s.double(), slice(None))
    assert_close(edited.double(), expected, atol=5e-6, rtol=0)  # float32
    assert (expected - h).abs().max() > 0.1
    assert str(found.placements[0].site) == "blocks.0.hook_resid_post"


@pytest.mark.parametrize(
    ("kind", "fields", "subspaces", "chosen"),
    [
        ("VanillaIntervention", {"dimension": 7}, None, range(7)),
        ("RotatedSpaceIntervention", {"dimension": 5}, None, range(5)),
        ("RotatedSpaceIntervention", {"partition": [[0, 3], [3, 8]]}, [1], range(3, 8)),
        ("RotatedSpaceIntervention", {}, [4, 1], [4, 1]),
        ("LowRankRotatedSpaceIntervention", {"partition": [[0, 2], [2, 4]]}, [1], [2, 3]),
        ("LowRankRotatedSpaceIntervention", {"partition": [[0, 2, 3], [1]]}, [0], [0, 2, 3]),
        ("LowRankRotatedSpaceIntervention", {"partition": [[0, 2], [2, 4]]}, [0, 1], range(4)),
    ],
)
def test_parts_of_the_coordinates(tmp_path, tiny, kind, fields, subspaces, chosen):
    tensors = saved(kind)
    folder = write(tmp_path, kind, tensors, **fields)
    (edit,) = load_pyvene(folder, tiny("llama"), on="last", subspaces=subspaces).interventions
    h, s = torch.randn(2, 5, WIDTH)
    expected = formula(kind, tensors, h.double(), s.double(), list(chosen))
    assert_close(edit(h, s).double(), expected, atol=5e-6, rtol=0)
    whole = formula(kind, tensors, h.double(), s.double(), slice(None))
    assert len(chosen) == 4 or (whole - expected).abs().max() > 0.1


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("given", [[[[0]]], [["0"]], [[0, 0]], [[True]], [[]]])
def test_subspaces_that_are_no_numbers_of_coordinates_are_refused(tmp_path, tiny, given):
    kind = "LowRankRotatedSpaceIntervention"
    folder = write(tmp_path, kind, saved(kind))
    with pytest.raises(ValueError, match=r"different numbers of its 4 coordinates, 0 to 3, as"):
        load_pyvene(folder, tiny("llama"), on="last", subspaces=given)


@pytest.mark.usefixtures("no_type_checks")
def test_subspaces_may_be_arrays(tmp_path, tiny):
    kind = "LowRankRotatedSpaceIntervention"
    folder, model = write(tmp_path, kind, saved(kind)), tiny("llama")
    given: Any = np.array([2, 1])
    (one,), (other,) = (
        load_pyvene(folder, model, on="last", subspaces=some).interventions
        for some in (given, [2, 1])
    )
    assert torch.equal(one.get_parameter("rows.matrix"), other.get_parameter("rows.matrix"))


@pytest.mark.parametrize(("share", "swapped"), [(0.3, 10), (1.0, 32), (2.0, 32), (0.0, 1)])
@pytest.mark.filterwarnings("ignore:the mask of this Boundless")
def test_the_boundary_is_where_pyvene_has_it(tmp_path, tiny, share, swapped):
    kind = "BoundlessRotatedSpaceIntervention"
    tensors = saved(kind) | {"intervention_boundaries": torch.tensor([share])}
    (edit,) = load_pyvene(write(tmp_path, kind, tensors), tiny("llama"), on="last").interventions
    assert isinstance(edit, BoundlessInterchange)
    assert edit.chosen.tolist() == [True] * swapped + [False] * (WIDTH - swapped)


@pytest.mark.parametrize("kind", [k for k in CLASSES if "Mask" in k or "Boundless" in k])
def test_a_soft_mask_is_told(tmp_path, tiny, kind):
    folder = write(tmp_path, kind, saved(kind, temperature=50.0))
    with pytest.warns(UserWarning, match="is soft, and is taken as zeros and ones"):
        load_pyvene(folder, tiny("llama"), on="last")


def test_a_constant_that_is_swapped_in_is_a_clamp(tmp_path, tiny):
    torch.manual_seed(0)
    tensors = {"source_representation": torch.randn(1, WIDTH)}
    constant: dict[str, Any] = {"intervention_constant_sources": [True]}
    folder = write(tmp_path, "VanillaIntervention", tensors, **constant)
    h = torch.randn(5, WIDTH)
    for subspaces, chosen in ((None, slice(None)), ([3, 1], [1, 3])):
        found = load_pyvene(
            folder, tiny("llama"), on="last", subspaces=subspaces, sources=["not read"]
        )
        (edit,) = found.interventions
        assert type(edit) is Clamp
        expected = formula("VanillaIntervention", tensors, h.double(), None, chosen)
        assert_close(edit(h).double(), expected, atol=5e-6, rtol=0)  # float32
    write(tmp_path, "VanillaIntervention", {"source_representation": torch.randn(9)}, **constant)
    with pytest.raises(ValueError, match="its source holds 9 numbers, the site 32"):
        load_pyvene(folder, tiny("llama"), on="last")


def test_a_name_on_the_hub_is_downloaded(tmp_path, tiny, monkeypatch):
    kind = "LowRankRotatedSpaceIntervention"
    folder = write(tmp_path / "made", kind, saved(kind))
    monkeypatch.chdir(tmp_path)
    with serve() as (address, hub):
        use(monkeypatch, address, tmp_path / "cache")
        hub.repositories["somebody/theirs"] = {
            path.name: path.read_bytes() for path in folder.iterdir()
        } | {"other.bin": b"not asked for"}
        found = load_pyvene("somebody/theirs", tiny("llama"), on="last")
        ours = load_pyvene(folder, tiny("llama"), on="last")
        h, s = torch.randn(2, 5, WIDTH)
        assert_close(found.interventions[0](h, s), ours.interventions[0](h, s))
        assert not list((tmp_path / "cache").rglob("other.bin"))
        with pytest.raises(ValueError, match="the Hugging Face hub has no 'somebody/else'"):
            load_pyvene("somebody/else", tiny("llama"), on="last")
        # A path is a folder, and nothing is asked.
        with pytest.raises(FileNotFoundError, match=r"no config\.json"):
            load_pyvene(Path("somebody/theirs"), tiny("llama"), on="last")
        # So is a name in a folder that is there, which was mistyped.
        for mistyped in ("made/other", "./theirs"):
            with pytest.raises(FileNotFoundError, match=r"no config\.json"):
                load_pyvene(mistyped, tiny("llama"), on="last")
        assert hub.unknown == []


@pytest.mark.parametrize("kind", [k for k in CLASSES if "Mask" in k])
def test_a_temperature_that_was_trained_below_zero_turns_the_mask_around(tmp_path, tiny, kind):
    tensors = saved(kind, temperature=-0.002)
    (edit,) = load_pyvene(write(tmp_path, kind, tensors), tiny("llama"), on="last").interventions
    h, s = torch.randn(2, 5, WIDTH)
    expected = formula(kind, tensors, h.double(), s.double(), slice(None))
    assert_close(edit(h, s).double(), expected, atol=5e-6, rtol=0)  # float32
    with pytest.raises(ValueError, match="its temperature is too near zero: 0"):
        folder = write(tmp_path, kind, saved(kind, temperature=0.0))
        load_pyvene(folder, tiny("llama"), on="last")


def test_what_was_read_runs_and_can_be_saved_as_ours(tmp_path, tiny):
    kind = "LowRankRotatedSpaceIntervention"
    folder = write(tmp_path / "pyvene", kind, saved(kind))
    found = load_pyvene(folder, tiny("llama"), on="last")
    logits = found.logits(PROMPTS, SOURCES)
    assert (logits - found.logits(PROMPTS, PROMPTS)).abs().max() > 0.01
    found.save(tmp_path / "ours")
    again = IntervenedModel.load(tmp_path / "ours", tiny("llama"))
    assert_close(again.logits(PROMPTS, SOURCES), logits)


@pytest.mark.parametrize(
    ("kind", "fields", "arguments", "message"),
    [
        ("CollectIntervention", {}, {}, "the known classes of pyvene are VanillaIntervention"),
        ("VanillaIntervention", {"dimension": 99}, {}, "between 1 and 32, got 99"),
        ("VanillaIntervention", {"dimension": [3]}, {}, r"got \[3\]"),
        (
            "LowRankRotatedSpaceIntervention",
            {"intervention_constant_sources": [True]},
            {},
            "with a constant as its source",
        ),
        (
            "AdditionIntervention",
            {"intervention_constant_sources": [False]},
            {},
            "with another run as its source it cannot",
        ),
        (
            "VanillaIntervention",
            {"intervenable_representations": []},
            {},
            r"the layout of pyvene 0\.0\.1 to 0\.0\.6",
        ),
        ("LowRankRotatedSpaceIntervention", {}, {"subspaces": [4]}, "of its 4 coordinates"),
        (
            "LowRankRotatedSpaceIntervention",
            {"partition": [[0, 4]]},
            {"subspaces": [1]},
            "its 1 parts",
        ),
        (
            "VanillaIntervention",
            {"partition": [[0, 3], [30, 34]]},
            {"subspaces": [1]},
            "subspace_partition must be of its 32 coordinates, 0 to 31, got 32",
        ),
        (
            "LowRankRotatedSpaceIntervention",
            {"partition": [[-2, 1]]},
            {"subspaces": [0]},
            "subspace_partition must be of its 4 coordinates, 0 to 3, got -2",
        ),
        ("SigmoidMaskIntervention", {}, {"subspaces": [1]}, "a mask and no subspaces"),
        ("VanillaIntervention", {}, {"on": ["last", "last"]}, "folder's 1 interventions, got 2"),
        ("VanillaIntervention", {}, {"sources": []}, "sources must hold one for each"),
        ("VanillaIntervention", {}, {"subspaces": [[0], [1]]}, "subspaces must hold one for each"),
        ("VanillaIntervention", {}, {"subspaces": [0, [1]]}, r"numbers for all .* \[0, \[1\]\]"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, tiny, kind, fields, arguments, message):
    tensors = saved(kind) if kind in CLASSES else {}
    folder = write(tmp_path, kind, tensors, **fields)
    with pytest.raises(ValueError, match=message):
        load_pyvene(folder, tiny("llama"), **({"on": "last"} | arguments))


def test_interventions_in_series_are_not_read_as_parallel(tmp_path, tiny):
    kind = "pyvene.models.interventions.VanillaIntervention"
    both = {
        "intervention_constant_sources": [False] * 2,
        "intervention_dimensions": [WIDTH] * 2,
        "intervention_types": [f"<class '{kind}'>"] * 2,
        "representations": [[layer, "block_output", "pos", 1, *[None] * 10] for layer in (0, 1)],
    }
    folder = write(tmp_path, "VanillaIntervention", {}, mode="serial", **both)
    with pytest.raises(ValueError, match=r"mode must be 'parallel'.*got 'serial'.*EditedSource"):
        load_pyvene(folder, tiny("llama"), on="last")
    write(tmp_path, "VanillaIntervention", {}, mode="parallel", **both)
    assert len(load_pyvene(folder, tiny("llama"), on="last").placements) == 2
    write(tmp_path, "VanillaIntervention", {}, mode="serial")  # one alone is in series with none
    assert len(load_pyvene(folder, tiny("llama"), on="last").placements) == 1


def linked(folder: Path, tensors: Saved, layers: tuple[int, int]) -> Path:
    """Two interventions of one rotation, in two parts of it, as pyvene saves linked ones."""
    kind = "LowRankRotatedSpaceIntervention"
    parts = [[0, 1], [1, 4]]
    keys = [f"layer_{layer}_comp_block_output_unit_pos_nunit_1" for layer in layers]
    keys = [f"{key}#{keys[:number].count(key)}" for number, key in enumerate(keys)]
    write(
        folder,
        kind,
        {},
        intervention_constant_sources=[False] * 2,
        intervention_dimensions=[WIDTH] * 2,
        intervention_types=[f"<class 'pyvene.models.interventions.{kind}'>"] * 2,
        representations=[
            [layer, "block_output", "pos", 1, 4, None, None, parts, None, 0, *[None] * 4]
            for layer in layers
        ],
        sorted_keys=keys,
    )
    for key in keys:
        torch.save(tensors, folder / f"intkey_{key}.bin")
    return folder


def test_linked_interventions_swap_each_its_part_from_its_source(tmp_path, tiny):
    tensors = saved("LowRankRotatedSpaceIntervention")
    folder = linked(tmp_path, tensors, (0, 0))
    found = load_pyvene(
        folder, tiny("llama"), on="last", subspaces=[[0], [1]], sources=["first", "second"]
    )
    assert [placement.source for placement in found.placements] == ["first", "second"]
    h, s, t = torch.randn(3, 5, WIDTH)
    one, two = found.interventions
    R = torch.from_numpy(rotation_of(tensors))
    expected = h.double() + (s - h).double() @ R[:, :1] @ R[:, :1].T
    expected += (t - h).double() @ R[:, 1:] @ R[:, 1:].T
    assert_close(two(one(h, s), t).double(), expected, atol=5e-6, rtol=0)
    some = load_pyvene(folder, tiny("llama"), on="last", subspaces=[[0], None]).interventions
    assert [edit.get_parameter("rows.matrix").shape[0] for edit in some] == [1, 4]


def test_interventions_linked_over_two_places_are_refused(tmp_path, tiny):
    tensors = saved("LowRankRotatedSpaceIntervention")
    with pytest.raises(ValueError, match="intervention_link_key 0 are at 2 places"):
        load_pyvene(linked(tmp_path / "layers", tensors, (0, 1)), tiny("llama"), on="last")
    with pytest.raises(ValueError, match="intervention_link_key 0 are at 2 places"):
        load_pyvene(linked(tmp_path / "tokens", tensors, (0, 0)), tiny("llama"), on=["f1", "l1"])


def test_a_class_of_pyreft_is_not_one_of_pyvene(tmp_path, tiny):
    kind = "LowRankRotatedSpaceIntervention"
    types = {"intervention_types": [f"<class 'elsewhere.{kind}'>"]}
    with pytest.raises(ValueError, match="cannot read interventions of <class 'elsewhere"):
        load_pyvene(write(tmp_path, kind, saved(kind), **types), tiny("llama"), on="last")


@pytest.mark.parametrize("name", ["rotate_layer.parametrizations.weight.0.base", "extra"])
def test_other_tensors_are_refused(tmp_path, tiny, name):
    kind = "RotatedSpaceIntervention"
    tensors = saved(kind)
    if name in tensors:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(2)
    with pytest.raises(ValueError, match="not the tensors that pyvene's Rotated"):
        load_pyvene(write(tmp_path, kind, tensors), tiny("llama"), on="last")


def test_another_models_width_is_refused(tmp_path, tiny, make_tiny):
    narrow = make_tiny("llama", hidden_size=16)
    for kind in ("LowRankRotatedSpaceIntervention", "SigmoidMaskIntervention"):
        folder = write(tmp_path, kind, saved(kind))
        with pytest.raises(ValueError, match="16 wide"):
            load_pyvene(folder, narrow, on="last")
