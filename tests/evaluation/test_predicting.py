"""What a model answers, against loops over single unpadded rows."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from reft_interp.evaluation import (
    accuracy,
    answer_log_probabilities,
    answers_correctly,
    divergences,
    predict_choices,
)
from reft_interp.evaluation.predicting import choice_scores
from reft_interp.interventions import Interchange, VectorAddition
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import encode
from reft_interp.runtime.running import prompt_ends, run
from reft_interp.sites import Site

pytestmark = pytest.mark.no_cover

PROMPTS = ["The key near the doors", "Paris", "Is twelve more than three?", "Mary and John"]
ONE_TOKEN = ["0", "1", "2", "3"]
SEVERAL_TOKENS = [" are", " is in the country", "Q", " was reading"]
VECTOR = torch.linspace(-3, 3, 32)


def rows_with(choices, **columns):
    return [{"prompt": prompt, "choices": choices, **columns} for prompt in PROMPTS]


def edited(model) -> IntervenedModel:
    return IntervenedModel(model, Placement(VectorAddition(VECTOR), Site("resid_post", 0), "l1"))


def logits_of(model, prompt: list[int], answer: list[int], edit: bool) -> torch.Tensor:
    """Logits of one row; with `edit`, VECTOR is added at the prompt's last token."""

    def hook(stream, hook):
        stream = stream.clone()
        stream[0, len(prompt) - 1] += VECTOR
        return stream

    hooks = [("blocks.0.hook_resid_post", hook)] if edit else []
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([prompt + answer]), fwd_hooks=hooks)[0]


def naive_score(model, prompt: str, choice: str, *, edit: bool) -> float:
    """The sum of log probabilities of the choice's tokens after the prompt, one by one."""
    before = model.tokenizer(prompt)["input_ids"]
    answer = model.tokenizer(choice, add_special_tokens=False)["input_ids"]
    total = 0.0
    if model.cfg.model_name == "tiny-bert":  # each token in its own masked place
        masks = [model.tokenizer.mask_token_id] * len(answer)
        logits = logits_of(model, before, masks, edit)
        for i, token in enumerate(answer):
            total += float(logits[len(before) + i].log_softmax(-1)[token])
        return total
    for i, token in enumerate(answer):
        logits = logits_of(model, before, answer[:i], edit)
        total += float(logits[-1].log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("choices", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several"])
@pytest.mark.parametrize("edit", [False, True])
def test_a_choice_scores_the_sum_of_its_log_probabilities(tiny_model, choices, edit):
    model = edited(tiny_model) if edit else tiny_model
    scores = choice_scores(model, rows_with(choices), batch_size=3)
    expected = [[naive_score(tiny_model, p, c, edit=edit) for c in choices] for p in PROMPTS]
    # float32 log probabilities, summed over up to six tokens of about -6 each.
    assert_allclose(np.array(scores), np.array(expected), atol=1e-4)
    said = predict_choices(model, rows_with(choices), batch_size=3)
    assert said.tolist() == np.argmax(expected, axis=1).tolist()


def test_an_edit_changes_the_scores(tiny_model):
    rows = rows_with(SEVERAL_TOKENS)
    before, after = choice_scores(tiny_model, rows), choice_scores(edited(tiny_model), rows)
    assert np.abs(np.array(before) - np.array(after)).max() > 1e-3


def test_rows_may_have_different_numbers_of_choices(tiny):
    model = tiny("llama")
    rows = [
        {"prompt": "The key", "choices": ["0", "1"]},
        {"prompt": "Paris", "choices": ["3", " is a", "2"]},
    ]
    scores = choice_scores(model, rows)
    for row, found in zip(rows, scores, strict=True):
        expected = [naive_score(model, row["prompt"], c, edit=False) for c in row["choices"]]
        assert_allclose(found, expected, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(8)), size=st.integers(1, 9), several=st.booleans())
def test_results_are_in_the_callers_order(tiny, order, size, several):
    model = edited(tiny("gpt2"))
    choices = SEVERAL_TOKENS if several else ONE_TOKEN
    prompts = [*PROMPTS, "a", "The keys to the old cabinet are in", "No, the book", "Q"]
    rows = [{"prompt": prompt, "choices": choices} for prompt in prompts]
    alone = [choice_scores(model, [row])[0] for row in rows]
    together = choice_scores(model, [rows[i] for i in order], batch_size=size)
    assert_allclose(together, [alone[i] for i in order], atol=1e-4)


def greedy_tokens(model, prompt: str, count: int, *, edit: bool) -> list[int]:
    ids = model.tokenizer(prompt)["input_ids"]
    found: list[int] = []
    for _ in range(count):
        found.append(int(logits_of(model, ids, found, edit)[-1].argmax()))
    return found


def spoken(model, count: int, *, edit: bool) -> list[tuple[str, str]]:
    """Prompts, and what the model goes on with, where those bytes are text by themselves."""
    pairs = []
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        tokens = greedy_tokens(model, letter, count, edit=edit)
        text = model.tokenizer.decode(tokens)
        if model.tokenizer(text, add_special_tokens=False)["input_ids"] == tokens:
            pairs.append((letter, text))
    return pairs


@pytest.mark.parametrize("count", [1, 2])
def test_without_choices_all_greedy_tokens_must_agree(causal_model, count):
    model, tokenizer = edited(causal_model), causal_model.tokenizer
    rows, expected = [], []
    for prompt, text in spoken(causal_model, count, edit=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for i in range(count):  # one token of the answer is another one
            changed = tokenizer.decode([*ids[:i], ids[i] ^ 1, *ids[i + 1 :]])
            if len(tokenizer(changed, add_special_tokens=False)["input_ids"]) == count:
                rows.append({"prompt": prompt, "answer": changed})
                expected.append(changed == text)
        rows.append({"prompt": prompt, "answer": text})
        expected.append(True)
    assert True in expected and False in expected
    assert answers_correctly(model, rows, batch_size=2).tolist() == expected
    counted = accuracy(model, rows)
    assert (counted.hits, counted.n) == (sum(expected), len(expected))


def test_with_choices_the_answer_is_the_most_probable_of_them(tiny):
    model = edited(tiny("llama"))
    rows = rows_with(SEVERAL_TOKENS)
    said = predict_choices(model, rows)
    right = [row | {"answer": row["choices"][i]} for row, i in zip(rows, said, strict=True)]
    wrong = [row | {"answer": row["choices"][i - 1]} for row, i in zip(rows, said, strict=True)]
    mixed = [right[0], wrong[1], right[2], wrong[3]]
    assert answers_correctly(model, mixed).tolist() == [True, False, True, False]
    assert accuracy(model, Dataset.from_list(right)).value == 1


@pytest.mark.parametrize("choices", [ONE_TOKEN, SEVERAL_TOKENS, None])
def test_each_row_reads_its_own_source(tiny, choices):
    """With the last token's whole vector of the source, the model says what the source says."""
    model = tiny("llama")
    swapped = IntervenedModel(model, Placement(Interchange(), Site("resid_post", 1), "last"))
    sources = PROMPTS[::-1]
    if choices is ONE_TOKEN:
        rows = rows_with(choices)
        found = choice_scores(swapped, rows, sources, batch_size=3)
        expected = [[naive_score(model, s, c, edit=False) for c in choices] for s in sources]
        assert_allclose(found, expected, atol=1e-4)
    elif choices:
        # Only the first token is predicted at the swapped place, the others by the base.
        rows = rows_with(choices)
        found = choice_scores(swapped, rows, sources, batch_size=3)
        alone = [
            choice_scores(swapped, [row], [source])[0]
            for row, source in zip(rows, sources, strict=True)
        ]
        assert_allclose(found, alone, atol=1e-4)
        assert not np.allclose(found, choice_scores(swapped, rows, PROMPTS), atol=1e-2)
    else:
        sources, answers = zip(*spoken(model, 1, edit=False), strict=True)
        prompts = (PROMPTS * len(sources))[: len(sources)]
        rows = [{"prompt": p, "answer": a} for p, a in zip(prompts, answers, strict=True)]
        assert answers_correctly(swapped, rows, sources, batch_size=3).all()
        assert not answers_correctly(swapped, rows, prompts).all()


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("choices", [ONE_TOKEN, SEVERAL_TOKENS, None])
def test_there_is_one_source_for_each_row(tiny, choices, count):
    swapped = IntervenedModel(tiny("llama"), Placement(Interchange(), Site("resid_post", 1), "l1"))
    rows = rows_with(choices, answer=choices[0]) if choices else rows_with(None, answer=" is")
    with pytest.raises(ValueError, match=f"sources: {count} for 4 rows; one for each is needed"):
        answers_correctly(swapped, rows, (PROMPTS * 2)[:count])


def test_warns_of_a_choice_that_is_never_the_more_probable(tiny):
    model = tiny("gpt2")
    row = {"prompt": "The", "choices": ["0", "1", "0 1"]}
    with pytest.warns(UserWarning, match=r"row 1 has the choices '0' and '0 1', whose tokens"):
        said = predict_choices(model, [*rows_with(ONE_TOKEN)[:1], row])
    assert said[1] != 2


def test_says_what_rows_lack(tiny):
    model = tiny("gpt2")
    with pytest.raises(ValueError, match="must hold at least one row, got none"):
        accuracy(model, [])
    with pytest.raises(ValueError, match="must have an 'answer'"):
        accuracy(model, rows_with(ONE_TOKEN))
    with pytest.raises(ValueError, match=r"row 0 has the answer ' it', which is not among .*'0'"):
        accuracy(model, rows_with(ONE_TOKEN, answer=" it"))
    some = [*rows_with(ONE_TOKEN, answer="0"), {"prompt": "The", "answer": "0"}]
    with pytest.raises(ValueError, match=r"row 4 has the answer '0', .* choices None"):
        accuracy(model, some)
    with pytest.raises(ValueError, match="row 0 has no 'choices'"):
        predict_choices(model, PROMPTS)
    with pytest.raises(ValueError, match=r"row 1 has choices with the same tokens: \['0', '0'\]"):
        predict_choices(model, [*rows_with(ONE_TOKEN)[:1], {"prompt": "a", "choices": ["0", "0"]}])
    with pytest.raises(ValueError, match="the model has no interventions that read them"):
        accuracy(model, rows_with(ONE_TOKEN, answer="0"), PROMPTS)
    with pytest.raises(ValueError, match="no intervention here takes a source"):
        accuracy(edited(model), rows_with(ONE_TOKEN, answer="0"), PROMPTS)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        accuracy(model, rows_with(ONE_TOKEN, answer="0"), batch_size=0)


def test_a_progress_bar_is_shown_where_it_is_asked_for(tiny, capsys):
    predict_choices(tiny("gpt2"), rows_with(ONE_TOKEN), progress=True)
    assert "scoring" in capsys.readouterr().err
    predict_choices(tiny("gpt2"), rows_with(ONE_TOKEN))
    assert capsys.readouterr().err == ""


def test_log_probability_and_divergence_are_those_of_the_logits(tiny):
    model = tiny("llama")
    rows = [
        {"prompt": "The key near the doors", "answer": " is"},
        {"prompt": "The keys", "answer": " are old"},
    ]
    edited = IntervenedModel(
        model, Placement(VectorAddition(torch.ones(32)), Site("resid_post", 0), "last")
    )
    said = answer_log_probabilities(model, rows)
    kl = divergences(edited, rows)
    for row, log_probability, divergence in zip(rows, said, kl, strict=True):
        prompt = model.tokenizer(row["prompt"])["input_ids"]
        answer = model.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
        plain = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        by_hand = sum(plain[len(prompt) - 1 + i, token] for i, token in enumerate(answer))
        assert_allclose(log_probability, float(by_hand), atol=1e-5)
        p = model(torch.tensor([prompt]))[0, -1].double().softmax(-1)
        q = edited.logits([row["prompt"]])[0, -1].double().softmax(-1)
        assert_allclose(divergence, float((p * (p / q).log()).sum()), atol=1e-5)
        assert divergence > 0.01


def test_the_row_without_an_answer_is_named(tiny):
    rows = [{"prompt": "The key", "answer": " is"}, {"prompt": "Paris"}]
    with pytest.raises(ValueError, match=r"must have an 'answer' .*; row 1 has only \['prompt'\]"):
        accuracy(tiny("llama"), rows)


@pytest.mark.parametrize("ask", [accuracy, predict_choices, choice_scores])
def test_choices_in_one_text_are_no_list_of_them(tiny, ask):
    # "yes" is in "yes|no", and "y" in "yes": scored by letters, all of it would look right.
    rows = [
        {"prompt": "Paris", "answer": "0", "choices": ["0", "1"]},
        {"prompt": "Mary and", "answer": "0", "choices": "0|1"},
    ]
    wrong = "rows: row 1 must have a list of texts as its choices, got one text, '0|1'"
    with pytest.raises(TypeError, match=re.escape(wrong)):
        ask(tiny("llama"), rows)


def test_choices_in_arrays_are_scored_as_lists_are(tiny):
    model = tiny("llama")
    rows = rows_with(ONE_TOKEN, answer="2")
    arrays = [row | {"choices": np.array(row["choices"], dtype=object)} for row in rows]
    expected = [naive_score(model, rows[0]["prompt"], c, edit=False) for c in ONE_TOKEN]
    assert_allclose(choice_scores(model, arrays)[0], expected, atol=1e-4)
    assert accuracy(model, arrays) == accuracy(model, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_choice_is_more_probable_than_certain_in_half_precision(make_tiny, dtype):
    """Logits of about 50 are rounded to steps of 0.25 in bfloat16, and of 0.03 in float16."""
    model = make_tiny("llama").to(dtype)
    [token] = model.tokenizer("0", add_special_tokens=False)["input_ids"]
    batch = encode(model, PROMPTS)
    with torch.no_grad():
        entering = run(model, batch, at=prompt_ends(batch), unembed=False)[0]
        weight = model.unembed.original_component.weight
        weight[token] = entering * (50.1 / entering.float().square().sum())
    scores = choice_scores(model, rows_with(["0", "1"]))
    assert all((of_row <= 0).all() for of_row in scores)
    assert scores[0][0] == pytest.approx(0, abs=1e-5)
