"""Activation patching against a loop of hooked runs, one cell and one prompt at a time."""

import numpy as np
import pytest
import torch

import reft_interp as ri

PAIRS = [
    {
        "base": f"The {base} near the doors of",
        "source": f"A {source} is on the table",
        "label": label,
        "choices": [" is", " are"],
    }
    for base, source, label in [
        ("key", "book", " is"),
        ("keys", "film", " are"),
        ("book", "doors", " are"),
        ("table", "city", " is"),
    ]
]
SITES = [ri.Site("resid_pre", 0), ri.Site("resid_post", 0), ri.Site("attn_out", 1)]
ON = ["0", "1", "last"]


def by_hand(model) -> np.ndarray:
    """transformer_lens alone: one prompt, one cell, one run."""
    tokenizer = model.tokenizer
    found = np.zeros((len(SITES), len(ON), len(PAIRS)))
    for k, pair in enumerate(PAIRS):
        base, source = (
            torch.tensor([tokenizer(pair[name])["input_ids"]]) for name in ("base", "source")
        )
        first, second = (
            tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in pair["choices"]
        )
        sign = 1 if pair["label"] == pair["choices"][0] else -1
        _, cache = model.run_with_cache(source)
        for i, site in enumerate(SITES):
            for j, on in enumerate(ON):
                to, of = (t.shape[1] - 1 if on == "last" else int(on) for t in (base, source))

                def patch(activation, hook, to=to, new=cache[site.hook_name][:, of]):
                    activation = activation.clone()
                    activation[:, to] = new
                    return activation

                logits = model.run_with_hooks(base, fwd_hooks=[(site.hook_name, patch)])[0, -1]
                found[i, j, k] = sign * float(logits[first] - logits[second])
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"engine": "full"}])
def test_each_cell_is_a_hooked_run(tiny, architecture, options):
    model = tiny(architecture)
    found = ri.activation_patching(model, PAIRS, SITES, ON, progress=False, **options)
    np.testing.assert_allclose(found.patched, by_hand(model), atol=2e-4)
    assert np.abs(found.patched - found.untouched).max() > 0.01


def test_the_frame_says_what_moved(tiny):
    found = ri.activation_patching(tiny("llama"), PAIRS, SITES, ON, progress=False)
    frame = found.to_frame()
    assert len(frame) == len(SITES) * len(ON)
    assert set(frame["n"]) == {len(PAIRS)}
    change = (found.patched - found.untouched)[2, 1]
    row = frame.iloc[2 * len(ON) + 1]
    assert (row["site"], row["tokens"]) == (str(SITES[2]), found.on[1])
    assert row["change"] == pytest.approx(change.mean())
    assert row["high"] - row["change"] == pytest.approx(1.96 * change.std(ddof=1) / 2)
    assert found.plot().get_xlabel() == "Tokens"


def test_what_cannot_be_patched_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(ValueError, match="must not be empty, got 0 and 1"):
        ri.activation_patching(model, PAIRS, [], ["last"])
    three = [{**PAIRS[0], "choices": [" is", " are", " was"]}]
    with pytest.raises(ValueError, match="row 0 must have two choices"):
        ri.activation_patching(model, three, SITES, ["last"], progress=False)
