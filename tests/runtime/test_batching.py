"""Rows of data, as batches."""

from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from reft_interp.runtime.batching import (
    as_list,
    by_length,
    device_of,
    encode,
    warn_of_glued_answers,
)


def test_strings_mappings_and_datasets_are_rows():
    rows = [{"prompt": "The key"}, {"prompt": "Paris"}]
    assert as_list(["The key", {"prompt": "Paris"}]) == rows
    assert as_list(Dataset.from_list(rows)) == rows


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ("The key", TypeError, "sources must be a list of rows, got one str"),
        ({"prompt": "The key"}, TypeError, "sources must be a list of rows, got one dict"),
        (["The key", 3], TypeError, "sources: row 1 must be a string or a mapping, got 3"),
        ([{"prompt": "a"}, {"text": "b"}], ValueError, "sources: row 1 has no 'prompt'.*'text'"),
        ([{"prompt": None}], TypeError, "sources: row 0 must have a text as its prompt, got None"),
        (5, TypeError, "sources must be a list of rows, got 5"),
        ({}, TypeError, "sources must be a list of rows, got one dict"),
        ([], ValueError, "sources must hold at least one row, got none"),
        (iter(["The key"]), TypeError, r"got a list_iterator: give list\(...\)"),
    ],
)
def test_what_is_no_row_is_refused(rows, error, message):
    with pytest.raises(error, match=message):
        as_list(rows, "sources")


def test_answers_are_there_where_they_are_asked_for(tiny):
    model = tiny("gpt2")
    rows = [{"prompt": "The key", "answer": " is"}, {"prompt": "Paris"}]
    assert encode(model, rows).answers == ("", "")
    with pytest.raises(ValueError, match="row 1 has no 'answer', only \\['prompt'\\]"):
        encode(model, rows, answers=True)
    assert encode(model, rows[:1], answers=True).answers == (" is",)
    assert encode(model, rows).input_ids.device == device_of(model) == torch.device("cpu")


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), size=st.integers(1, 10))
def test_groups_hold_each_row_once_and_similar_lengths(lengths, size):
    groups = list(by_length([{"prompt": "x" * length} for length in lengths], size))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) == size for group in groups[:-1])
    for one, next_one in pairwise(groups):
        assert max(lengths[i] for i in one) <= min(lengths[i] for i in next_one)


def test_a_group_holds_at_least_one_row():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        list(by_length([{"prompt": "x"}], 0))


def test_answers_that_run_into_their_prompts_are_warned_of(recwarn):
    glued = {"prompt": "The key", "answer": "is"}
    with pytest.warns(UserWarning, match=r"reads 'The keyis'.*begin with one: ' is'"):
        warn_of_glued_answers([glued, glued])
    with pytest.warns(UserWarning, match=r"reads .*Answer:yes'"):
        warn_of_glued_answers([{"prompt": "Is it?\nAnswer:", "answer": "yes"}])
    for other in (
        {"prompt": "The key", "answer": " is"},
        {"prompt": "Is it?\n", "answer": "yes"},
        {"prompt": "3 + 4:", "answer": "7"},
        {"prompt": "The key ", "answer": "is"},
        {"prompt": "3 + 4 =", "answer": "7"},
        {"prompt": "\u4f60", "answer": "\u597d"},  # a language without blanks
    ):
        warn_of_glued_answers([glued, other])
    assert len(recwarn) == 0
