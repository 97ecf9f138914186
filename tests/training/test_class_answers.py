"""Answers of rows as classes or scores, and classes or scores as answers."""

import pytest

from reft_interp.tasks.suites import glue
from reft_interp.training.class_answers import ClassAnswers, class_answers

ROWS = [
    {"prompt": "a", "answer": " yes", "choices": [" no", " yes"], "label": 1},
    {"prompt": "b", "answer": " no", "choices": [" no", " yes"], "label": 0},
]


def test_a_class_is_the_place_of_its_answer_among_the_choices():
    found = class_answers(ROWS)
    assert found == ClassAnswers((" no", " yes")) and found.classes == 2
    assert found.labels(ROWS) == [1, 0] == [row["label"] for row in ROWS]
    assert found.said([0, 1, 1]) == [" no", " yes", " yes"]


def test_the_order_of_the_choices_counts_whatever_the_label_column_holds():
    turned = [{**row, "choices": [" yes", " no"], "label": 7} for row in ROWS]
    assert class_answers(turned).labels(turned) == [0, 1]


def test_scores_are_numbers_in_full():
    rows = [{"prompt": "a", "answer": " 3.8", "label": 3.75, "choices": [" 3.6", " 3.8"]}]
    found = class_answers(rows)
    assert found.classes is None and found.labels(rows) == [3.75]
    # "1e-05" would be read as 1, and "-0.5" has to keep its sign.
    assert [float(said) for said in found.said([0.00001, -0.5, 4.25])] == [0.00001, -0.5, 4.25]
    assert "e" not in "".join(found.said([0.00001, 1e-9]))


def test_what_is_said_of_a_score_is_what_stsb_reads(tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"stsb.{split}.tsv").write_text(
            "sentence1\tsentence2\tscore\n"
            + "".join(f"the {split} {i}\tthe key\t{i / 2}\n" for i in range(4))
        )
    suite = glue("stsb", tmp_path)
    assert suite.train is not None
    found = class_answers(suite.train.to_list())
    assert found.labels(suite.train.to_list()) == [0.0, 0.5, 1.0, 1.5]
    assert suite.answers(found.said([0.00001, 2.5, 7.0])) == ["1e-05", "2.5", "5.0"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"choices": None}, "suite: test: .* row 1 has no choices, and the answer ' no'"),
        ({"choices": [" no", " maybe"]}, "row 1 has the choices ' no', ' maybe' and the answer"),
        ({"answer": " never"}, "row 1 has .*' no', ' yes' and the answer ' never'"),
        ({"label": 0.5}, "row 1 has"),
        ({"label": float("nan")}, "suite: test: row 1 has the label nan; it must be finite"),
    ],
)
def test_answers_that_are_no_classes_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        class_answers([ROWS[0], {**ROWS[1], **changed}], "suite: test")
    with pytest.raises(ValueError, match="row 0 has"):
        class_answers(ROWS, like=ClassAnswers((" a", " b")))


def test_choices_in_one_text_are_no_classes():
    rows = [{"answer": "a", "choices": "ab"}, {"answer": "b", "choices": "ab"}]
    with pytest.raises(TypeError, match="rows: row 0 must have a list of texts as its choices"):
        class_answers(rows)
