import copy

import pytest
import torch

from reft_interp.models import check

SITES = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post"}
ABSENT = {
    "tiny-gpt_neox": {"resid_mid": "in parallel"},
    "tiny-mixtral": {"mlp_post": "mixture of experts"},
}


def by_component(found):
    return {site.component: site for site in found.sites}


def test_every_site_that_exists_works(tiny_model):
    found = check(tiny_model)
    assert found.ok and found.problems == ()
    absent = ABSENT.get(tiny_model.cfg.model_name, {})
    sites = by_component(found)
    assert {name for name, site in sites.items() if site.exists} == SITES - set(absent)
    for name, reason in absent.items():
        assert reason in str(sites[name])


def test_widths_are_those_of_the_configuration(tiny_model):
    cfg = tiny_model.cfg
    truth = {"z": cfg.n_heads * cfg.d_head, "mlp_post": cfg.d_mlp}
    for site in check(tiny_model).sites:
        if site.exists:
            assert site.width == truth.get(site.component, cfg.d_model)
            assert site.layers == site.n_layers == 2


def test_only_causal_models_have_caches_and_earlier_tokens(tiny_model):
    found = check(tiny_model)
    causal = tiny_model.cfg.model_name != "tiny-bert"
    assert (found.cached is not None) == causal
    for site in found.sites:
        assert (site.earlier is not None) == (causal and site.exists)


def test_the_model_is_left_as_it_was(tiny):
    model = tiny("gpt2")
    before = {name: p.clone() for name, p in model.named_parameters()}
    check(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    hooks = [point for point in model.hook_dict.values() if point.fwd_hooks]
    assert hooks == []


def test_a_site_whose_edits_are_ignored_is_a_problem(tiny):
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.o.weight.zero_()
    found = check(model)
    assert not found.ok
    assert [problem.split()[0] for problem in found.problems] == ["z"]
    assert "an edit here changes no logit" in str(found)
    assert "SOMETHING DOES NOT WORK" in str(found)


def test_a_model_that_sees_ahead_is_a_problem(tiny):
    model = copy.deepcopy(tiny("bert"))
    model.cfg.attention_dir = "causal"
    found = check(model)
    assert not found.ok
    assert not by_component(found)["resid_pre"].ok
    assert "an edit here changes earlier tokens" in str(found)
    assert any(problem.startswith("cached = uncached") for problem in found.problems)


def test_sites_that_only_some_layers_have_are_counted(tiny):
    # hook_dict is what says which sites exist; one layer loses one of its names.
    model = copy.deepcopy(tiny("gpt2"))
    names = {k: v for k, v in model.hook_dict.items() if k != "blocks.1.hook_mlp_out"}

    class Fewer(type(model)):
        hook_dict = property(lambda self: names)

    object.__setattr__(model, "__class__", Fewer)
    site = by_component(check(model))["mlp_out"]
    assert (site.layers, site.ok) == (1, True)
    assert "some layers lack it" in str(site)


def test_the_frame_has_a_row_for_each_thing(tiny):
    frame = check(tiny("mixtral")).to_frame().set_index("check")
    assert len(frame) == 10
    assert frame["layers"].to_dict()["mlp_post"] == 0
    there = frame.drop(index="mlp_post")
    assert there["ok"].tolist() == [True] * 9
    assert there["width"].dropna().to_dict() == dict.fromkeys(SITES - {"mlp_post"}, 32)
    assert max(there["difference"].dropna().tolist()) < 5e-6


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_prints_well(tiny, architecture):
    found = check(tiny(architecture))
    text, html = str(found), found._repr_html_()
    assert f"tiny-{architecture}" in text and f"tiny-{architecture}" in html
    assert "everything works" in text and "everything works" in html
    assert ("no such cache" in text) == (architecture == "bert")
    assert all(len(line) < 120 for line in text.splitlines())
