"""Labelled tasks: what is accepted, and what they say of themselves."""

import pytest
from datasets import Dataset

from reft_interp.causal.rows import content_hash
from reft_interp.tasks import LabelledTask


def row(prompt="Good or bad?", answer=" good", **other):
    return {
        "prompt": prompt,
        "answer": answer,
        "choices": [" good", " bad"],
        "spans": {"first": [0, 2]},
    } | other


def task(train, test=None, dev=None) -> LabelledTask:
    made = [None if rows is None else Dataset.from_list(rows) for rows in (train, test, dev)]
    assert made[0] is not None
    return LabelledTask("taste", "Is it good?", made[0], made[1] or made[0], made[2])


def test_says_what_it_holds():
    made = task([row(), row(), row(answer=" bad")], [row(), row(answer=" bad")] * 2, [row()])
    assert str(made).startswith("taste: 3 train, 4 test, 1 dev rows (hash ")
    assert "most frequent answer gets 50.0% of test right" in str(made)
    assert made.to_frame()["split"].value_counts().to_dict() == {"test": 4, "train": 3, "dev": 1}
    assert "dev" not in str(task([row()]))


def test_majority_is_the_answer_of_train():
    # The most frequent answer of test would get 2/3.
    made = task([row(answer=" bad"), row(answer=" bad"), row()], [row(), row(), row(answer=" bad")])
    assert made.majority == pytest.approx(1 / 3)


def test_html_escapes_what_rows_say():
    assert "&lt;b&gt; or" in task([row("<b> or not?")])._repr_html_()


def test_hash_is_that_of_all_splits():
    made = task([row()], [row("No?")], [row("Yes?")])
    assert made.dev is not None
    assert made.hash == content_hash(made.train, made.test, made.dev)
    assert made.hash != task([row()], [row("No?")]).hash
    assert made.hash == task([row()], [row("No?")], [row("Yes?")]).hash


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(answer="good"), r"train row 1: answer must be one of .*got 'good'.*leading space"),
        (row(prompt="Good or bad? "), "ends in a space"),
        (row(choices=[" good"]), "two or more different"),
        (row(spans={"first": [3, 99]}), "'first' in spans"),
    ],
)
def test_a_bad_row_is_shown(bad, message):
    with pytest.raises(ValueError, match=message):
        task([row(), bad])


def test_spans_are_optional_and_columns_are_not():
    without = row()
    del without["spans"]
    assert len(task([without]).train) == 1
    del without["answer"]
    with pytest.raises(ValueError, match="answer missing, it has prompt, choices"):
        task([without])


def test_says_how_many_prompts_of_test_are_of_train():
    made = task([row("One?"), row("Two?")], [row("Two?"), row("Three?", " bad")])
    assert made.seen == 0.5 and "in 50.0% of test rows the prompt is one of train" in str(made)
    apart = task([row("One?")], [row("Two?")])
    assert apart.seen == 0 and "one of train" not in str(apart)
