"""Activations and the variable's values there; truth: the rows, and what a token is embedded as."""

import pytest
import torch

import reft_interp as ri
from reft_interp.causal.labelled_activations import labelled_activations
from reft_interp.causal.rows import rows_of
from reft_interp.causal.shuffling import shuffled_pairs
from reft_interp.tasks import CausalTask

NOUNS = ("key", "doors", "cabinet", "author", "cars", "film", "drink", "book")


def named_rows(values: dict[str, tuple[str, ...]]) -> list[dict]:
    """Each prompt beside the next; of each name the value that a prompt of that number has."""
    rows = []
    for i, noun in enumerate(NOUNS):
        j = (i + 1) % len(NOUNS)
        row = {
            "base": f"The {noun} near",
            "source": f"The {NOUNS[j]} near",
            "label": (" is", " a")[i % 2],
        }
        for name, of in values.items():
            row |= {f"base_{name}": of[i], f"source_{name}": of[j]}
        rows.append(row)
    return rows


def test_joined_values_are_as_many_as_there_are_whatever_blanks_they_hold(tiny):
    of = {"v": ("a", "a b") * 4, "u": ("c", "c", "b c", "b c") * 2}
    model, rows, site = tiny("gpt2"), named_rows(of), ri.Site("resid_post", 0)
    _, values = labelled_activations(model, rows, "v and u", site, "last")
    # Four pairs, of which two would read "a b c" with a blank between.
    assert len(set(values)) == len(set(zip(*of.values(), strict=True))) == 4
    found = ri.DifferenceOfMeans().fit(model, rows, "v and u", site, "last")
    assert found.subspace.rank == 3


def test_a_column_of_ones_own_may_hold_the_word_that_joins(tiny):
    rows = named_rows({"salt and pepper": ("a", "b") * 4})
    _, values = labelled_activations(
        tiny("gpt2"), rows, "salt and pepper", ri.Site("resid_post", 0), "last"
    )
    assert values.tolist() == ["a", "b"] * 4


def two_orders() -> list[dict]:
    """Sums in two templates of one text, in which x stands first or second."""
    model = ri.CausalModel(
        {"x": range(5), "y": range(5), "sum": range(9)}, {"sum": lambda x, y: x + y}
    )
    task = CausalTask("sums", model, "sum", ["{x} and {y} is", "{y} and {x} is"])
    return rows_of(task.counterfactuals(None, "x", n=90).train)


def sides(rows: list[dict]) -> set[tuple[str, tuple[int, ...], str]]:
    """Of every prompt where x stands, and what x is."""
    return {
        (row[side], tuple(row[f"{side}_spans"]["x"]), row[f"{side}_x"])
        for row in rows
        for side in ("base", "source")
    }


@pytest.mark.parametrize("shuffled", [False, True])
def test_one_text_of_two_templates_has_the_value_of_each_at_its_span(tiny, shuffled):
    model, rows, site = tiny("gpt2"), two_orders(), ri.Site("resid_pre", 0)
    assert len(sides(rows)) > len({text for text, _, _ in sides(rows)})
    dealt = shuffled_pairs(rows, "x", 0) if shuffled else rows
    held, values = labelled_activations(model, dealt, "x", site, "x")
    places = {(text, span) for text, span, _ in sides(rows)}
    assert len(held) == len(values) == len(places)
    if shuffled:  # as many of each, and of one text one value at each span
        assert len(sides(dealt)) == len(places)
        return
    # What the first layer reads is the embedding of the token and of its place.
    network = model.original_model.transformer
    expected = []
    for text, (start, end), value in sides(rows):
        encoded = model.tokenizer(text, return_offsets_mapping=True)
        (at,) = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and start < b]
        token = torch.tensor(encoded["input_ids"][at])
        expected.append((value, network.wte(token) + network.wpe(torch.tensor(at))))
    for activation, value in zip(held, values, strict=True):
        nearest = min(expected, key=lambda one: float((one[1] - activation).norm()))
        assert torch.allclose(nearest[1], activation, atol=1e-5) and nearest[0] == value


def test_spans_that_a_selector_does_not_look_at_make_no_other_example(tiny):
    rows = named_rows({"v": ("a", "b") * 4})
    for row in rows:  # the same prompt as a source has none
        row["base_spans"] = {"noun": [4, 7]}
    for method in (ri.PCA(), ri.DifferenceOfMeans()):
        named = "v" if method.reads_values else None
        held, _ = labelled_activations(tiny("gpt2"), rows, named, ri.Site("resid_post", 0), "last")
        assert len(held) == len(NOUNS)
    dealt = shuffled_pairs(rows, "v", 0)
    held, _ = labelled_activations(tiny("gpt2"), dealt, "v", ri.Site("resid_post", 0), "last")
    assert len(held) == len(NOUNS)


def test_of_an_encoder_activations_are_those_beside_the_masks_of_the_label(tiny):
    model, rows = tiny("bert"), named_rows({"v": ("a", "b") * 4})
    tokenizer, site = model.tokenizer, ri.Site("resid_post", 0)
    masks = {
        label: [tokenizer.mask_token_id]
        * len(tokenizer(label, add_special_tokens=False)["input_ids"])
        for label in (" is", " a")
    }
    assert all(masks.values())
    held, _ = labelled_activations(model, rows, "v", site, "last")
    # Each prompt is first met as the base of its own row, or as the source of the one before.
    first = {text: row["label"] for row in reversed(rows) for text in (row["source"], row["base"])}
    expected = []
    for text in dict.fromkeys(text for row in rows for text in (row["base"], row["source"])):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([ids + masks[first[text]]]))
        expected.append(cache[site.hook_name][0, len(ids) - 1])
    torch.testing.assert_close(held, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_two_values_at_the_same_tokens_are_refused(tiny):
    rows, site = two_orders(), ri.Site("resid_post", 0)
    with pytest.raises(
        ValueError, match=r"is' has two values of 'x', .* tokens that 'last' selects"
    ):
        labelled_activations(tiny("gpt2"), rows, "x", site, "last")
    wrong = named_rows({"v": ("a", "b") * 4})
    wrong[3]["base_v"] = "c"
    with pytest.raises(ValueError, match="pairs: 'The author near' has two values of 'v', 'b' and"):
        labelled_activations(tiny("gpt2"), wrong, "v", site, "last")
    # Nothing is asked of values where none are read.
    assert len(labelled_activations(tiny("gpt2"), wrong, None, site, "last")[0]) == len(NOUNS)
