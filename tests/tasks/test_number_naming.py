"""Naming a subject's number: rows against the noun table, and against chance."""

import random

import numpy as np
import pytest
import torch

from reft_interp.evaluation import accuracy
from reft_interp.tasks import LabelledTask, NumberAgreement, number_naming
from reft_interp.tasks.agreement_phrases import TEMPLATES, split
from reft_interp.tasks.nouns import NOUNS


@pytest.fixture(scope="module")
def task() -> LabelledTask:
    return number_naming()


def test_answers_are_right_by_the_noun_table(task):
    answers = {noun.singular: " one" for noun in NOUNS} | {noun.plural: " many" for noun in NOUNS}
    for row in task.to_frame().to_dict("records"):
        start, end = row["spans"]["subject"]
        assert row["answer"] == answers[row["prompt"][start:end]]
        start, end = row["spans"]["attractor"]
        attractor = answers[row["prompt"][start:end]]
        assert (attractor == " one") == (row["attractor_number"] == "singular")
        assert row["prompt"].endswith(" →") and row["prompt"][-3].isalpha()


def test_sizes_and_balance(task):
    assert (len(task.train), len(task.test)) == (600, 200)
    assert task.majority == 0.5
    for part in task.splits.values():
        assert part["answer"].count(" one") == len(part) / 2
        other = np.array(part["number"]) != part["attractor_number"]
        assert other.mean() == 0.5
        # So neither the attractor nor the order of rows gives the answer away.
        assert np.mean(np.array(part["number"])[other] == "plural") == 0.5
        assert 0.2 < np.mean([answer == " one" for answer in part["answer"][:50]]) < 0.8


def test_prompts_are_not_repeated(task):
    prompts = task.to_frame()["prompt"]
    assert prompts.is_unique


def test_holds_out_what_number_agreement_holds_out_for_the_seed():
    made = number_naming(50, 50, seed=4)
    train, test = split(NumberAgreement().nouns, TEMPLATES, 4)
    for part, lexicon in ((made.train, train), (made.test, test)):
        names = {noun.singular for noun in lexicon.nouns}
        assert set(part["subject"]) | set(part["attractor"]) <= names
        assert set(part["template"]) <= {template.text for template in lexicon.templates}


def test_the_same_seed_gives_the_same_rows_whatever_the_global_generators_do(task):
    random.seed(99)
    torch.manual_seed(99)
    assert number_naming().hash == task.hash
    assert number_naming(seed=1).hash != task.hash


def test_sizes_must_be_positive_and_not_more_than_there_are_phrases():
    with pytest.raises(ValueError, match="n_test must be at least 1, got 0"):
        number_naming(n_test=0)
    with pytest.raises(ValueError, match="n_train must be fewer rows than there are phrases"):
        number_naming(10_000, nouns=NOUNS[:6], templates=TEMPLATES[:3])


def test_an_untouched_model_answers_by_chance(smollm2):
    made = number_naming(n_train=10, n_test=100)
    found = accuracy(smollm2, made.test)
    assert found.value <= 0.6, found
