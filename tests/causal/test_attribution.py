"""The estimate against finite differences, TransformerLens's, and the sweep that it screens."""

import re

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import attribution_patch

import reft_interp as ri

PROMPTS = [
    ("The key near the doors", "The doors near the key", " is", " are"),
    ("Paris is a city", "Tokyo is a town", " are", " is"),
    ("Mary and John", "John and Mary", " is", " are"),
]
PAIRS = [
    {"base": base, "source": source, "label": label, "choices": [label, other]}
    for base, source, label, other in PROMPTS
]
CHOICES = ["0", "1"]


def choice_ids(model) -> tuple[int, int]:
    first, second = (
        model.tokenizer(choice, add_special_tokens=False)["input_ids"][0] for choice in CHOICES
    )
    return first, second


def pairs(model):
    """Rows whose base and source have as many tokens, with choices of one token."""
    rows = []
    for row in PAIRS:
        lengths = {len(model.tokenizer(row[side])["input_ids"]) for side in ("base", "source")}
        if len(lengths) == 1:
            rows.append(row | {"label": "0", "choices": CHOICES})
    assert rows
    return rows


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("component", ["resid_pre", "mlp_out", "attn_out"])
def test_it_is_the_slope_of_a_small_patch(make_tiny, architecture, component):
    model = make_tiny(architecture).to(torch.float64)
    site = ri.Site(component, 1)
    rows = pairs(model)
    found = ri.attribution_patching(model, rows, [site], ["last", "every"], progress=False)
    for j, on in enumerate(("last", "every")):
        for i, row in enumerate(rows):
            base, source = (
                ri.activations(model, [row[side]], site, on)[0] for side in ("base", "source")
            )
            step = 1e-2  # norms run in float32
            values = []
            for sign in (1, -1):
                moved = base + sign * step * (source - base)
                ids = torch.tensor([model.tokenizer(row["base"])["input_ids"]])

                def write(activation, hook, moved=moved, at=on):
                    edited = activation.clone()
                    edited[0, -1 if at == "last" else slice(None)] = (
                        moved[0] if at == "last" else moved
                    )
                    return edited

                with torch.no_grad():
                    logits = model.run_with_hooks(ids, fwd_hooks=[(site.hook_name, write)])[0, -1]
                first, second = choice_ids(model)
                values.append(float(logits[first] - logits[second]))
            assert found.estimate[0, j, i] == pytest.approx(
                (values[0] - values[1]) / (2 * step), rel=5e-3, abs=1e-4
            )


@pytest.mark.parametrize("component", ["resid_pre", "mlp_out"])
def test_of_an_encoder_it_is_the_slope_at_the_mask_where_it_answers(make_tiny, component):
    model = make_tiny("bert").to(torch.float64)
    site = ri.Site(component, 1)
    rows = pairs(model)
    found = ri.attribution_patching(model, rows, [site], ["every"], progress=False)
    first, second = choice_ids(model)
    for i, row in enumerate(rows):
        # The answer's mask follows the prompt with its special tokens, the source's as the base's.
        mask = model.tokenizer.mask_token_id
        masked, of_source = (
            torch.tensor([[*model.tokenizer(row[side])["input_ids"], mask]])
            for side in ("base", "source")
        )
        _, cache = model.run_with_cache(of_source, names_filter=site.hook_name)
        source = cache[site.hook_name][0, :-1]
        values = []
        for step in (1e-3, -1e-3):

            def write(activation, hook, step=step, source=source):
                edited = activation.clone()
                edited[0, : len(source)] += step * (source - activation[0, : len(source)])
                return edited

            with torch.no_grad():
                logits = model.run_with_hooks(masked, fwd_hooks=[(site.hook_name, write)])[0, -1]
            values.append(float(logits[first] - logits[second]))
        slope = (values[0] - values[1]) / 2e-3
        assert found.estimate[0, 0, i] == pytest.approx(slope, rel=2e-2, abs=2e-4)


def test_heads_and_mlps_are_those_of_transformer_lens(make_tiny):
    model = make_tiny("gpt2")
    for parameter in model.parameters():  # its backward pass begins at the weights
        parameter.requires_grad_()
    rows = pairs(model)[:1]
    first, second = choice_ids(model)
    clean, corrupt = (
        torch.tensor([model.tokenizer(rows[0][side])["input_ids"]]) for side in ("source", "base")
    )
    theirs = attribution_patch(
        model,
        clean,
        corrupt,
        lambda logits: (logits[..., -1, first] - logits[..., -1, second]).sum(),
    ).node_scores
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    mlps = ri.attribution_patching(
        model, rows, [ri.Site("mlp_out", layer) for layer in layers], ["every"], progress=False
    )
    of_heads = ri.attribution_patching(
        model,
        rows,
        [ri.Site("z", layer, heads=head) for layer in layers for head in heads],
        ["every"],
        progress=False,
    )
    ours = {("mlp_out", layer, None): mlps.estimate[layer, 0, 0] for layer in layers}
    places = [(layer, head) for layer in layers for head in heads]
    ours |= {
        ("attn_head_out", layer, head): value
        for (layer, head), value in zip(places, of_heads.estimate[:, 0, 0], strict=True)
    }
    summed: dict[tuple, float] = {}
    for node, value in theirs.items():
        if node.kind in ("mlp_out", "attn_head_out"):
            key = node.kind, node.layer, node.head
            summed[key] = summed.get(key, 0.0) + float(value)
    assert set(summed) == set(ours)
    for key, value in summed.items():
        assert ours[key] == pytest.approx(value, rel=1e-3, abs=1e-5)


def test_recall_is_what_screening_keeps_of_the_full_sweep(tiny):
    model = tiny("llama")
    sites = [ri.Site("resid_post", layer) for layer in range(2)]
    on = ["first", "last"]
    rows = pairs(model)
    screened = ri.attribution_patching(model, rows, sites, on, progress=False)
    full = ri.activation_patching(model, rows, sites, on, progress=False)
    moved = np.abs(full.patched - full.untouched).mean(-1).reshape(-1)
    order = [(site, one) for site in full.sites for one in full.on]
    best = {order[i] for i in np.argsort(-moved)[:2]}
    assert screened.recall(full, 2) == len(best & set(screened.best(2))) / 2
    assert screened.recall(full, 2, keep=4) == 1
    assert list(screened.to_frame()["tokens"]) == [*full.on, *full.on]
    with pytest.raises(ValueError, match="n must be between 1 and 4"):
        screened.best(5)
    for n in (0, -1, 5):
        with pytest.raises(ValueError, match=f"n must be between 1 and 4, the cells, got {n}"):
            screened.recall(full, n)
    with pytest.raises(ValueError, match="keep must be between 1 and 4, the cells, got 0"):
        screened.recall(full, 2, keep=0)
    one = re.escape(str(sites[0]))
    with pytest.raises(
        ValueError, match=rf"full must be of the same sites.*; got {one} on .* rows"
    ):
        screened.recall(ri.activation_patching(model, rows, sites[:1], on, progress=False), 1)


def test_it_prints_its_table_and_draws_it():
    sites = (ri.Site("resid_post", 0), ri.Site("resid_post", 1))
    found = ri.Attribution(sites, ("last",), np.array([[[1.0, 2.0]], [[-3.0, 1.0]]]))
    assert "1.500" in str(found) and "-1.000" in found._repr_html_()
    ax = found.plot()
    assert ax.get_title(loc="left") == "Attribution of resid_post" and ax.get_ylabel() == "Layer"
    assert [float(text.get_text().replace("−", "-")) for text in ax.texts] == [-1.0, 1.5]


def test_says_what_is_wrong(tiny):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    with pytest.raises(ValueError, match="sites and on must not be empty, got 0 and 1"):
        ri.attribution_patching(model, PAIRS, [], ["last"])
    rows = [PAIRS[0] | {"choices": [" is", " was reading a book"]}]
    with pytest.raises(ValueError, match="row 0 must have two or more choices of one token"):
        ri.attribution_patching(model, rows, [site], ["last"])
