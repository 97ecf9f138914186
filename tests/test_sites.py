"""Sites against naive loops, and against the same change made in the transformers model."""

import json
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from tiny_models import tiny_tokenizer
from torch import Tensor
from torch.testing import assert_close
from transformers import OPTConfig, OPTForCausalLM

from reft_interp.models import wrap_model
from reft_interp.positions import Positions
from reft_interp.sites import Component, Site

COMPONENTS: tuple[str, ...] = get_args(Component)
LACKING = {"gpt_neox": {"resid_mid"}, "mixtral": {"mlp_post"}}
NEURONS = {"gpt2": 128}  # four times its width; the other configurations say 64
ATTENTION_OUTPUT = {
    "gpt2": "transformer.h.1.attn.c_proj",
    "gpt_neox": "gpt_neox.layers.1.attention.dense",
    "bert": "bert.encoder.layer.1.attention.output.dense",
}
MLP_OUTPUT = {
    "gpt2": "transformer.h.1.mlp.c_proj",
    "gpt_neox": "gpt_neox.layers.1.mlp.dense_4h_to_h",
    "bert": "bert.encoder.layer.1.output.dense",
}
ARCHITECTURES = ["gpt2", "gpt_neox", "llama", "qwen2", "gemma2", "bert", "mixtral"]
PRESENT = [(a, c) for a in ARCHITECTURES for c in COMPONENTS if c not in LACKING.get(a, ())]

IDS = torch.arange(10, 24).reshape(2, 7)
SOME = Positions(torch.tensor([0, 0, 1]), torch.tensor([2, 5, 4]))
ALL = Positions(torch.arange(2).repeat_interleave(7), torch.arange(7).repeat(2))


@torch.no_grad()
def logits(model: Any, hooks: Any = ()) -> Tensor:
    with model.hooks(fwd_hooks=list(hooks)):
        return model(IDS, attention_mask=torch.ones_like(IDS), return_type="logits")


def held(model: Any, *sites: Site) -> dict[Site, Tensor]:
    """What an untouched run holds at each site, in the order in which it comes by."""
    seen: dict[Site, Tensor] = {}

    def reader(site: Site):
        def read(activation: Tensor, hook: Any) -> None:
            seen[site] = activation.detach().clone()

        return site.hook_name, read

    logits(model, [reader(site) for site in sites])
    return seen


def zero(site: Site, positions: Positions):
    def edit(activation: Tensor, hook: Any) -> Tensor:
        return site.write(activation, positions, 0 * site.read(activation, positions))

    return site.hook_name, edit


# Names and widths


@pytest.mark.parametrize(
    ("component", "hook"),
    [
        ("resid_pre", "blocks.3.hook_resid_pre"),
        ("resid_mid", "blocks.3.hook_resid_mid"),
        ("resid_post", "blocks.3.hook_resid_post"),
        ("attn_out", "blocks.3.hook_attn_out"),
        ("mlp_out", "blocks.3.hook_mlp_out"),
        ("z", "blocks.3.attn.hook_z"),
        ("mlp_post", "blocks.3.mlp.hook_post"),
    ],
)
def test_hooks_have_transformer_lens_names(component, hook):
    assert Site(component, 3).hook_name == hook
    assert str(Site(component, 3)) == hook


def test_a_site_names_its_heads_and_neurons():
    assert str(Site("z", 1, heads=2)) == "blocks.1.attn.hook_z[2]"
    assert str(Site("mlp_post", 0, neurons=range(3))) == "blocks.0.mlp.hook_post[0,1,2]"
    assert Site("z", 1, heads=0) != Site("z", 1)


@pytest.mark.parametrize(
    "site", [Site("resid_mid", 2), Site("z", 0, heads=[3, 1]), Site("mlp_post", 1, neurons=5)]
)
def test_a_site_is_rebuilt_from_its_json(site):
    rebuilt = Site(**json.loads(json.dumps(site.to_config())))
    assert rebuilt == site
    assert hash(rebuilt) == hash(site)


@pytest.mark.parametrize(("architecture", "component"), PRESENT)
def test_a_site_is_as_wide_as_what_its_hook_holds(tiny, architecture, component):
    model, site = tiny(architecture), Site(component, 1)
    site.check(model)
    activation = held(model, site)[site]
    assert activation[0, 0].numel() == site.width(model)
    assert site.read(activation, SOME).shape == (3, site.width(model))
    expected = {"mlp_post": NEURONS.get(architecture, 64)}.get(component, 32)
    assert site.width(model) == expected


def test_chosen_heads_and_neurons_are_narrower(tiny):
    assert Site("z", 0, heads=[0, 3]).width(tiny("llama")) == 2 * 8
    assert Site("z", 0, heads=0).width(tiny("llama")) == 8
    assert Site("mlp_post", 0, neurons=[7, 2, 5]).width(tiny("llama")) == 3


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "bert"])
def test_depth_is_the_order_in_which_the_model_comes_by(tiny, architecture):
    sites = [Site(c, layer) for a, c in PRESENT if a == architecture for layer in (1, 0)]
    assert list(held(tiny(architecture), *sites)) == sorted(sites, key=lambda site: site.depth)


# What the components are


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_residual_stream_is_what_transformers_calls_hidden_states(
    tiny, tiny_parts, architecture
):
    model, _ = tiny_parts(architecture)
    with torch.no_grad():
        states = model(IDS, attention_mask=torch.ones_like(IDS), output_hidden_states=True)
    pre, post = Site("resid_pre", 1), Site("resid_post", 0)
    seen = held(tiny(architecture), pre, post)
    # float32; the bridge's attention sums in another order
    assert_close(seen[pre], states.hidden_states[1], rtol=1e-5, atol=1e-5)
    assert_close(seen[post], states.hidden_states[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(seen[post], states.hidden_states[0])


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "bert"])
def test_sublayers_hold_what_they_add_to_the_residual_stream(tiny, architecture):
    names = [c for a, c in PRESENT if a == architecture and c not in ("z", "mlp_post")]
    seen = {
        s.component: x for s, x in held(tiny(architecture), *(Site(c, 1) for c in names)).items()
    }
    after_attention = seen["resid_pre"] + seen["attn_out"]
    if "resid_mid" in seen:
        assert_close(seen["resid_mid"], after_attention)
    assert_close(seen["resid_post"], after_attention + seen["mlp_out"])
    assert not torch.allclose(seen["resid_post"], after_attention)


def test_berts_hooks_are_around_its_norms(tiny, tiny_parts):
    model, _ = tiny_parts("bert")
    layer = model.bert.encoder.layer[1]
    names = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    seen = {s.component: x for s, x in held(tiny("bert"), *(Site(c, 1) for c in names)).items()}
    # As the docstring of Site says. If this fails, TransformerLens has moved its hooks.
    assert_close(seen["resid_mid"], seen["attn_out"] + seen["mlp_out"])
    with torch.no_grad():
        attended = layer.attention(seen["resid_pre"])[0]
        normed = layer.output.LayerNorm(seen["resid_mid"])
    assert_close(seen["attn_out"], attended, rtol=1e-5, atol=1e-5)
    assert_close(seen["resid_post"], normed, rtol=1e-5, atol=1e-5)


def _cut(model: Any, module: str, inputs: list[int]) -> None:
    """Sever some inputs of a linear module: what they hold counts for nothing."""
    projection = model.get_submodule(module)
    with torch.no_grad():
        if type(projection).__name__ == "Conv1D":  # gpt2 stores the transpose
            projection.weight[inputs] = 0
        else:
            projection.weight[:, inputs] = 0


@torch.no_grad()
def _transformers_logits(model: Any) -> Tensor:
    return model(IDS, attention_mask=torch.ones_like(IDS)).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("heads", [[1], [3, 0]])
def test_zeroed_heads_are_columns_cut_from_the_output_projection(
    tiny, tiny_parts, architecture, heads
):
    # On llama, qwen2, gemma2 and mixtral two query heads share keys and values.
    severed, _ = tiny_parts(architecture)
    whole = _transformers_logits(severed)
    module = ATTENTION_OUTPUT.get(architecture, "model.layers.1.self_attn.o_proj")
    _cut(severed, module, [8 * head + i for head in heads for i in range(8)])
    found = logits(tiny(architecture), [zero(Site("z", 1, heads=heads), ALL)])
    assert_close(found, _transformers_logits(severed), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mixtral"])
@pytest.mark.parametrize("neurons", [[17], list(range(60, 20, -3))])
def test_zeroed_neurons_are_columns_cut_from_the_mlp(tiny, tiny_parts, architecture, neurons):
    severed, _ = tiny_parts(architecture)
    whole = _transformers_logits(severed)
    _cut(severed, MLP_OUTPUT.get(architecture, "model.layers.1.mlp.down_proj"), neurons)
    found = logits(tiny(architecture), [zero(Site("mlp_post", 1, neurons=neurons), ALL)])
    assert_close(found, _transformers_logits(severed), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("architecture", "component"), PRESENT)
def test_an_edit_changes_the_logits_of_the_edited_token(tiny, architecture, component):
    model, site = tiny(architecture), Site(component, 1)
    before = logits(model)
    edited = logits(model, [zero(site, Positions(torch.tensor([1]), torch.tensor([4])))])
    change = (edited - before).abs().amax(-1)
    assert change[1, 4] > 1e-3
    assert_close(edited[0], before[0], rtol=1e-5, atol=1e-5)  # the other row
    if architecture != "bert":
        assert_close(edited[1, :4], before[1, :4], rtol=1e-5, atol=1e-5)  # what comes before
    assert_close(logits(model), before, rtol=0, atol=0)  # the hook is off again


# Reading and writing


@pytest.mark.parametrize(
    ("site", "inner"),
    [
        (Site("resid_post", 0), (6,)),
        (Site("z", 0), (4, 3)),
        (Site("z", 0, heads=2), (4, 3)),
        (Site("z", 0, heads=(3, 1)), (4, 3)),
        (Site("mlp_post", 0), (6,)),
        (Site("mlp_post", 0, neurons=0), (6,)),
        (Site("mlp_post", 0, neurons=[4, 5, 1]), (6,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("positions", [SOME, ALL, Positions(*torch.zeros(2, 0).long())])
def test_reading_and_writing_is_a_loop_over_tokens(site, inner, positions):
    torch.manual_seed(0)
    activation = torch.randn(2, 7, *inner)
    untouched = activation.clone()
    chosen = site.heads or site.neurons or range(inner[0])
    new = torch.randn(len(positions), len(chosen) * activation[0, 0, 0].numel())

    read, written = [], activation.clone()
    for n, (row, column) in enumerate(zip(positions.rows, positions.columns, strict=True)):
        token = activation[row, column]
        read.append(torch.cat([token[i].flatten() for i in chosen]))
        for i, piece in zip(chosen, new[n].chunk(len(chosen)), strict=True):
            written[row, column, i] = piece.reshape(token[i].shape)

    found = site.read(activation, positions)
    assert found.shape == new.shape
    assert_close(found, torch.stack(read) if read else new, rtol=0, atol=0)
    assert_close(site.write(activation, positions, new), written, rtol=0, atol=0)
    assert_close(activation, untouched, rtol=0, atol=0)  # a copy was written
    assert_close(site.write(activation, positions, found), untouched, rtol=0, atol=0)
    assert len(positions) == 0 or not torch.equal(written, untouched)


@pytest.mark.parametrize("site", [Site("resid_post", 0), Site("mlp_post", 0, neurons=[1, 3])])
def test_the_gradient_reaches_what_was_written_and_what_was_left(site):
    activation = torch.ones(2, 7, 6, requires_grad=True)
    new = torch.ones(3, 2 if site.neurons else 6, requires_grad=True)
    site.write(activation, SOME, new).sum().backward()
    assert new.grad is not None and activation.grad is not None
    assert_close(new.grad, torch.ones_like(new))
    expected = torch.ones(2, 7, 6)
    for row, column in zip(SOME.rows, SOME.columns, strict=True):
        expected[row, column, list(site.neurons or range(6))] = 0
    assert_close(activation.grad, expected)


# What is refused


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resid", 0), ValueError, "component must be one of resid_pre, .*mlp_post, got 'resid'"),
        (("z", -1), ValueError, "layer must be at least 0, got -1"),
        (("z", 1.0), TypeError, r"layer must be an integer, got 1\.0"),
        (("z", True), TypeError, "layer must be an integer, got True"),
        (("resid_post", 0, 1), ValueError, "heads .* at component 'z' only, got 'resid_post'"),
        (("z", 0, None, 1), ValueError, "neurons .* at 'mlp_post' only, got 'z'"),
        (("z", 0, -1), ValueError, "heads must be different indices from 0 on, got -1"),
        (("z", 0, [1, 1]), ValueError, r"heads must be different indices .*\[1, 1\]"),
        (("z", 0, []), ValueError, r"heads must be different indices .*\[\]"),
        (("mlp_post", 0, None, [3, -2]), ValueError, "neurons must be different indices"),
    ],
)
def test_an_impossible_site_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Site(*arguments)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site("z", 2), r"layer must be between 0 and 1 \(tiny-llama has 2 layers\), got 2"),
        (Site("z", 0, heads=[1, 4]), r"heads must be between 0 and 3 .* got \[1, 4\]"),
        (Site("mlp_post", 0, neurons=64), "neurons must be between 0 and 63 .* got 64$"),
        (Site("z", 0, heads=9), "heads must be between 0 and 3 .* got 9$"),
    ],
)
def test_what_the_model_is_too_small_for_is_refused_with_the_range(tiny, site, message):
    for check in (site.check, site.width):
        with pytest.raises(ValueError, match=message):
            check(tiny("llama"))


def test_parallel_blocks_have_no_point_between_attention_and_mlp(tiny, make_tiny):
    site = Site("resid_mid", 0)
    with pytest.raises(ValueError, match=r"tiny-gpt_neox has no resid_mid at layer 0.*in parallel"):
        site.check(tiny("gpt_neox"))
    serial = make_tiny("gpt_neox", use_parallel_residual=False)
    site.check(serial)
    assert not torch.allclose(logits(serial, [zero(site, ALL)]), logits(serial))


def test_parallel_blocks_are_blamed_only_where_they_are_the_reason(make_tiny):
    model = make_tiny("gpt_neox")
    model.cfg.parallel_attn_mlp = False
    with pytest.raises(ValueError, match="has no such hook") as caught:
        Site("resid_mid", 0).check(model)
    assert "parallel" not in str(caught.value)


def test_a_mixture_of_experts_has_no_neurons(tiny):
    for check in (Site("mlp_post", 1).check, Site("mlp_post", 1, neurons=3).width):
        with pytest.raises(
            ValueError, match=r"no neurons at layer 1: .*mixture of experts.*mlp_out"
        ):
            check(tiny("mixtral"))


def test_opts_neurons_are_counted_by_its_weights():
    tokenizer = tiny_tokenizer("llama")
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        ffn_dim=3 * 32,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    )
    config.architectures = ["OPTForCausalLM"]
    model = wrap_model(OPTForCausalLM(config).eval(), tokenizer, name="tiny-opt")
    site = Site("mlp_post", 0)
    _, cache = model.run_with_cache(torch.arange(4, 9)[None])
    assert site.width(model) == cache[site.hook_name].shape[-1] == 96
    with pytest.raises(ValueError, match=r"neurons must be between 0 and 95 .* got 96$"):
        Site("mlp_post", 0, neurons=96).check(model)


def test_a_model_that_does_not_count_its_neurons_is_refused(make_tiny):
    model = make_tiny("gpt2")
    model.cfg.d_mlp = None
    with pytest.raises(ValueError, match="tiny-gpt2 does not say how many neurons"):
        Site("mlp_post", 0).width(model)


@pytest.mark.usefixtures("no_type_checks")
def test_a_name_is_no_model():
    with pytest.raises(TypeError, match=r"model must be a TransformerBridge, .* got 'smollm2'"):
        Site("resid_post", 1).width(cast("Any", "smollm2"))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_edit_of_resid_mid_reaches_the_stream_through_the_mlp_alone(tiny, architecture):
    model = tiny(architecture)
    ids = torch.tensor([model.tokenizer("The key near the doors")["input_ids"]])
    names = [f"blocks.0.hook_{name}" for name in ("mlp_out", "resid_post")]

    def held(at: str) -> list[torch.Tensor]:
        found: dict[str, torch.Tensor] = {}

        def keep(name: str):
            return name, lambda x, hook: found.__setitem__(name, x.clone())

        add = [(f"blocks.0.hook_{at}", lambda x, hook: x + 3.0 * torch.eye(32)[0])] if at else []
        with torch.no_grad():
            model.run_with_hooks(ids, fwd_hooks=[*add, *map(keep, names)])
        return [found[name] for name in names]

    (mlp, stream), (mlp_mid, stream_mid) = held(""), held("resid_mid")
    assert (mlp_mid - mlp).abs().max() > 0.01
    assert_close(stream_mid - stream, mlp_mid - mlp, atol=1e-5, rtol=0)
    mlp_attn, stream_attn = held("attn_out")
    assert_close(mlp_attn, mlp_mid, atol=1e-5, rtol=0)
    moved = stream_attn - stream_mid
    assert_close(moved, (3.0 * torch.eye(32)[0]).expand_as(moved), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("no_type_checks")
def test_numbers_of_numpy_are_numbers():
    assert Site("resid_post", np.int64(3)).to_config() == {"component": "resid_post", "layer": 3}
    expected = json.dumps({"component": "z", "layer": 0, "heads": [0, 1]})
    assert json.dumps(Site("z", np.int64(0), np.arange(2)).to_config()) == expected
    assert Site("z", 0, np.int64(1)) == Site("z", 0, 1)
    wrong: Any
    for wrong in (True, np.bool_(True), 1.0):
        with pytest.raises(TypeError, match="layer must be an integer"):
            Site("z", wrong)
        with pytest.raises(TypeError, match="heads must be an integer"):
            Site("z", 0, wrong)
