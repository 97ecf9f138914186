"""pyreft's folders, without pyreft: written here as it writes them, read by `load_pyreft`.

Truth is the formula of each class, written out in NumPy, and for whole models plain forward
hooks of torch on the unhooked transformers model. That real folders look like these is what
`benchmarks/parity.py` checks, with pyreft itself.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_that_sees
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal
from torch.testing import assert_close

from reft_interp.interop import load_pyreft
from reft_interp.interop.pyreft_classes import CLASSES, convert, orthonormal_columns
from reft_interp.interventions import LoReFT, NoReFT
from reft_interp.models import wrap_model
from reft_interp.positions import every, last
from reft_interp.runtime import IntervenedModel
from reft_interp.sites import Site

WIDTH, RANK = 32, 3
AFFINE = ["LoreftIntervention", "NoreftIntervention", "DireftIntervention", "NodireftIntervention"]
PROMPTS = ["The key near the doors is on the", "Yes,", "The author was"]

Saved = dict[str, Tensor]


# What pyreft would save


def rotation(rank: int = RANK, width: int = WIDTH) -> tuple[Saved, Tensor]:
    """A trained rotation: its tensors as torch saves them, and its value [width, rank]."""
    layer = nn.Module()
    layer.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(width, rank)))
    orthogonal(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter).tril(-1))
    state = {f"rotate_layer.{name}": tensor for name, tensor in layer.state_dict().items()}
    return state, layer.weight.detach()


def saved(kind: str, *, add_bias: bool = True, width: int = WIDTH, seed: int = 0) -> Saved:
    """The state dict of one of pyreft's interventions with random weights."""
    torch.manual_seed(seed)
    weight, bias = torch.randn(RANK, width) / width**0.5, torch.randn(RANK)
    state, R = rotation(width=width)
    affine = {"learned_source.weight": weight, "learned_source.bias": bias}
    free: Saved = {"proj_layer.weight": torch.randn(RANK, width) / width**0.5}
    if add_bias:
        free["proj_layer.bias"] = torch.randn(RANK)
    sizes = {"embed_dim": torch.tensor(width), "interchange_dim": torch.tensor(width)}
    return {
        "LoreftIntervention": {"weight": weight, "bias": bias, "rotate_layer": R},
        "NoreftIntervention": sizes | free | affine,
        "ConsreftIntervention": {"learned_source": bias} | sizes | state,
        "LobireftIntervention": {"learned_source": bias} | sizes | state,
        "DireftIntervention": sizes | state | affine,
        "NodireftIntervention": sizes | free | affine,
    }[kind]


def rotation_of(tensors: Saved) -> np.ndarray:
    """R [width, rank] by torch's own parametrization, from what it saved."""
    if "rotate_layer" in tensors:
        return tensors["rotate_layer"].double().numpy()
    original = tensors["rotate_layer.parametrizations.weight.original"]
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.eye(*original.shape))
    orthogonal(layer)
    layer.load_state_dict(
        {name.removeprefix("rotate_layer."): t for name, t in tensors.items() if "rotate" in name}
    )
    return layer.weight.detach().double().numpy()


def formula(kind: str, tensors: Saved, h: np.ndarray, f=lambda v: v) -> np.ndarray:
    """What pyreft 0.1.0 computes, in its own layout: h [n, d], R [d, r], W [r, d]."""
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    match kind:
        case "LoreftIntervention":
            R = rotation_of(tensors)
            return h + (f(h @ t["weight"].T + t["bias"]) - h @ R) @ R.T
        case "NoreftIntervention":
            projected = h @ t["proj_layer.weight"].T + t.get("proj_layer.bias", 0.0)
            learned = f(h @ t["learned_source.weight"].T + t["learned_source.bias"])
            return h + (learned - projected) @ t["proj_layer.weight"]
        case "ConsreftIntervention":
            R = rotation_of(tensors)
            return h + (t["learned_source"] - h @ R) @ R.T
        case "LobireftIntervention":
            return h + t["learned_source"] @ rotation_of(tensors).T
        case "DireftIntervention":
            learned = f(h @ t["learned_source.weight"].T + t["learned_source.bias"])
            return h + learned @ rotation_of(tensors).T
        case "NodireftIntervention":
            learned = f(h @ t["learned_source.weight"].T + t["learned_source.bias"])
            return h + learned @ t["proj_layer.weight"]
        case _:
            raise AssertionError(kind)


def write(
    folder: Path,
    *entries: tuple[str, Saved],
    layers: Sequence[int] = (1,),
    component: str | Sequence[str] = "block_output",
    joint: str = "_",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A folder with an intervention at each of `layers`, as `ReftModel.save` lays it out."""
    folder.mkdir(exist_ok=True)
    components = [component] * len(layers) if isinstance(component, str) else component
    representations, keys = [], []
    for layer, place in zip(layers, components, strict=True):
        representations.append([layer, place, "pos", 1, RANK, *[None] * 9])
        where = ["comp", place.replace(".", joint)]
        where = where if "." in place else ["layer", str(layer), *where]
        key = joint.join([*where, "unit", "pos", "nunit", "1"])
        keys.append(f"{key}#{sum(k.startswith(key) for k in keys)}")
    for key, (_, tensors) in zip(keys, entries, strict=True):
        torch.save(tensors, folder / f"intkey_{key}.bin")
    written = {
        "intervention_constant_sources": [True] * len(keys),
        "intervention_dimensions": [WIDTH] * len(keys),
        "intervention_types": [f"<class 'pyreft.interventions.{kind}'>" for kind, _ in entries],
        "mode": "parallel",
        "representations": representations,
        "sorted_keys": keys,
        "transformers_version": "4.57.6",
        **(config or {}),
    }
    (folder / "config.json").write_text(json.dumps(written))
    return folder


@pytest.fixture
def loreft() -> Saved:
    return saved("LoreftIntervention")


@pytest.fixture
def llama(tiny):
    return tiny("llama")


# The interventions


@pytest.mark.parametrize("add_bias", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_computes_its_formula(tmp_path, llama, kind, add_bias):
    tensors = saved(kind, add_bias=add_bias)
    h = torch.randn(5, WIDTH)
    expected = formula(kind, tensors, h.double().numpy())
    (edit,) = load_pyreft(write(tmp_path, (kind, tensors)), llama, on="l1").interventions
    # float32 against float64
    assert_close(edit(h).double(), torch.from_numpy(expected), atol=2e-6, rtol=0)
    assert np.abs(expected - h.numpy()).max() > 0.1


@pytest.mark.parametrize("kind", AFFINE)
def test_the_activation_function_falls_on_the_affine_map_alone(tmp_path, llama, kind):
    tensors = saved(kind)
    h = torch.randn(5, WIDTH)
    expected = formula(kind, tensors, h.double().numpy(), f=lambda v: np.maximum(v, 0))
    folder = write(tmp_path, (kind, tensors))
    (edit,) = load_pyreft(folder, llama, on="l1", act_fn="relu").interventions
    (linear,) = load_pyreft(folder, llama, on="l1").interventions
    assert_close(edit(h).double(), torch.from_numpy(expected), atol=2e-6, rtol=0)
    assert (edit(h) - linear(h)).abs().max() > 0.1


def test_the_rotation_is_the_subspace(tmp_path, llama, loreft):
    (edit,) = load_pyreft(
        write(tmp_path, ("LoreftIntervention", loreft)), llama, on="l1"
    ).interventions
    assert isinstance(edit, LoReFT)
    assert_close(edit.subspace.basis, loreft["rotate_layer"].T)


@pytest.mark.parametrize("rank", [1, 3, 7, 8])
def test_a_rotation_is_rebuilt_as_torch_builds_it(rank):
    torch.manual_seed(rank)
    state, R = rotation(rank, width=8)  # rank 8: a square matrix, another parametrization
    original, base = state.values()
    assert_close(orthonormal_columns(original, base), R, atol=1e-6, rtol=0)
    assert (R - base[:, :rank]).abs().max() > 0.01


def test_bfloat16_is_read_as_float32(loreft):
    half = {name: tensor.bfloat16() for name, tensor in loreft.items() if name != "rotate_layer"}
    edit = convert("LoreftIntervention", half | {"rotate_layer": loreft["rotate_layer"]})
    assert {p.dtype for p in edit.parameters()} == {torch.float32}
    assert_close(edit.get_parameter("value.bias"), loreft["bias"].bfloat16().float())


def test_a_loreft_that_lost_its_orthonormality_computes_the_same(tmp_path, llama, loreft):
    loreft["rotate_layer"] = loreft["rotate_layer"] * torch.tensor([1.0, 0.9, 0.0])
    folder = write(tmp_path, ("LoreftIntervention", loreft))
    with pytest.warns(UserWarning, match="not orthonormal.*loaded as NoReFT"):
        (edit,) = load_pyreft(folder, llama, on="l1").interventions
    assert isinstance(edit, NoReFT)
    h = torch.randn(5, WIDTH)
    expected = formula("LoreftIntervention", loreft, h.double().numpy())
    assert_close(edit(h).double(), torch.from_numpy(expected), atol=2e-6, rtol=0)


def test_a_rotation_that_weight_decay_removed_is_refused(tmp_path, llama):
    tensors = saved("DireftIntervention")
    original = tensors["rotate_layer.parametrizations.weight.original"]
    original.diagonal().mul_(0.999)
    assert np.abs(rotation_of(tensors)).max() == 0  # torch's own parametrization agrees
    with pytest.raises(ValueError, match=r"not orthonormal.*Weight decay"):
        load_pyreft(write(tmp_path, ("DireftIntervention", tensors)), llama, on="l1")


# Places and positions, in a whole model


def hooked_logits(
    parts: tuple[Any, Any], places: Sequence[tuple[str, bool, Callable, Callable]]
) -> list[Tensor]:
    """Logits of each prompt by forward hooks on the transformers model, one prompt at a time.

    Each place is a module's name, whether its output is edited (or its input), the edit, and
    the edited tokens as a function of the prompt's length.
    """
    model, tokenizer = parts
    results = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        n, handles = ids.shape[1], []
        for name, is_output, edit, tokens in places:
            module, where = model.get_submodule(name), sorted(set(tokens(n)))

            def change(h, edit=edit, where=where):
                h = h.clone()
                h[0, where] = torch.from_numpy(edit(h[0, where].double().numpy())).float()
                return h

            def after(module, args, output, change=change):
                if isinstance(output, tuple):
                    return (change(output[0]), *output[1:])
                return change(output)

            def before(module, args, kwargs, change=change):
                if args:
                    return (change(args[0]), *args[1:]), kwargs
                return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

            handles.append(
                module.register_forward_hook(after)
                if is_output
                else module.register_forward_pre_hook(before, with_kwargs=True)
            )
        with torch.no_grad():
            results.append(model(ids).logits[0])
        for handle in handles:
            handle.remove()
    return results


def assert_same_logits(reft: IntervenedModel, expected: Sequence[Tensor]) -> None:
    found = reft.logits(PROMPTS)
    untouched = [
        reft.model(reft.model.tokenizer(p, return_tensors="pt").input_ids) for p in PROMPTS
    ]
    for row, (logits, plain) in enumerate(zip(expected, untouched, strict=True)):
        assert_close(found[row, : len(logits)], logits, atol=2e-5, rtol=1e-4)
        assert (plain[0] - logits).abs().max() > 0.01


def pyreft_positions(first: int, last: int) -> Callable[[int], list[int]]:
    """The same as pyreft's get_intervention_locations, without its padding."""
    return lambda n: [
        *range(min(n // 2, first)),
        *range(n - min(n // 2, last), n),
    ]


def edit_of(kind: str, tensors: Saved) -> Callable[[np.ndarray], np.ndarray]:
    return lambda h: formula(kind, tensors, h)


@pytest.mark.parametrize(("on", "first", "last"), [("f2+l3", 2, 3), ("f1", 1, 0), ("l4", 0, 4)])
def test_the_positions_are_rounded_as_in_pyreft(tmp_path, tiny_parts, llama, on, first, last):
    parts = tiny_parts("llama")
    lengths = [len(parts[1](prompt).input_ids) for prompt in PROMPTS]
    assert min(lengths) // 2 < 2 < max(lengths) // 2  # both cases of the rounding are here
    kinds = ["LoreftIntervention", "DireftIntervention"]
    entries = [(kind, saved(kind, seed=seed)) for seed, kind in enumerate(kinds)]
    reft = load_pyreft(write(tmp_path, *entries, layers=[0, 1]), llama, on=on)
    tokens = pyreft_positions(first, last)
    places = [
        (f"model.layers.{layer}", True, edit_of(*entry), tokens)
        for layer, entry in enumerate(entries)
    ]
    assert_same_logits(reft, hooked_logits(parts, places))


def test_two_interventions_at_a_layer_are_prefix_and_suffix(tmp_path, tiny_parts, llama):
    entries = [("LoreftIntervention", saved("LoreftIntervention", seed=seed)) for seed in range(4)]
    folder = write(tmp_path, *entries, layers=[0, 1, 0, 1])
    tokens = [pyreft_positions(2, 0)] * 2 + [pyreft_positions(0, 2)] * 2
    places = [
        (f"model.layers.{layer}", True, edit_of(*entry), where)
        for layer, entry, where in zip([0, 1, 0, 1], entries, tokens, strict=True)
    ]
    expected = hooked_logits(tiny_parts("llama"), places)
    for on in ("f2+l2", ["f2", "l2"], ["f2", "f2", "l2", "l2"]):
        assert_same_logits(load_pyreft(folder, llama, on=on), expected)


def test_a_list_gives_each_intervention_its_own_selector(tmp_path, llama):
    entries = [("LoreftIntervention", saved("LoreftIntervention"))] * 2
    folder = write(tmp_path, *entries, layers=[1, 1])
    reft = load_pyreft(folder, llama, on=[every(), last()])
    assert [str(p.on) for p in reft.placements] == ["every", "last rounding=pyreft"]
    on = "f3+l3 rounding=pyreft-but-last"
    ends = [str(p.on) for p in load_pyreft(folder, llama, on=on).placements]
    assert ends == ["f3 rounding=pyreft-but-last", "l3 rounding=pyreft-but-last"]


@pytest.mark.parametrize(
    ("architecture", "component", "module", "is_output"),
    [
        ("llama", "block_output", "model.layers.1", True),
        ("llama", "block_input", "model.layers.1", False),
        ("llama", "attention_output", "model.layers.1.self_attn", True),
        ("llama", "mlp_output", "model.layers.1.mlp", True),
        ("llama", "attention_value_output", "model.layers.1.self_attn.o_proj", False),
        ("llama", "model.layers[1].output", "model.layers.1", True),
        ("llama", "model.layers[1].self_attn.output", "model.layers.1.self_attn", True),
        ("llama", "model.layers[1].mlp.output", "model.layers.1.mlp", True),
        ("llama", "layers[1].output", "model.layers.1", True),  # of a LlamaModel
        ("llama", "base_model.model.model.layers[1].output", "model.layers.1", True),  # with LoRA
        ("gpt2", "block_output", "transformer.h.1", True),
        ("gpt2", "attention_output", "transformer.h.1.attn", True),
        ("gpt2", "transformer.h[1].mlp.output", "transformer.h.1.mlp", True),
        ("gemma2", "block_output", "model.layers.1", True),
    ],
)
def test_components_are_the_same_places(
    tmp_path, tiny_parts, tiny, architecture, component, module, is_output
):
    entry = ("NodireftIntervention", saved("NodireftIntervention"))
    reft = load_pyreft(write(tmp_path, entry, component=component), tiny(architecture), on="f2+l2")
    places = [(module, is_output, edit_of(*entry), pyreft_positions(2, 2))]
    assert_same_logits(reft, hooked_logits(tiny_parts(architecture), places))


@pytest.mark.parametrize("blocks", ["model.language_model", "language_model.model"])
def test_llava_has_one_text_model_by_its_names_of_now_and_before(tmp_path, blocks):
    model = wrap_model(*tiny_that_sees("LlavaForConditionalGeneration"), name="tiny")
    entry = ("NodireftIntervention", saved("NodireftIntervention"))
    folder = write(tmp_path, entry, component=f"{blocks}.layers[1].output")
    (placement,) = load_pyreft(folder, model, on="last").placements
    assert placement.site == Site("resid_post", 1)


@pytest.mark.parametrize("component", ["block_output", "model.layers[1].output"])
def test_the_dotted_names_of_older_versions_are_found(tmp_path, llama, loreft, component):
    entry = ("LoreftIntervention", loreft)
    old = write(tmp_path / "old", entry, component=component, joint=".")
    assert [path.name for path in old.glob("*.bin")] != [
        path.name for path in write(tmp_path / "new", entry, component=component).glob("*.bin")
    ]
    logits = [load_pyreft(tmp_path / f, llama, on="l1").logits(PROMPTS) for f in ("old", "new")]
    assert_close(*logits)


def test_representations_may_be_mappings(tmp_path, llama, loreft):
    representation = {"layer": 1, "low_rank_dimension": RANK}
    folder = write(
        tmp_path, ("LoreftIntervention", loreft), config={"representations": [representation]}
    )
    (placement,) = load_pyreft(folder, llama, on="l1").placements
    assert str(placement.site) == "blocks.1.hook_resid_post"


# Composition: some rows of a LoReFT for each example


COMPOSED = {"intervention_types": ["<class '__main__.SubloreftIntervention'>"]}


def composed(tensors: Saved, rows: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """What SubloreftIntervention computes for an example whose `subspaces` are these rows."""

    def edit(h: np.ndarray) -> np.ndarray:
        R = rotation_of(tensors)
        learned = h @ tensors["weight"].double().numpy().T + tensors["bias"].double().numpy()
        return h + (learned - h @ R)[:, rows] @ R[:, rows].T

    return edit


@pytest.mark.parametrize("rows", [[0], [2, 1], [0, 1, 2]])
def test_a_composed_loreft_edits_along_the_rows_that_it_is_told(tmp_path, llama, loreft, rows):
    folder = write(tmp_path, ("LoreftIntervention", loreft), config=COMPOSED)
    (edit,) = load_pyreft(folder, llama, on="l1", subspaces=rows).interventions
    assert isinstance(edit, LoReFT)
    h = torch.randn(5, WIDTH)
    expected = torch.from_numpy(composed(loreft, rows)(h.double().numpy()))
    assert_close(edit(h).double(), expected, atol=2e-6, rtol=0)


def test_named_parts_of_a_composed_loreft_are_switched_by_row(tmp_path, tiny_parts, llama, loreft):
    parts = {"formal": [0], "french": [2, 1], "both": [0, 1, 2]}
    folder = write(tmp_path, ("LoreftIntervention", loreft), config=COMPOSED)
    reft = load_pyreft(folder, llama, on="f2", subspaces=parts)
    expected = [
        hooked_logits(
            tiny_parts("llama"),
            [("model.layers.1", True, composed(loreft, rows), pyreft_positions(2, 0))],
        )[number]
        for number, rows in enumerate(parts.values())
    ]
    rows = [{"prompt": prompt, "edits": name} for prompt, name in zip(PROMPTS, parts, strict=True)]
    found = reft.logits(rows)
    for number, logits in enumerate(expected):
        assert_close(found[number, : len(logits)], logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("subspaces", "message"),
    [
        (None, "SubloreftIntervention, of which each example edits some rows: say which"),
        ([], r"different numbers of its 3 coordinates, 0 to 2, as \[0\], got \[\]"),
        ([3], r"got \[3\]"),
        ([-1], r"got \[-1\]"),
        ({"formal": [0], "french": [1, 1]}, r"got \[1, 1\]"),
    ],
)
def test_rows_that_a_composed_loreft_does_not_have_are_refused(
    tmp_path, llama, loreft, subspaces, message
):
    folder = write(tmp_path, ("LoreftIntervention", loreft), config=COMPOSED)
    with pytest.raises(ValueError, match=message):
        load_pyreft(folder, llama, on="l1", subspaces=subspaces)


def test_subspaces_are_refused_where_pyreft_ignores_them(tmp_path, llama, loreft):
    folder = write(tmp_path, ("LoreftIntervention", loreft))
    with pytest.raises(ValueError, match=r"subspaces are for SubloreftIntervention, but .* holds"):
        load_pyreft(folder, llama, on="l1", subspaces=[0])


def test_a_class_of_that_name_with_other_tensors_is_refused(tmp_path, llama, loreft):
    loreft["mask"] = torch.zeros(RANK)
    folder = write(tmp_path, ("LoreftIntervention", loreft), config=COMPOSED)
    with pytest.raises(ValueError, match=r"unknown \['mask'\]"):
        load_pyreft(folder, llama, on="l1", subspaces=[0])


def test_what_was_read_can_be_saved_as_ours(tmp_path, llama):
    entries = [(kind, saved(kind)) for kind in CLASSES]
    folder = write(tmp_path / "pyreft", *entries, layers=[0, 1, 0, 1, 0, 1])
    reft = load_pyreft(folder, llama, on=["l1"] * 6)
    reft.save(tmp_path / "ours")
    again = IntervenedModel.load(tmp_path / "ours", llama)
    assert_close(again.logits(PROMPTS), reft.logits(PROMPTS))


# What is refused


class _Command:
    """What a hostile pickle holds: something to call when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_executes_something_is_refused(tmp_path, llama, loreft):
    folder = write(tmp_path / "folder", ("LoreftIntervention", loreft))
    (file,) = folder.glob("*.bin")
    torch.save(loreft | {"bias": _Command(tmp_path / "executed")}, file)
    with pytest.raises(ValueError, match="refused"):
        load_pyreft(folder, llama, on="l1")
    assert not (tmp_path / "executed").exists()
    torch.load(file, weights_only=False)  # the file is what it is meant to be
    assert (tmp_path / "executed").exists()


def test_a_truncated_file_is_refused(tmp_path, llama, loreft):
    folder = write(tmp_path, ("LoreftIntervention", loreft))
    (file,) = folder.glob("*.bin")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_pyreft(folder, llama, on="l1")


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"weight": 3}])
def test_something_else_than_tensors_is_refused(tmp_path, llama, loreft, content):
    folder = write(tmp_path, ("LoreftIntervention", loreft))
    (file,) = folder.glob("*.bin")
    torch.save(content, file)
    with pytest.raises(ValueError, match="something else than named tensors"):
        load_pyreft(folder, llama, on="l1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bias"), r"missing \['bias'\]"),
        (lambda t: t.update(extra=t["bias"]), r"unknown \['extra'\]"),
        (lambda t: t.update(weight=t["weight"][:2]), "contradict each other"),
        (lambda t: t.update(rotate_layer=t["weight"]), "contradict each other"),
        (lambda t: t.update(bias=t["bias"][0]), "contradict each other"),
        (lambda t: t["bias"].fill_(torch.nan), "not finite"),
    ],
)
def test_other_tensors_than_the_class_saves_are_refused(tmp_path, llama, loreft, change, message):
    change(loreft)
    with pytest.raises(ValueError, match=message):
        load_pyreft(write(tmp_path, ("LoreftIntervention", loreft)), llama, on="l1")


def test_a_model_of_another_width_is_refused(tmp_path, llama):
    entry = ("LoreftIntervention", saved("LoreftIntervention", width=48))
    with pytest.raises(ValueError, match=r"48 wide, but blocks\.1.*tiny-llama is 32 wide"):
        load_pyreft(write(tmp_path, entry), llama, on="l1")


def test_a_model_of_another_depth_is_refused(tmp_path, llama, loreft):
    folder = write(tmp_path, ("LoreftIntervention", loreft), layers=[7])
    with pytest.raises(ValueError, match="another model: layer must be between 0 and 1"):
        load_pyreft(folder, llama, on="l1")


@pytest.mark.parametrize(
    "component",
    [
        "mlp_activation",
        "model.layers[1].mlp.input",
        "lm_head",
        "model.vision_tower.encoder.layers[1].output",
        "transformer.h[1].output",
    ],
)
def test_an_unknown_component_is_refused(tmp_path, llama, loreft, component):
    folder = write(tmp_path, ("LoreftIntervention", loreft), component=component)
    with pytest.raises(ValueError, match="known components are block_input, block_output"):
        load_pyreft(folder, llama, on="l1")


@pytest.mark.parametrize("component", ["attention_output", "mlp_output"])
def test_a_place_that_ours_is_not_is_refused(tmp_path, tiny, loreft, component):
    # Gemma 2 norms what attention and MLP give; pyreft edits before the norm, the site is after.
    folder = write(tmp_path, ("LoreftIntervention", loreft), component=component)
    with pytest.raises(ValueError, match="on this architecture the two differ"):
        load_pyreft(folder, tiny("gemma2"), on="l1")


@pytest.mark.parametrize(
    "written",
    [
        "<class 'pyreft.interventions.MysteryIntervention'>",
        "<class '__main__.LoreftIntervention'>",
        "<class 'pyvene.models.interventions.LowRankRotatedSpaceIntervention'>",
        "LoreftIntervention",
    ],
)
def test_an_unknown_class_is_refused(tmp_path, llama, loreft, written):
    folder = write(
        tmp_path, ("LoreftIntervention", loreft), config={"intervention_types": [written]}
    )
    with pytest.raises(ValueError, match="known classes of pyreft are LoreftIntervention, Nor"):
        load_pyreft(folder, llama, on="l1")


def test_convert_lists_the_classes_that_it_knows(loreft):
    with pytest.raises(ValueError, match="'Reft'; the known ones are LoreftIntervention, Noreft"):
        convert("Reft", loreft)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (2, "h.pos", "unit must be 'pos'"),
        (9, "shared", "intervention_link_key"),
        (10, 0, "moe_key"),
    ],
)
def test_what_pyvene_offers_beyond_pyreft_is_refused(
    tmp_path, llama, loreft, field, value, message
):
    representation: list[Any] = [1, "block_output", "pos", 1, RANK, *[None] * 9]
    representation[field] = value
    folder = write(
        tmp_path, ("LoreftIntervention", loreft), config={"representations": [representation]}
    )
    with pytest.raises(ValueError, match=message):
        load_pyreft(folder, llama, on="l1")


@pytest.mark.parametrize(
    "config",
    [
        {"representations": []},
        {"representations": [[1, "block_output", "pos", 1]] * 2},
        {"representations": [[1]]},
        {"representations": None},
        {"intervention_types": 3},
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path, llama, loreft, config):
    folder = write(tmp_path, ("LoreftIntervention", loreft), config=config)
    with pytest.raises(ValueError, match=r"config\.json is not what pyreft writes"):
        load_pyreft(folder, llama, on="l1")


def test_a_config_that_is_no_json_is_refused(tmp_path, llama, loreft):
    folder = write(tmp_path, ("LoreftIntervention", loreft))
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not what pyreft writes"):
        load_pyreft(folder, llama, on="l1")


def test_a_missing_file_is_named(tmp_path, llama, loreft):
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*ReftModel\.save"):
        load_pyreft(tmp_path, llama, on="l1")
    folder = write(tmp_path / "folder", *[("LoreftIntervention", loreft)] * 2, layers=[0, 1])
    (folder / "intkey_layer_1_comp_block_output_unit_pos_nunit_1#0.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no intkey_layer_1_.*there are: intkey_layer_0_"):
        load_pyreft(folder, llama, on="l1")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="checkpoint of pyreft's trainer"):
        load_pyreft(folder, llama, on="l1")


@pytest.mark.parametrize("kind", ["ConsreftIntervention", "LobireftIntervention"])
def test_an_activation_function_where_there_is_none_is_refused(tmp_path, llama, kind):
    with pytest.raises(ValueError, match=f"act_fn: pyreft's {kind} has none"):
        load_pyreft(write(tmp_path, (kind, saved(kind))), llama, on="l1", act_fn="relu")


def test_an_unknown_activation_function_is_refused(tmp_path, llama, loreft):
    with pytest.raises(ValueError, match="activation must be one of"):
        load_pyreft(
            write(tmp_path, ("LoreftIntervention", loreft)), llama, on="l1", act_fn="square"
        )


@pytest.mark.parametrize(
    ("layers", "on", "message"),
    [
        ([0, 1, 0, 1], "l2", "several at one place"),
        ([0, 1, 0, 1], "every", "several at one place"),
        ([0, 0, 1, 1], "f2+l2", "several at one place"),  # who is the suffix is not to be known
        ([0, 0, 0], "f2+l2", "several at one place"),
        ([0, 1, 0, 1], ["f2", "f2", "l2"], "on must be one selector, two .* or 4"),
        ([0, 0, 0], ["f2", "l2"], "on must be one selector, two .* or 3"),
        ([0], "f2 or so", "cannot be read|not an option"),
    ],
)
def test_positions_that_do_not_fit_the_folder_are_refused(
    tmp_path, llama, loreft, layers, on, message
):
    folder = write(tmp_path, *[("LoreftIntervention", loreft)] * len(layers), layers=layers)
    with pytest.raises(ValueError, match=message):
        load_pyreft(folder, llama, on=on)


def test_trained_weights_of_the_base_model_are_not_passed_over_in_silence(tmp_path, llama, loreft):
    folder = write(tmp_path, ("LoreftIntervention", loreft))
    torch.save({}, folder / "pytorch_model.bin")  # include_model=True, nothing trained
    load_pyreft(folder, llama, on="l1")
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"trained too: lm_head\.weight\. Without them"):
        load_pyreft(folder, llama, on="l1")
    load_pyreft(folder, llama, on="l1", ignore_model_weights=True)
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: "):
        load_pyreft(folder, llama, on="l1")
