"""The commonsense suite: from files written here, from a copy of a hub dataset, and the real ones.

The real files have both the trained output and the answer that it gives: the extraction is held
against them.
"""

import json

import pytest
from datasets import Dataset

from reft_interp.tasks.suites import COMMONSENSE, commonsense, paper_recipe
from reft_interp.tasks.suites.commonsense import extract_choice

BOOLQ = {
    "instruction": "Please answer with true or false: is it?\n\nAnswer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}
PIQA = {
    "instruction": "  Choose: dresser\n\nSolution1: a \n\nSolution2: b \n\n"
    "Answer format: solution1/solution2\n",
    "input": "",
    "output": "the correct answer is solution2",
    "answer": "solution2",
}


def numbered(row, n):
    return [{**row, "instruction": f"{i}. {row['instruction']}"} for i in range(n)]


def test_prompt_answer_and_choices_written_out(tmp_path, write):
    write("boolq.test.json", [BOOLQ])
    write("piqa.train.json", [PIQA])
    suite = commonsense(tmp_path)
    assert suite.train is not None and suite.development is None
    assert suite.tests["boolq"].to_list() == [
        {
            "prompt": "Please answer with true or false: is it?\n\nAnswer format: true/false\n",
            "answer": "the correct answer is true",
            "gold": "true",
            "choices": ["the correct answer is true", "the correct answer is false"],
            "dataset": "boolq",
        }
    ]
    (row,) = suite.train.to_list()
    assert row["prompt"].startswith("Choose: dresser\n\n")
    assert row["prompt"].endswith("\n\nAnswer format: solution1/solution2\n")
    assert (row["gold"], row["dataset"], len(row["choices"])) == ("solution2", "piqa", 2)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("the correct answer is answer3", "answer3"),
        ("The correct answer is Answer3.", "answer3"),
        ("the correct answer is: **SOLUTION2**!", "solution2"),
        ("\n\nthe correct answer is 'ending4' because", "ending4"),
        ("the correct answer is option1the correct answer is option2", "option1"),
        ("the correct answer is answer1answer1answer1", "answer1"),
        ("the correct answer is truetrue", "true"),
        ("answer2", "answer2"),
        ("It is true that answer1 is tempting. The correct answer is answer2", "answer2"),
        ("Answer5: yes. The correct answer is", "answer5"),
        ("False", "false"),
        ("the correct answer is false, not true", "false"),
        ("The correct answer is not true but false", "false"),
        ("the correct answer is not answer1, it is answer3", "answer3"),
        ("It isn't true, so false", "false"),
        ("Answer1 is not right, answer2 is.", "answer2"),
        ("It is true that he asked. The correct answer is not true", None),
        ("neither true nor false", None),
        ("not true or false", None),
        ("the correct answer is answer12", None),
        ("the correct answer is answer", None),
        ("the correct answer is untrue", None),
        ("the correct answer is falsehood", None),
        ("answer6", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_awkward_outputs(output, answer):
    assert extract_choice(output) == answer


def test_scores_count_an_output_without_answer_as_wrong(tmp_path, write):
    write("boolq.test.json", numbered(BOOLQ, 4))
    suite = commonsense(tmp_path)
    outputs = ["True", "no idea", "the correct answer is false", "the correct answer is true."]
    assert suite.score(outputs, suite.tests["boolq"]) == 0.5
    assert suite.correct(outputs, suite.tests["boolq"]) == [True, False, False, True]


def test_what_is_missing_is_named(tmp_path, write):
    write("boolq.test.json", [BOOLQ])
    write("piqa.train.json", [PIQA])
    write("piqa.test100.json", [PIQA])
    text = str(commonsense(tmp_path))
    assert "tests: boolq 1, piqa 1" in text
    assert "note: test rows of piqa are those of piqa.test100.json" in text
    others = "social_i_qa, hellaswag, winogrande, ARC-Easy, ARC-Challenge, openbookqa"
    assert f"note: no test rows of {others}" in text
    assert f"note: no training rows of boolq, {others}" in text


def test_a_file_of_the_usual_name_comes_first_and_two_others_are_an_error(tmp_path, write):
    write("boolq.test.json", numbered(BOOLQ, 2))
    write("boolq.test100.json", [BOOLQ])
    assert len(commonsense(tmp_path).tests["boolq"]) == 2
    (tmp_path / "boolq.test.json").rename(tmp_path / "boolq.test2.json")
    with pytest.raises(ValueError, match=r"has boolq\.test100\.json, boolq\.test2\.json; name one"):
        commonsense(tmp_path)


@pytest.mark.parametrize("name", ["commonsense_170k.json", "commonsense_170k/train.json"])
def test_the_combined_training_set_is_read_in_place_of_the_others(tmp_path, write, name):
    # As the paper's repository lays the files out.
    write("boolq/test.json", numbered(BOOLQ, 1))
    write("boolq/train.json", [BOOLQ])
    write(name, [BOOLQ, PIQA])
    suite = commonsense(tmp_path)
    assert suite.train is not None and len(suite.train) == 2
    assert suite.train["dataset"] == ["commonsense_170k"] * 2
    assert "no training rows" not in str(suite) and "are those of" not in str(suite)


def test_training_rows_that_a_test_set_has_are_left_out_and_counted(tmp_path, write):
    write("boolq.train.json", numbered(BOOLQ, 5))
    write("boolq.test.json", numbered(BOOLQ, 1))
    write("piqa.test.json", [numbered(BOOLQ, 3)[2]])
    suite = commonsense(tmp_path, n_development=1)
    assert suite.train is not None and suite.development is not None
    kept = [*suite.train["prompt"], *suite.development["prompt"]]
    assert sorted(prompt[0] for prompt in kept) == ["1", "3", "4"]
    assert "note: left out: 2 training rows whose prompts a later split has" in str(suite)


def test_rows_for_development_are_held_out(tmp_path, write):
    write("boolq.train.json", numbered(BOOLQ, 9))
    write("boolq.test.json", [BOOLQ])
    suite = commonsense(tmp_path, n_development=3, seed=1)
    assert suite.train is not None and suite.development is not None
    assert (len(suite.train), len(suite.development)) == (6, 3)
    assert not set(suite.train["prompt"]) & set(suite.development["prompt"])
    with pytest.raises(ValueError, match=r"n_development must be between 0 and 8 .*got 9"):
        commonsense(tmp_path, n_development=9)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"answer": "maybe"}, r"boolq\.test\.json row 1: answer must be true, false, or .*'maybe'"),
        ({"answer": "answer1"}, r"row 1: answer must be one of true, false .*got 'answer1'"),
        ({"answer": ["true"]}, r"boolq\.test\.json row 1: answer must be text"),
    ],
)
def test_a_bad_row_is_named(tmp_path, write, bad, message):
    write("boolq.test.json", [BOOLQ, {**BOOLQ, **bad}])
    with pytest.raises(ValueError, match=message):
        commonsense(tmp_path)


def test_a_folder_without_test_sets_says_what_is_there(tmp_path, write):
    write("boolq.train.json", [BOOLQ])
    with pytest.raises(ValueError, match=r"test set of one of boolq, .*it has boolq\.train\.json"):
        commonsense(tmp_path)
    with pytest.raises(ValueError, match="nothing there"):
        commonsense("./nowhere")


def test_a_copy_of_a_hub_dataset_with_a_split_for_each_set(tmp_path):
    Dataset.from_list([BOOLQ, PIQA]).to_parquet(tmp_path / "train-0.parquet")
    Dataset.from_list(numbered(BOOLQ, 3)).to_parquet(tmp_path / "boolq-0.parquet")
    Dataset.from_list(numbered(PIQA, 2)).to_parquet(tmp_path / "easy-0.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        '  - {split: train, path: "train-*"}\n  - {split: boolq, path: "boolq-*"}\n'
        '  - {split: ARC_Easy, path: "easy-*"}\n---\n'
    )
    suite = commonsense(tmp_path)
    assert suite.train is not None and len(suite.train) == 2
    assert {name: len(rows) for name, rows in suite.tests.items()} == {"boolq": 3, "ARC-Easy": 2}


def test_a_copy_of_a_hub_dataset_with_a_configuration_for_each_set(tmp_path):
    for name, row in (("boolq", BOOLQ), ("piqa", PIQA)):
        Dataset.from_list(numbered(row, 5)[3:]).to_parquet(tmp_path / f"{name}-train.parquet")
        Dataset.from_list(numbered(row, 3)).to_parquet(tmp_path / f"{name}-test.parquet")
    configurations = "".join(
        f"- config_name: {name}\n  data_files:\n"
        f'  - {{split: train, path: "{name}-train*"}}\n  - {{split: test, path: "{name}-test*"}}\n'
        for name in ("boolq", "piqa")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    suite = commonsense(tmp_path)
    assert suite.train is not None and suite.train["dataset"] == ["boolq"] * 2 + ["piqa"] * 2
    assert {name: len(rows) for name, rows in suite.tests.items()} == {"boolq": 3, "piqa": 3}


def test_a_hub_that_is_not_reached_says_what_works_without():
    with pytest.raises(ValueError, match=r"'some/suite' is no folder with .*Without a network"):
        commonsense("some/suite")


def test_the_recipe_can_be_another(tmp_path, write):
    write("boolq.test.json", [BOOLQ])
    assert commonsense(tmp_path).recipe == paper_recipe("commonsense")
    other = paper_recipe("commonsense", method="DiReFT", model="LLaMA-13B")
    assert commonsense(tmp_path, recipe=other).recipe == other
    assert commonsense(tmp_path).max_new_tokens == 32


@pytest.fixture(scope="module")
def real(data_dir):
    return commonsense(data_dir / "commonsense")


def test_the_real_files_have_as_many_rows_as_their_readme_says(real):
    assert {name: len(rows) for name, rows in real.tests.items()} == {
        "boolq": 3270,
        "piqa": 1838,
        "social_i_qa": 1954,
        "hellaswag": 1000,
        "winogrande": 1267,
        "ARC-Easy": 2376,
        "ARC-Challenge": 1172,
        "openbookqa": 500,
    }
    assert list(real.tests) == list(COMMONSENSE)
    trained = real.train.to_pandas()["dataset"].value_counts().to_dict()
    assert trained == {
        "boolq": 9427,
        "winogrande": 2558,
        "ARC-Easy": 2251 - 2,  # of the published rows, two are test rows too
        "ARC-Challenge": 1119,
        "openbookqa": 4957,
    }
    assert "no training rows of piqa, social_i_qa, hellaswag" in str(real)
    assert "left out: 2 training rows" in str(real)


def test_every_gold_answer_is_extracted_from_the_files_own_output(data_dir):
    files = sorted((data_dir / "commonsense").glob("*.json"))
    assert len(files) == 13
    for file in files:
        rows = json.loads(file.read_text(encoding="utf-8"))
        found = [extract_choice(row["output"]) for row in rows]
        assert found == [row["answer"] for row in rows], file.name


def test_the_trained_text_is_the_files_own(real, data_dir):
    rows = json.loads((data_dir / "commonsense" / "piqa.test.json").read_text(encoding="utf-8"))
    assert real.tests["piqa"]["answer"] == [row["output"] for row in rows]
    assert real.score(real.tests["piqa"]["answer"], real.tests["piqa"]) == 1.0
    others = ["the correct answer is solution1"] * 1838
    ones = sum(row["answer"] == "solution1" for row in rows)
    assert real.score(others, real.tests["piqa"]) == pytest.approx(ones / 1838)
