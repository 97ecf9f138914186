"""Activation patching against a loop of hooked runs, one cell and one prompt at a time."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import reft_interp as ri
from reft_interp.causal import Patching

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
ON = ["0", "-2", "last"]


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


def test_the_frame_keeps_rows_apart_in_which_nothing_should_move(tiny):
    found = ri.activation_patching(tiny("llama"), PAIRS, SITES, ON, progress=False)
    frame = found.to_frame()
    assert len(frame) == len(SITES) * len(ON)
    asked = [k for k in range(len(PAIRS)) if found.untouched[k] < 0]
    rest = [k for k in range(len(PAIRS)) if found.untouched[k] >= 0]
    assert asked and rest, "the pairs must have both kinds"
    assert set(frame["n"]) == {len(asked)}
    assert set(frame["n elsewhere"]) == {len(rest)}
    change = (found.patched - found.untouched)[2, 1]
    row = frame.iloc[2 * len(ON) + 1]
    assert (row["site"], row["tokens"]) == (str(SITES[2]), found.on[1])
    assert row["change"] == pytest.approx(np.mean(change[asked]))
    assert row["change elsewhere"] == pytest.approx(np.mean(change[rest]))
    assert found.plot().get_xlabel() == "Tokens"
    assert found.plot().get_ylabel() == "Site"  # of several components


def test_sites_of_one_component_are_layers_in_the_figure():
    sites = (ri.Site("resid_post", 0), ri.Site("resid_post", 1))
    untouched = np.array([-1.0, -2.0])
    ax = Patching(sites, ("last",), untouched, np.zeros((2, 1, 2))).plot()
    assert ax.get_ylabel() == "Layer" and ax.get_title(loc="left") == "Patching resid_post"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "0"]


def test_it_prints_its_table_and_draws_where_asked():
    found = patching([-1.0, -2.0], [1.5, 2.5])
    assert "2.000" in str(found) and "2.000" in found._repr_html_()
    ax = Figure().subplots()
    assert found.plot(ax) is ax and [float(text.get_text()) for text in ax.texts] == [2.0]


def patching(untouched, change):
    untouched = np.array(untouched)
    return Patching((SITES[0],), ("last",), untouched, (untouched + np.array(change))[None, None])


def test_the_interval_is_students_over_rows():
    # Changes 1, 2, 3: mean 2, standard error 1/√3, and t(.975, 2) = 4.302653.
    (row,) = patching([-1.0, -2.0, -3.0, 5.0], [1.0, 2.0, 3.0, 9.0]).to_frame().to_dict("records")
    assert (row["change"], row["n"], row["n elsewhere"]) == (2.0, 3, 1)
    assert row["logit difference"] == pytest.approx(0.0)
    assert row["change elsewhere"] == 9.0
    assert row["high"] - row["change"] == pytest.approx(4.302653 / 3**0.5, abs=1e-5)
    assert row["change"] - row["low"] == pytest.approx(4.302653 / 3**0.5, abs=1e-5)


def test_where_too_few_rows_can_move_there_is_no_interval_and_no_plot():
    (one,) = patching([-1.0, 1.0], [0.5, 0.0]).to_frame().to_dict("records")
    assert one["change"] == 0.5 and np.isnan(one["low"]) and np.isnan(one["high"])
    none = patching([1.0, 1.0], [0.5, 0.0])
    assert np.isnan(none.to_frame()["change"]).all()
    with pytest.raises(ValueError, match="in all 2 rows the untouched model prefers the label"):
        none.plot()


def test_what_cannot_be_patched_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(ValueError, match="must not be empty, got 0 and 1"):
        ri.activation_patching(model, PAIRS, [], ["last"])
    three = [{**PAIRS[0], "choices": [" is", " are", " was"]}]
    with pytest.raises(ValueError, match="row 0 must have two choices"):
        ri.activation_patching(model, three, SITES, ["last"], progress=False)
