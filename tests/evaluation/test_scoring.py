"""Scores on prepared rows are the scores on the rows."""

import pytest
import torch
from numpy.testing import assert_allclose

from reft_interp.evaluation import (
    accuracy,
    answer_log_probabilities,
    answers_correctly,
    choice_scores,
    predict_choices,
    prepared_accuracy,
    prepared_choice_scores,
    prepared_correct,
)
from reft_interp.interventions import DistributedInterchange, Interchange, VectorAddition
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import can_score_tokens
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

pytestmark = pytest.mark.no_cover

PROMPTS = ["The key near the doors", "Paris", "Is twelve more than three?", "Mary and John"]
SOURCES = [*PROMPTS[1:], "Tokyo is a city"]
CHOICES = {
    "one token": ["0", "1", "2", "3", "4", "5", "6", "7"],
    "several tokens": [" are", " is in the country", "Q", " was reading"],
}


def swapping(model, intervention) -> IntervenedModel:
    return IntervenedModel(model, Placement(intervention, Site("resid_post", 1), "l1"))


def answered(intervened, rows, sources, right):
    """`rows` with the answers that the model gives where `right` says so, others elsewhere."""
    said = predict_choices(intervened, rows, sources)
    return [
        row | {"answer": row["choices"][i if is_right else i - 1]}
        for row, i, is_right in zip(rows, said.tolist(), right, strict=True)
    ]


@pytest.mark.parametrize("engine", ["auto", "full"])
@pytest.mark.parametrize("kind", CHOICES)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "bert"])
def test_rows_prepared_once_score_any_intervention_there(tiny, architecture, kind, engine):
    model = tiny(architecture)
    whole = swapping(model, Interchange())
    parts = [
        swapping(model, DistributedInterchange(Subspace.random(32, rank, seed=rank)))
        for rank in (1, 16)
    ]
    rows = [{"prompt": prompt, "choices": CHOICES[kind]} for prompt in PROMPTS]
    for intervened in (whole, *parts):
        right = [True, False, True, True]
        asked = answered(intervened, rows, SOURCES, right)
        prepared = PreparedRows(whole, asked, SOURCES, engine=engine)
        found = prepared_accuracy(intervened, prepared, batch_size=3)
        assert (found.hits, found.n) == (3, 4)
        assert found == accuracy(intervened, asked, SOURCES)


@pytest.mark.parametrize("engine", ["auto", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "bert"])
def test_rows_without_choices_are_scored_by_greedy_tokens(tiny, architecture, engine):
    model = tiny(architecture)
    whole = swapping(model, Interchange())
    part = swapping(model, DistributedInterchange(Subspace.random(32, 16, seed=1)))
    for right in ([True, False, True, True], [False, True, False, False]):
        rows = []
        for intervened, prompt, source, is_right in zip(
            (whole, part, whole, part), PROMPTS, SOURCES, right, strict=True
        ):
            # One answer of one token, and of two where a decoder says the second after the first.
            said = greedy_answer(intervened, prompt, source)
            rows.append({"prompt": prompt, "answer": said if is_right else f"{said} is"})
        prepared = PreparedRows(whole, rows, SOURCES, engine=engine)
        for intervened in (whole, part):
            found = prepared_correct([(intervened, prepared)], batch_size=3)[0]
            expected = answers_correctly(intervened, rows, SOURCES)
            assert found.tolist() == expected.tolist()
            assert prepared_accuracy(intervened, prepared).hits == expected.sum()


def greedy_answer(intervened, prompt, source) -> str:
    """A text of one token that the model says next; anything where there is none."""
    tokenizer = intervened.model.tokenizer
    rows, sources = [{"prompt": prompt}], [{"prompt": source}]
    token = int(intervened.logits(rows, sources)[0, -1].argmax())
    text = tokenizer.decode([token])
    return text if tokenizer(text, add_special_tokens=False)["input_ids"] == [token] else " is"


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "bert"])
def test_only_rows_with_a_choice_of_several_tokens_are_run_once_a_choice(make_tiny, architecture):
    model = make_tiny(architecture)
    swapped = swapping(model, Interchange())
    rows = [
        {"prompt": prompt, "choices": choices, "answer": choices[0]}
        for prompt, choices in zip(
            PROMPTS, (["0", "1", "2"], [" are", "Q", " in the"], ["3", "4"], ["5"]), strict=True
        )
    ]
    prepared = PreparedRows(swapped, rows, SOURCES)
    can_score_tokens(model)  # a run of its own, once
    ran = []

    def note(stream, hook):
        ran.append(len(stream))

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", note)]):
        [found] = prepared_choice_scores([(swapped, prepared)])
        prepared_ran, ran[:] = sum(ran), []
        plain = choice_scores(swapped, rows, SOURCES)
    if architecture != "bert":
        # Three prompts, and three choices of the other one with its source.
        assert prepared_ran == 3 + 3 * 2
    for row, source, *scores in zip(rows, SOURCES, found, plain, strict=True):
        forced = [dict(row) | {"answer": choice} for choice in row["choices"]]
        expected = answer_log_probabilities(swapped, forced, [source] * len(forced))
        assert_allclose(scores[1], expected, atol=1e-4)
        assert_allclose(scores[0] - scores[0][0], expected - expected[0], atol=1e-4)


def test_choices_compare_alike_on_prepared_rows_and_others_in_half_precision(make_tiny):
    """Rounded to bfloat16, logits of about 32 are the same where they differ by a tenth."""
    model = make_tiny("llama").to(torch.bfloat16)
    added = swapping(model, VectorAddition(torch.full([32], 1e-3)))
    choices = ["0", "1", "2", "3"]
    ids = [model.tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in choices]
    rows = [{"prompt": prompt, "choices": choices, "answer": "0"} for prompt in PROMPTS]
    with torch.no_grad():
        weight = model.unembed.original_component.weight
        weight[ids] = weight[ids[0]] * 10 + torch.randn(4, 32).to(weight) * 0.002
    [found] = prepared_choice_scores([(added, PreparedRows(added, rows))])
    plain = choice_scores(added, rows)
    for one, other in zip(found, plain, strict=True):
        assert len(set(one)) == 4
        assert one.argmax() == other.argmax()


def test_an_answer_is_among_its_choices(tiny):
    added = swapping(tiny("llama"), VectorAddition(torch.ones(32)))
    rows = [{"prompt": prompt, "answer": " is", "choices": ["0", "1"]} for prompt in PROMPTS]
    with pytest.raises(ValueError, match="row 0 has the answer ' is', which is not among"):
        prepared_accuracy(added, PreparedRows(added, rows))


def test_rows_that_were_prepared_for_other_edits_are_refused(tiny):
    model = tiny("llama")
    rows = [{"prompt": "The key", "answer": " is", "choices": [" is", " are"]}]
    late, early = (
        IntervenedModel(
            model, Placement(VectorAddition(torch.ones(32)), Site("resid_pre", layer), on)
        )
        for layer, on in ((1, "l1"), (0, "l1"))
    )
    prepared = PreparedRows(late, rows)
    with pytest.raises(ValueError, match="needs rows that were prepared for it; these are for"):
        prepared_accuracy(early, prepared)
    elsewhere = IntervenedModel(
        model, Placement(VectorAddition(torch.ones(32)), Site("resid_pre", 1), "f1")
    )
    with pytest.raises(ValueError, match="from block 1 on, on last"):
        prepared_accuracy(elsewhere, prepared)
    # More edits at the same place are no others.
    twice = IntervenedModel(model, [*late.placements, *late.placements])
    assert prepared_accuracy(twice, prepared) == prepared_accuracy(twice, PreparedRows(twice, rows))
