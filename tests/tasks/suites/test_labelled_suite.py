"""A labelled task as a suite."""

import pytest
from datasets import Dataset

from reft_interp.tasks import LabelledTask, number_naming
from reft_interp.tasks.suites import labelled_suite


def test_rows_are_the_tasks_and_outputs_begin_with_an_answer():
    task = number_naming(40, 12)
    suite = labelled_suite(task, n_development=10)
    assert {name: len(split) for name, split in suite.splits.items()} == {
        "train": 30, "development": 10, "test number naming": 12
    }  # fmt: skip
    prompts = [set(split["prompt"]) for split in suite.splits.values()]
    assert not prompts[0] & prompts[1]
    test = suite.tests["number naming"]
    assert list(test["prompt"]) == list(task.test["prompt"])
    assert suite.score(list(task.test["answer"]), test) == 1.0
    assert suite.answers([" one", "Many of them", "\n many", "none", "", "the one"]) == [
        "one", "many", "many", None, None, None
    ]  # fmt: skip
    assert suite.answers(["manyfold", "ones", "many, I think", "One."]) == [
        None, None, "many", "one"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="n_development must be between 0 and"):
        labelled_suite(task, n_development=40)


def test_a_number_is_not_the_beginning_of_another():
    rows = [
        {"prompt": f"{n}{mark}", "answer": f" {n}", "choices": [" 1", " 2", " 12"]}
        for mark in ":,;?"
        for n in (1, 2, 12)
    ]
    splits = {"train": Dataset.from_list(rows[:9]), "test": Dataset.from_list(rows[9:])}
    suite = labelled_suite(LabelledTask("numbers", "digits", **splits), n_development=2)
    assert suite.answers([" 12", " 1.", " 15", " 1.5", " 200 km", "1,000"]) == [
        "12", "1", None, None, None, None
    ]  # fmt: skip


def test_each_row_is_answered_with_one_of_its_own_choices():
    def rows(*choices):
        return Dataset.from_list(
            [{"prompt": f"A {c}?", "answer": c[0], "choices": list(c)} for c in choices]
        )

    train, test = rows((" Paris", " Rome"), (" one", " two")), rows((" Lima", " Cairo"))
    suite = labelled_suite(LabelledTask("places", "names", train, test), n_development=1)
    (asked,) = suite.tests.values()
    assert suite.answers([" Lima."], asked) == ["Lima"] and suite.score([" Lima."], asked) == 1
    # What only other rows allow is no answer; of a text alone, it may be.
    assert suite.answers([" Paris"], asked) == [None]
    assert suite.answers([" Paris", " Cairo"]) == ["Paris", "Cairo"]
    longer = rows((" no", " yes"), (" no one", " someone"))
    several = labelled_suite(LabelledTask("nobody", "words", train, longer), n_development=1)
    assert several.score([" no one", " no one"], several.tests["nobody"]) == 1


def test_prompts_that_are_tested_are_neither_trained_on_nor_chosen_on():
    def rows(*prompts):
        return Dataset.from_list(
            [{"prompt": prompt, "answer": " a", "choices": [" a", " b"]} for prompt in prompts]
        )

    splits = {"train": rows("1", "2", "3", "3", "4"), "dev": rows("3", "5"), "test": rows("4", "5")}
    suite = labelled_suite(LabelledTask("some", "letters", **splits))
    assert {name: list(split["prompt"]) for name, split in suite.splits.items()} == {
        "train": ["1", "2"], "development": ["3"], "test some": ["4", "5"]
    }  # fmt: skip
    assert suite.notes == (
        "left out: 3 training and 1 development rows whose prompts a later split has",
    )
    # What is held out of the training rows is none of the tested either.
    del splits["dev"]
    held_out = labelled_suite(LabelledTask("some", "letters", **splits), n_development=2)
    assert held_out.train is not None and held_out.development is not None
    chosen = set(held_out.development["prompt"])
    assert len(chosen) == 2 and not chosen & {"4", "5"}
    assert set(held_out.train["prompt"]) == {"1", "2", "3"} - chosen
