"""What every suite does: checks, scores, draws."""

import random
from dataclasses import replace

import pytest
from datasets import Dataset

from reft_interp.evaluation.metrics import exact_match, share_correct
from reft_interp.tasks.suites import Suite, paper_recipe
from reft_interp.tasks.suites.suite import Metric


def rows(n, start=0, **columns):
    return Dataset.from_list(
        [
            {"prompt": f"question {i}?", "answer": f" {i}", "gold": str(i), **columns}
            for i in range(start, start + n)
        ]
    )


def suite(**given) -> Suite:
    settings = {
        "name": "numbers",
        "train": rows(10),
        "development": rows(4, 10),
        "tests": {"one": rows(5, 20), "two": rows(3, 30)},
        "template": "{question}",
        "extract": lambda output: output.strip() or None,
        "metric": exact_match(),
        "max_new_tokens": 4,
        "recipe": paper_recipe("commonsense"),
    }
    return Suite(**{**settings, **given})


def test_the_score_is_the_metric_of_what_is_extracted():
    test = suite().tests["one"]
    outputs = [" 20", "21 ", "", "22", "24"]
    assert suite().answers(outputs) == ["20", "21", None, "22", "24"]
    assert suite().correct(outputs, test) == [True, True, False, False, True]
    assert suite().score(outputs, test) == pytest.approx(3 / 5)
    assert suite().score(test["answer"], test.to_list()) == 1.0


def test_all_metrics_are_scored_under_their_names():
    shouting = share_correct("in capitals", lambda predicted, gold: predicted == gold.upper())
    both = suite(other_metrics=(shouting,))
    assert both.scores([" 20"], rows(1, 20)) == {"accuracy": 1.0, "in capitals": 1.0}


def test_a_metric_of_all_rows_says_nothing_of_one():
    of_all = suite(metric=Metric("spread", lambda predicted, gold: 0.0))
    with pytest.raises(ValueError, match="spread does not say which rows are correct"):
        of_all.correct([" 20"], rows(1, 20))


def test_outputs_that_are_not_one_a_row_are_an_error():
    with pytest.raises(ValueError, match="one for each of the 5 rows, got 2"):
        suite().score(["20", "21"], suite().tests["one"])
    with pytest.raises(ValueError, match="got one string"):
        suite().score("20", rows(1, 20))
    with pytest.raises(ValueError, match="row 0 has no 'gold'"):
        suite().score(["20"], [{"prompt": "question"}])


def test_a_smaller_suite_has_drawn_rows_in_the_order_of_the_data():
    small = suite().select(6, 4, n_development=2, seed=3)
    assert small.train is not None and small.development is not None
    assert [len(split) for split in small.splits.values()] == [6, 2, 4, 3]
    prompts = small.train["prompt"]
    assert prompts == sorted(set(prompts)) and set(prompts) < set(rows(10)["prompt"])
    random.seed(99)
    assert suite().select(6, 4, n_development=2, seed=3).hash == small.hash
    assert suite().select(6, 4, n_development=2, seed=4).hash != small.hash
    assert suite().select().hash == suite().hash != small.hash


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_train": 11}, "n_train must be between 1 and 10, got 11"),
        ({"n_train": 0}, "n_train must be between 1 and 10, got 0"),
        ({"n_test": 0}, "n_test must be at least 1, got 0"),
        ({"n_development": 5}, "n_development must be between 1 and 4, got 5"),
    ],
)
def test_a_draw_of_more_than_there_are_is_an_error(given, message):
    with pytest.raises(ValueError, match=message):
        suite().select(**given)
    with pytest.raises(ValueError, match="n_train must be between 1 and 0"):
        suite(train=None).select(n_train=1)


def test_it_prints_sizes_template_metric_and_notes():
    lines = str(suite(notes=("no rows of three",))).split("\n")
    assert lines[0].startswith("numbers: 10 train, 4 development rows (hash ")
    assert lines[1:4] == ["tests: one 5, two 3", "template: {question}", "metric: accuracy"]
    assert lines[-1] == "note: no rows of three"
    assert "0 development" in str(suite(development=None))
    assert "note: no rows &lt;" in suite(notes=("no rows <",))._repr_html_()


@pytest.mark.parametrize("split", ["train", "development", "tests"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prompt": " "}, "row 1: prompt must not be empty in .*'gold': 'x'"),
        ({"answer": "  "}, "row 1: answer must not be empty in .*'prompt': 'odd'"),
        ({"answer": None}, "row 1: answer must be text, got None"),
        ({"gold": None}, "row 1: gold must be an answer, got None"),
        ({"choices": [" y", " z"]}, "row 1: answer must be one of the row's choices"),
        ({"choices": [" x"]}, "row 1: choices must be two or more"),
    ],
)
def test_a_bad_row_is_shown(split, bad, message):
    good = {"prompt": "fine", "answer": " x", "gold": "x", "choices": None}
    data = Dataset.from_list([good, good | {"prompt": "odd"} | bad])
    given = {"tests": {"one": data}} if split == "tests" else {split: data}
    named = "test one" if split == "tests" else split
    with pytest.raises(ValueError, match=f"{named} {message}"):
        suite(**given)


def test_a_reference_output_may_be_empty_where_nothing_is_trained():
    silent = Dataset.from_list([{"prompt": "say nothing", "answer": "", "gold": ""}])
    assert suite(tests={"one": silent}).score([""], silent) == 0.0
    with pytest.raises(ValueError, match="train row 0: answer must not be empty"):
        suite(train=silent)


def test_missing_columns_and_rows_are_errors():
    with pytest.raises(ValueError, match=r"test one must have the columns .* gold missing"):
        suite(tests={"one": rows(2).remove_columns("gold")})
    with pytest.raises(ValueError, match="numbers must have rows, got neither train nor tests"):
        suite(train=None, development=None, tests={})
    assert list(replace(suite(), development=None).splits) == ["train", "test one", "test two"]
