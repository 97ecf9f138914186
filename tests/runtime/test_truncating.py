"""Long rows: an error that names the row, or a cut of what was asked for."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reft_interp.encoding import IGNORED
from reft_interp.evaluation import accuracy
from reft_interp.interventions import LoReFT
from reft_interp.runtime import IntervenedModel, truncate_prompts
from reft_interp.runtime.truncating import truncate_answers
from reft_interp.sites import Site
from reft_interp.training import fit_reft

SENTENCE = "The key near the doors is on the table. "
ROWS = [
    {"prompt": "The key", "answer": " is here"},
    {"prompt": SENTENCE * 14 + "The key", "answer": " is here", "spans": {"end": [560, 567]}},
]


def tokens(model, row) -> int:
    """Counted by hand."""
    prompt = model.tokenizer(row["prompt"])["input_ids"]
    answer = model.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
    return len(prompt) + len(answer)


def test_a_row_that_the_model_cannot_read_is_named_with_both_numbers(tiny):
    model = tiny("llama")
    long = tokens(model, ROWS[1])
    assert long > 128  # what the tiny models can read
    told = rf"row 1 has {long} tokens \(4 of them its answer\), and tiny-llama can read 128"
    site = Site("resid_post", 0)
    with pytest.raises(ValueError, match=told):
        fit_reft(model, ROWS, LoReFT(2), site, "l1", progress=False)
    with pytest.raises(ValueError, match=told):
        accuracy(model, ROWS)
    cut: dict[str, Any] = {"max_length": 128, "truncation_side": "left", "epochs": 1}
    with pytest.warns(UserWarning, match="rows: max_length=128 cut the beginning of 1 of 2 prom"):
        fit_reft(model, ROWS, LoReFT(2), site, "l1", progress=False, **cut)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("most", [128, 20, 12])
def test_prompts_are_cut_on_one_side_until_they_fit(tiny, architecture, side, most):
    model = tiny(architecture)
    rows = [row | {"spans": {}} for row in ROWS]
    short, cut = truncate_prompts(model, rows, most, truncation_side=side)
    assert short == rows[0]
    assert cut["answer"] == ROWS[1]["answer"]
    assert tokens(model, cut) <= most
    whole = ROWS[1]["prompt"]
    kept = len(cut["prompt"])
    assert cut["prompt"] == (whole[-kept:] if side == "left" else whole[:kept])
    # One token more, a word at most, would not fit.
    more = whole[-kept - 8 :] if side == "left" else whole[: kept + 8]
    assert tokens(model, cut | {"prompt": more}) > most


def test_spans_move_with_the_text_or_are_told_of(tiny):
    model = tiny("llama")
    _, cut = truncate_prompts(model, ROWS, 20, truncation_side="left")
    start, end = cut["spans"]["end"]
    assert cut["prompt"][start:end] == "The key"
    with pytest.raises(ValueError, match="row 1: its span 'end', characters 560 to 567, would be"):
        truncate_prompts(model, ROWS, 20)


def test_the_bos_that_stands_in_a_prompt_counts_once(tiny):
    model = tiny("llama")
    row = {"prompt": "<s>" + SENTENCE, "answer": " is here"}
    # The tokenizer's own BOS, which `tokens` counts beside the one in the text, is not read.
    fits = tokens(model, row) - 1
    assert truncate_prompts(model, [row], fits) == [row]
    [cut] = truncate_prompts(model, [row], fits - 1)
    assert tokens(model, cut) == fits


def test_an_answer_is_never_cut(tiny):
    rows = [{"prompt": "The key", "answer": SENTENCE}]
    with pytest.raises(ValueError, match="row 0: max_length is 8, of which the answer"):
        truncate_prompts(tiny("llama"), rows, 8)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("most", [40, 34, 28])
def test_cut_answers_are_what_a_tokenizer_leaves_of_prompt_and_answer_as_one_text(
    tiny, architecture, most
):
    """As pyreft cuts rows, by transformers' own truncation."""
    model, prompt = tiny(architecture), SENTENCE * 2 + "\n"
    row = {"prompt": prompt, "answer": SENTENCE * 2, "spans": {"key": [4, 7]}}
    whole = model.tokenizer(prompt + row["answer"])["input_ids"]
    kept = model.tokenizer(prompt + row["answer"], truncation=True, max_length=most)["input_ids"]
    assert len(kept) == most < len(whole)
    short, cut = truncate_answers(model, [ROWS[0], row], most)
    assert short == ROWS[0]
    assert cut == row | {"answer": cut["answer"]}
    assert row["answer"].startswith(cut["answer"])
    assert model.tokenizer(cut["prompt"] + cut["answer"])["input_ids"] == kept


def test_a_prompt_that_leaves_no_room_for_its_answer_is_named(tiny):
    model = tiny("llama")
    of_prompt = len(model.tokenizer(SENTENCE)["input_ids"])
    rows = [ROWS[0], {"prompt": SENTENCE, "answer": " is here"}]
    told = f"row 1: max_length is {of_prompt}, of which the prompt's {of_prompt} tokens leave no r"
    with pytest.raises(ValueError, match=told):
        truncate_answers(model, rows, of_prompt)
    _, cut = truncate_answers(model, rows, of_prompt + 1)
    assert tokens(model, cut) == of_prompt + 1
    with pytest.raises(ValueError, match=r"row 1 has no 'answer' to learn, only \['prompt'\]"):
        truncate_answers(model, [ROWS[0], {"prompt": SENTENCE}], of_prompt + 1)
    # What the message says to do leaves what fits.
    left = [row for row in rows if len(model.tokenizer(row["prompt"])["input_ids"]) < of_prompt]
    assert truncate_answers(model, left, of_prompt) == [ROWS[0]]


def test_a_training_cuts_the_answers_where_that_is_asked(tiny, monkeypatch):
    """Beside it what it does by default, which takes away what is asked."""
    model, seen = tiny("llama"), []
    plain = IntervenedModel.forward

    def forward(self, batch, **inputs):
        ids, read = batch.input_ids[0], batch.labels[0] == IGNORED
        seen.append(tuple(model.tokenizer.decode(ids[k]) for k in (read, ~read)))
        return plain(self, batch, **inputs)

    monkeypatch.setattr(IntervenedModel, "forward", forward)
    rows = [{"prompt": SENTENCE + "Response:", "answer": " " + SENTENCE * 2}] * 2
    whole = len(model.tokenizer(rows[0]["prompt"] + rows[0]["answer"])["input_ids"])
    options: dict[str, Any] = {"max_length": whole - 4, "epochs": 1, "engine": "full"}

    def fit(**asked: Any):
        site = Site("resid_post", 0)
        given = options | asked
        return fit_reft(model, rows, LoReFT(2), site, "l1", progress=False, **given)

    with pytest.warns(
        UserWarning, match=r"rows: max_length=\d+ cut the end of 2 of 2 prompts\. No"
    ):
        fit()
    read, answer = seen[0]
    assert "Response:" not in read
    assert "table" in answer[-10:]
    seen.clear()
    with pytest.warns(UserWarning, match=r"rows: max_length=\d+ cut the end of 2 of 2 answers$"):
        found = fit(truncate="answer")
    read, answer = seen[0]
    assert read.endswith("Response:")
    assert "table" not in answer[-10:]
    assert found.settings["truncate"] == "answer"
    with pytest.raises(ValueError, match="so truncation_side must be left out, got 'left'"):
        fit(truncate="answer", truncation_side="left")
    with pytest.raises(ValueError, match="cuts at max_length, which is not given"):
        fit(truncate="answer", max_length=None)


@pytest.mark.usefixtures("no_type_checks")
def test_what_is_neither_prompt_nor_answer_is_not_cut(tiny):
    wrong: dict[str, Any] = {"truncate": "both", "max_length": 8}
    with pytest.raises(ValueError, match='truncate must be "prompt" or "answer", got \'both\''):
        fit_reft(tiny("llama"), ROWS, LoReFT(2), Site("resid_post", 0), "l1", **wrong)


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=40), st.integers(4, 30), st.sampled_from(["left", "right"]))
def test_any_text_is_cut_to_fit(tiny, text, most, side):
    """Bytes of one character may be several tokens; a text is cut between characters."""
    model = tiny("llama")
    try:
        [cut] = truncate_prompts(model, [{"prompt": text}], most, truncation_side=side)
    except ValueError:
        # The least that could be left is more: a character of up to four bytes, and BOS.
        assert most < 1 + 4
        return
    assert len(model.tokenizer(cut["prompt"])["input_ids"]) <= most
    assert text.endswith(cut["prompt"]) if side == "left" else text.startswith(cut["prompt"])
