"""Tasks that small models are trained to do: labels by arithmetic, wrong hypotheses, training."""

import dataclasses
import random

import pytest
import torch

from reft_interp.causal.rows import rows_of
from reft_interp.tasks import (
    animacy,
    greater_than,
    kept_input_hypothesis,
    multiple_choice,
    price_midpoint_hypothesis,
    price_tagging,
    train_small_model,
    two_digit_addition,
)

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]


def rows(task, variable, n=60):
    pairs = task.counterfactuals(None, variable, n=n)
    assert pairs.changed == {"train": 0.5, "test": 0.5}
    return [*rows_of(pairs.train), *rows_of(pairs.test)]


def numbers(row, side, *names):
    return [int(row[f"{side}_{name}"]) for name in names]


def test_a_price_keeps_both_bounds_or_not():
    for row in rows(price_tagging(), "above_lower"):
        lower, upper, price = numbers(row, "base", "lower", "upper", "price")
        assert row["base"] == f"costs {price} from {lower} to {upper} :" and lower < upper
        assert row["base_answer"] == (" yes" if lower <= price <= upper else " no")
        other_lower, other_price = numbers(row, "source", "lower", "price")
        inside = other_price >= other_lower and price <= upper
        assert row["label"] == (" yes" if inside else " no")


def test_a_price_is_above_its_bracket_as_often_as_below():
    task, rng = price_tagging(), random.Random(0)
    drawn = [task.draw(rng).setting for _ in range(1000)]
    low, high, inside = (
        sum(one["price"] < one["lower"] for one in drawn),
        sum(one["price"] > one["upper"] for one in drawn),
        sum(one["lower"] <= one["price"] <= one["upper"] for one in drawn),
    )
    # 250, 250 and 500 expected; the largest standard deviation is 16.
    assert abs(low - 250) < 60 and abs(high - 250) < 60 and abs(inside - 500) < 60


def test_the_middle_of_a_bracket_is_another_hypothesis():
    labels = []
    for row in rows(price_midpoint_hypothesis(), "middle"):
        lower, upper, price = numbers(row, "base", "lower", "upper", "price")
        assert row["base_answer"] == (" yes" if lower <= price <= upper else " no")
        middle = sum(numbers(row, "source", "lower", "upper")) / 2
        half = (upper - lower) / 2
        assert row["label"] == (" yes" if middle - half <= price <= middle + half else " no")
        labels.append(row["label"])
    assert set(labels) == {" yes", " no"}


@pytest.mark.parametrize("variable", ["tens", "ones"])
def test_numbers_are_compared_digit_by_digit(variable):
    for row in rows(greater_than(), variable):
        a, b = (numbers(row, "base", f"{n}_tens", f"{n}_ones") for n in "ab")
        assert row["base"] == f"{a[0]} {a[1]} > {b[0]} {b[1]} ="
        assert row["base_answer"] == (" yes" if a > b else " no")
        place = 0 if variable == "tens" else 1
        a[place], b[place] = numbers(row, "source", f"a_{variable}", f"b_{variable}")
        assert row["label"] == (" yes" if a > b else " no")


def test_a_carry_is_taken_from_the_source():
    for row in rows(two_digit_addition(), "carry"):
        a, b = (numbers(row, "base", f"{n}_tens", f"{n}_ones") for n in "ab")
        own = (10 * a[0] + a[1] + 10 * b[0] + b[1]) // 10 % 10
        assert row["base_answer"] == f" {own}"
        carried = sum(numbers(row, "source", "a_ones", "b_ones")) >= 10
        assert row["label"] == f" {(a[0] + b[0] + carried) % 10}"


@pytest.mark.parametrize("options", [2, 4])
def test_the_symbol_of_the_right_option_is_the_answer(options):
    for row in rows(multiple_choice(options), "pointer"):
        words, other = row["base"].split(), row["source"].split()
        symbols, colours = words[3:-1:3], words[4:-1:3]
        assert len(set(symbols)) == len(set(colours)) == options
        assert row["base_answer"] == f" {symbols[colours.index(words[0])]}"
        assert row["label"] == f" {symbols[other[4:-1:3].index(other[0])]}"


def test_options_are_as_many_as_colours_at_most():
    for options in (1, 7):
        with pytest.raises(ValueError, match=rf"options must be between 2 and 6, got {options}"):
            multiple_choice(options)


def test_people_are_asked_after_with_who():
    for row in rows(animacy(), "animate"):
        person = {"False": " which", "True": " who"}
        assert row["base_answer"] == person[row["base_animate"]]
        assert row["label"] == person[row["source_animate"]]
        assert row["base"].endswith(row["base_noun"])
    pairs = animacy().counterfactuals(None, "animate", n=60)
    trained, tested = ({row["base_noun"] for row in rows_of(s)} for s in (pairs.train, pairs.test))
    assert not trained & tested


@pytest.mark.parametrize(
    ("task", "other"),
    [
        (price_tagging(), price_midpoint_hypothesis()),
        (price_tagging(), kept_input_hypothesis(price_tagging(), "price")),
        (greater_than(), kept_input_hypothesis(greater_than(), "a_tens")),
        (two_digit_addition(), kept_input_hypothesis(two_digit_addition(), "a_ones")),
        (multiple_choice(), kept_input_hypothesis(multiple_choice(), "symbols")),
    ],
    ids=lambda task: task.name,
)
def test_wrong_hypotheses_give_the_same_answers(task, other):
    rng = random.Random(0)
    for _ in range(300):
        drawn = task.draw(rng)
        inputs = {name: drawn.setting[name] for name in task.causal_model.inputs}
        twin = other.write(inputs)
        assert (twin.text, twin.answer) == (drawn.text, drawn.answer)


def test_a_kept_input_is_swapped_as_it_is():
    task = kept_input_hypothesis(two_digit_addition(), "a_ones")
    assert task.causal_model.parents["kept_a_ones"] == ("a_ones",)
    for row in rows(task, "kept_a_ones"):
        a_tens, b_tens, b_ones = numbers(row, "base", "a_tens", "b_tens", "b_ones")
        (a_ones,) = numbers(row, "source", "a_ones")
        assert row["label"] == f" {(10 * a_tens + a_ones + 10 * b_tens + b_ones) // 10 % 10}"
    with pytest.raises(ValueError, match=r"name must be an input \(a_tens, .* got 'carry'"):
        kept_input_hypothesis(two_digit_addition(), "carry")


def test_a_small_model_begins_to_learn_and_repeats():
    state = torch.get_rng_state()
    one, two = (
        train_small_model(greater_than(), steps=2, prompts=300, progress=False) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    ids = torch.tensor([one.tokenizer("3 7 > 3 2 =")["input_ids"]])
    assert ids.shape == (1, 6) and torch.equal(one(ids), two(ids))
    learned = train_small_model(greater_than(), steps=60, prompts=2000, progress=False)
    choices = greater_than().choices
    rng = random.Random(1)
    prompts = [greater_than().draw(rng) for _ in range(200)]
    from reft_interp import accuracy

    asked = [{"prompt": p.text, "answer": p.answer, "choices": choices} for p in prompts]
    assert accuracy(learned, asked).value > 0.7


def test_prompts_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"has prompts of \[4, 6, 7\] words, one length is needed"):
        train_small_model(animacy(), steps=1, prompts=100, progress=False)


def test_answers_of_several_words_are_refused():
    task = dataclasses.replace(
        greater_than(), words={"greater": {True: " yes indeed", False: " no"}}
    )
    with pytest.raises(ValueError, match=r"has an answer of several words: \['yes', 'indeed'\]"):
        train_small_model(task, steps=1, prompts=100, progress=False)


def test_only_variables_are_taught_after_words_of_the_prompt():
    task = two_digit_addition()
    with pytest.raises(ValueError, match=r"taught must name variables .* got \['sum'\]"):
        train_small_model(task, steps=1, prompts=100, taught={"sum": 4}, progress=False)
    with pytest.raises(ValueError, match=r"carry must follow a word from 0 to 5, got 6"):
        train_small_model(task, steps=1, prompts=100, taught={"carry": 6}, progress=False)


def test_a_variable_is_taught_after_its_word():
    task = two_digit_addition()
    model = train_small_model(task, steps=60, prompts=2000, taught={"carry": 4}, progress=False)
    words = [model.tokenizer.convert_tokens_to_ids(f"carry={value}") for value in (False, True)]
    rng = random.Random(1)
    drawn = [task.draw(rng) for _ in range(200)]
    ids = torch.tensor([model.tokenizer(prompt.text)["input_ids"] for prompt in drawn])
    said = model(ids)[:, 4, words].argmax(-1)
    carried = torch.tensor([prompt.setting["carry"] for prompt in drawn])
    assert (said == carried.long()).float().mean() > 0.8
