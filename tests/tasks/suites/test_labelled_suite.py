"""A labelled task as a suite."""

import pytest

from reft_interp.tasks import number_naming
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
    with pytest.raises(ValueError, match="n_development must be between 0 and"):
        labelled_suite(task, n_development=40)
