"""Rows of one batch, each edited by its own, against each row alone; edits made of others."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reft_interp.evaluation import accuracy
from reft_interp.interop import export_to_transformers, save_pyreft
from reft_interp.interventions import (
    RED,
    DiReFT,
    DistributedInterchange,
    LobiReFT,
    LoReFT,
    VectorAddition,
)
from reft_interp.runtime import IntervenedModel, Placement, compose, interpolated, scaled
from reft_interp.runtime.batching import encode
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import train

PROMPTS = ["The key near the doors", "Paris", "Is twelve more than three?", "The book", "No, the"]
ANSWERS = [" is on the table", " is", " Yes", " was bad.", " film"]
SITE = Site("resid_post", 0)
ASKED: list[Any] = ["formal", "french", ["french", "formal"], [], ["steered"]]
ROWS = [
    {"prompt": prompt, "answer": answer, "edits": edits}
    for prompt, answer, edits in zip(PROMPTS, ANSWERS, ASKED, strict=True)
]


def stir(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def placed(model, intervention, site=SITE, on="f1+l1", seed=0) -> IntervenedModel:
    intervened = IntervenedModel(model, Placement(intervention, site, on))
    stir(intervened, seed)
    return intervened


def three(model) -> dict[str, IntervenedModel]:
    formal = IntervenedModel(
        model,
        [
            Placement(LoReFT(2), Site("resid_post", 0), "f1+l1"),
            Placement(RED(), Site("mlp_out", 1), "every"),
        ],
    )
    stir(formal, 0)
    return {
        "formal": formal,
        "french": placed(model, DiReFT(3), on="last", seed=1),
        "steered": placed(model, VectorAddition(torch.linspace(-3, 3, 32)), Site("resid_mid", 1)),
    }


def alone(model, names: Any) -> IntervenedModel | None:
    """What the row that asks for these names should get, without any names: a model of its own."""
    ours = three(model)
    asked = [names] if isinstance(names, str) else names
    several = [p for name in ours if name in asked for p in ours[name].placements]
    return IntervenedModel(model, several) if several else None


def untouched(model) -> IntervenedModel:
    return IntervenedModel(
        model, Placement(DiReFT(1), Site("resid_post", 0), "f1")
    )  # starts as the identity


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_each_row_has_the_logits_that_its_own_edits_give_it_alone(tiny, architecture):
    model = tiny(architecture)
    logits = compose(three(model)).logits(ROWS)
    plain = untouched(model).logits(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        expected = (alone(model, ASKED[i]) or untouched(model)).logits([prompt])[0]
        assert_close(logits[i, : len(expected)], expected, atol=1e-5, rtol=1e-5)
        changed = (logits[i, len(expected) - 1] - plain[i, len(expected) - 1]).abs().max()
        assert (changed > 1e-2) == bool(ASKED[i])


@pytest.mark.parametrize("engine", ["auto", "full"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 1], [3], [1, 1]])
def test_any_batch_of_prepared_rows_has_the_loss_of_each_alone(tiny, engine, order):
    model = tiny("llama")
    # All of them from the last block on, so that a replay saves something.
    named = {
        name: placed(model, DiReFT(2), Site("resid_mid", 1), on, seed=seed)
        for seed, (name, on) in enumerate([("formal", "l1"), ("french", "l2"), ("steered", "l1")])
    }
    both = compose(named)
    prepared = PreparedRows(both, ROWS, batch_size=2, engine=engine)
    assert prepared.plan.replays == (engine == "auto")
    loss, tokens = 0.0, 0
    for i in order:
        asked = [ASKED[i]] if isinstance(ASKED[i], str) else ASKED[i]
        own = [p for name in named if name in asked for p in named[name].placements]
        of_row = IntervenedModel(model, own) if own else untouched(model)
        row = {"prompt": PROMPTS[i], "answer": ANSWERS[i]}
        n = int((encode(model, [row], answers=True).labels != -100).sum())
        loss, tokens = loss + n * of_row.loss([row]).item(), tokens + n
    expected = torch.tensor(loss / tokens)
    with torch.no_grad():
        assert_close(both(**prepared.inputs(order))["loss"], expected, atol=1e-5, rtol=1e-5)
        assert_close(both.loss([ROWS[i] for i in order]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("when", ["prompt", "every token"])
@pytest.mark.parametrize(
    "options", [{}, {"use_cache": False}, {"num_beams": 2}], ids=["greedy", "uncached", "beams"]
)
def test_each_row_goes_on_as_it_would_alone(tiny, when, options):
    model = tiny("llama")
    options = {"when": when, "max_new_tokens": 6, **options}
    said = compose(three(model)).generate(ROWS, **options)
    expected = [
        (alone(model, asked) or untouched(model)).generate([prompt], **options)[0]
        for prompt, asked in zip(PROMPTS, ASKED, strict=True)
    ]
    assert said == expected
    plain = untouched(model).generate(PROMPTS, **options)
    assert said[3] == plain[3]
    assert sum(one != other for one, other in zip(said, plain, strict=True)) >= 3


def test_training_moves_only_what_the_rows_ask_for_and_as_it_would_alone(tiny):
    model = tiny("llama")
    kinds = {"formal": LoReFT(2), "french": LobiReFT(1)}
    named = {n: placed(model, kind, on="l1", seed=i) for i, (n, kind) in enumerate(kinds.items())}
    other = {n: placed(model, kind, on="l1", seed=i) for i, (n, kind) in enumerate(kinds.items())}
    rows = [row | {"edits": ["formal"]} for row in ROWS]
    both = compose(named)
    train(both, rows, epochs=2, batch_size=2, progress=False, weight_decay=0.0)
    plain = [{k: row[k] for k in ("prompt", "answer")} for row in ROWS]
    train(other["formal"], plain, epochs=2, batch_size=2, progress=False, weight_decay=0.0)
    for one, two in zip(named["formal"].parameters(), other["formal"].parameters(), strict=True):
        assert_close(one, two, atol=1e-5, rtol=1e-5)
    for one, two in zip(named["french"].parameters(), other["french"].parameters(), strict=True):
        assert torch.equal(one, two)
    fresh = placed(model, LoReFT(2), on="l1")
    moved = zip(named["formal"].parameters(), fresh.parameters(), strict=True)
    assert all((one - two).abs().max() > 1e-3 for one, two in moved)


def test_a_folder_keeps_the_names(tiny, tmp_path):
    model = tiny("llama")
    both = compose(three(model))
    both.save(tmp_path)
    loaded = IntervenedModel.load(tmp_path, model)
    assert [p.name for p in loaded.placements] == ["formal", "formal", "french", "steered"]
    assert torch.equal(loaded.logits(ROWS), both.logits(ROWS))
    assert "f1+l1 edit=formal" in both.explain()


def test_scores_are_those_of_each_row_alone(tiny):
    model = tiny("llama")
    rows = [row | {"choices": [" is", " was"], "answer": " is"} for row in ROWS]
    score = accuracy(compose(three(model)), rows)
    expected = [
        accuracy(alone(model, asked) or untouched(model), [row]).value
        for row, asked in zip(rows, ASKED, strict=True)
    ]
    assert score.value == pytest.approx(sum(expected) / len(expected))
    assert 0 < sum(expected) < len(expected)


def test_sources_are_read_in_the_rows_that_ask_for_it(tiny):
    model = tiny("llama")
    swap = DistributedInterchange(Subspace.random(32, 4, seed=0))
    both = compose(
        {
            "swapped": IntervenedModel(model, Placement(swap, Site("resid_post", 0), "last")),
            "french": placed(model, DiReFT(3), on="last", seed=1),
        }
    )
    names = ["swapped", "french", [], ["french", "swapped"], "swapped"]
    rows = [{"prompt": p, "answer": " is", "edits": n} for p, n in zip(PROMPTS, names, strict=True)]
    sources = [{"prompt": p, "edits": n} for p, n in zip(PROMPTS[::-1], names, strict=True)]
    logits = both.logits(rows, sources)
    plain = IntervenedModel(model, Placement(swap, Site("resid_post", 0), "last"))
    expected = plain.logits([PROMPTS[0]], [PROMPTS[-1]])[0]
    assert_close(logits[0, : len(expected)], expected, atol=1e-5, rtol=1e-5)
    expected = untouched(model).logits([PROMPTS[2]])[0]
    assert_close(logits[2, : len(expected)], expected, atol=1e-5, rtol=1e-5)
    prepared = PreparedRows(both, rows, sources)
    with torch.no_grad():
        in_parts = [both(**prepared.inputs(some))["loss"] for some in ([2], [1, 0], [4, 3])]
        expected = [both.loss([rows[i]], [sources[i]]) for i in (2, 0, 1, 3, 4)]
    # Answers of one token each.
    assert_close(in_parts[0], expected[0], atol=1e-5, rtol=1e-5)
    assert_close(2 * in_parts[1], expected[1] + expected[2], atol=1e-5, rtol=1e-5)
    assert_close(2 * in_parts[2], expected[3] + expected[4], atol=1e-5, rtol=1e-5)


def test_placements_without_a_name_edit_all_rows(tiny):
    model = tiny("llama")
    vector = VectorAddition(torch.linspace(-3, 3, 32))
    always = Placement(vector, Site("resid_post", 0), "last")
    named = Placement(DiReFT(3), Site("resid_post", 0), "last", name="french")
    intervened = IntervenedModel(model, [always, named])
    stir(intervened, 1)
    logits = intervened.logits([{"prompt": "Paris", "edits": []}])
    assert_close(logits, IntervenedModel(model, always).logits(["Paris"]))
    # Where no placement has a name, rows may say what they like.
    rows = [{"prompt": "Paris", "edits": ["anything"]}]
    assert_close(IntervenedModel(model, always).logits(rows), logits)


def test_rows_that_do_not_say_or_ask_for_what_is_not_there_are_refused(tiny):
    both = compose(three(tiny("llama")))
    for run in (both.logits, both.generate):
        with pytest.raises(ValueError, match="row 1 does not say which edits it asks for: give it"):
            run([ROWS[0], "Paris"])
        with pytest.raises(ValueError, match=r"row 1 asks for the edit 'frmal', but .* 'formal', "):
            run([ROWS[0], {"prompt": "Paris", "edits": ["french", "frmal"]}])
    row = {"prompt": "Paris", "answer": " is", "edits": "frmal"}
    for prepare in (lambda: PreparedRows(both, [row]), lambda: both.plan([row])):
        with pytest.raises(ValueError, match="row 0 asks for the edit 'frmal'"):
            prepare()
    with pytest.raises(TypeError, match="row 0 must have a name or a list of names as its"):
        both.logits([{"prompt": "Paris", "edits": 3}])


def test_names_that_cannot_be_saved_or_contradict_the_positions_are_refused(tiny):
    site = Site("resid_post", 0)
    with pytest.raises(ValueError, match=r"name of an edit must be letters, digits.* 'in French'"):
        Placement(LoReFT(2), site, "last", name="in French")
    with pytest.raises(ValueError, match="name is 'b', but the positions have 'last edit=a'"):
        Placement(LoReFT(2), site, "last edit=a", name="b")
    assert Placement(LoReFT(2), site, "last edit=a", name="a").name == "a"
    model = tiny("llama")
    with pytest.raises(ValueError, match="named must hold at least one"):
        compose({})
    with pytest.raises(ValueError, match="number 1 is placed in another model"):
        compose({"a": untouched(model), "b": untouched(tiny("gpt2"))})


def test_formats_that_know_no_names_refuse_them(tiny, tmp_path):
    both = compose({"formal": placed(tiny("llama"), LoReFT(2))})
    with pytest.raises(ValueError, match="pyreft does not record which rows"):
        save_pyreft(both, tmp_path / "pyreft")
    with pytest.raises(ValueError, match="does not see which edits a row asks for"):
        export_to_transformers(both, tmp_path / "plain")


# Edits that are made of others


def h_at(intervened: IntervenedModel, site: Site) -> torch.Tensor:
    """What the edited run of one prompt holds at a site."""
    model, seen = intervened.model, []
    batch = encode(model, [PROMPTS[0]])
    hooks: list[Any] = [
        (e.site.hook_name, lambda a, hook, e=e: e.apply(a)) for e in intervened.edits(batch)
    ]
    hooks.append((site.hook_name, lambda a, hook: seen.append(a.clone())))
    with torch.no_grad():
        model.run_with_hooks(batch.input_ids, fwd_hooks=hooks)
    return seen[0]


@pytest.mark.parametrize("strength", [-1, 0.0, 0.5, 1, 2.5])
@pytest.mark.parametrize(
    "kind", [LoReFT(2), LoReFT(2, activation="relu"), DiReFT(2), LobiReFT(2), RED()], ids=str
)
def test_a_scaled_edit_moves_h_by_that_much(tiny, kind, strength):
    site = Site("resid_post", 0)
    edit = placed(tiny("llama"), kind)
    plain, whole = h_at(untouched(edit.model), site), h_at(edit, site)
    assert (whole - plain).abs().max() > 0.1
    expected = plain + strength * (whole - plain)
    assert_close(h_at(scaled(edit, strength), site), expected, atol=1e-5, rtol=1e-5)


def test_what_is_negated_twice_or_added_to_its_negation_is_as_before(tiny):
    model = tiny("llama")
    edit = placed(model, LobiReFT(2))
    twice = scaled(scaled(edit, -1), -1)
    assert_close(twice.logits(PROMPTS), edit.logits(PROMPTS), atol=1e-5, rtol=1e-5)
    # A constant shift and its opposite, one after the other.
    undone = IntervenedModel(model, [*edit.placements, *scaled(edit, -1).placements])
    plain = untouched(model).logits(PROMPTS)
    assert_close(undone.logits(PROMPTS), plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(edit.logits(PROMPTS), plain, atol=1e-2)


@pytest.mark.parametrize("share", [0, 0.3, 1, 1.5])
def test_interpolation_leads_from_one_to_the_other(tiny, share):
    model, site = tiny("llama"), Site("resid_post", 0)
    one, other = placed(model, LoReFT(2), seed=1), placed(model, LoReFT(3), seed=2)
    between = h_at(interpolated(one, other, share), site)
    expected = (1 - share) * h_at(one, site) + share * h_at(other, site)
    assert_close(between, expected, atol=1e-5, rtol=1e-5)


def test_a_made_edit_is_saved_and_does_not_follow_the_training_of_its_parts(tiny, tmp_path):
    model = tiny("llama")
    shared = LoReFT(2, width=32)
    edit = IntervenedModel(
        model, [Placement(shared, Site("resid_post", layer), "last") for layer in (0, 1)]
    )
    stir(edit, 3)
    opposite = scaled(edit, -1)
    assert len(opposite.interventions) == 1  # what was shared is
    before = opposite.logits(PROMPTS)
    opposite.save(tmp_path)
    stir(edit, 4)
    assert torch.equal(opposite.logits(PROMPTS), before)
    assert torch.equal(IntervenedModel.load(tmp_path, model).logits(PROMPTS), before)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16])
def test_numpys_numbers_are_strengths(tiny, tmp_path, number):
    model = tiny("llama")
    one, other = (placed(model, VectorAddition(torch.full((32,), c)), SITE) for c in (1.0, 3.0))
    for made, expected in (
        (scaled(one, number(0.5)), 0.5),
        (interpolated(one, other, number(0.5)), 2.0),
    ):
        made.save(tmp_path / str(expected))
        again = IntervenedModel.load(tmp_path / str(expected), model)
        for each in (made, again):
            h = each.placements[0].intervention(torch.zeros(1, 32))
            assert_close(h, torch.full((1, 32), expected))


def test_interpolation_between_other_places_is_refused(tiny):
    model = tiny("llama")
    one = placed(model, LoReFT(2))
    for other in (placed(model, LoReFT(2), on="last"), placed(model, LoReFT(2), Site("z", 0))):
        with pytest.raises(ValueError, match="other must have the placements of one, LoReFT at"):
            interpolated(one, other, 0.5)
    with pytest.raises(ValueError, match="strengths must be finite"):
        scaled(one, float("nan"))
