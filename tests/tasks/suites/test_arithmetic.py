"""The arithmetic suite: from files written here, and from the real ones.

The published test files hold a language model's solutions, many of them wrong. What is checked on
them is therefore whether the stated answer is found; how often that is the gold one is counted
by LLM-Adapters' own rule.
"""

import json
import re

import pytest
from datasets import Dataset

from reft_interp.tasks.suites import arithmetic, paper_recipe
from reft_interp.tasks.suites.arithmetic import extract_result


def row(i, answer="5.0", output="2 + 3 = 5. The answer is 5."):
    return {"instruction": f" Question {i} ", "input": "", "output": output, "answer": answer}


PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\nQuestion 0\n\n### Response:\n"
)


def test_prompts_and_answers_written_out(tmp_path, write):
    write("gsm8k.train.json", [row(i, output="\nWorked: 5. The answer is 5. ") for i in range(3)])
    write("SVAMP.test.json", [row(8, output="It is 4. The answer is 4.")])
    write("AQuA.test.json", [row(9, answer="D", output="")])
    suite = arithmetic(tmp_path, n_development=1)
    assert suite.train is not None and suite.development is not None
    assert suite.train.to_list()[0] == {
        "prompt": PROMPT,
        "answer": "Worked: 5. The answer is 5.",
        "gold": "5.0",
        "dataset": "gsm8k",
    }
    # The published solution is a model's, and here wrong: the gold answer stands instead.
    (svamp,) = suite.tests["SVAMP"].to_list()
    assert (svamp["answer"], svamp["gold"]) == ("The answer is 5.0.", "5.0")
    assert svamp["choices"] is None
    (aqua,) = suite.tests["AQuA"].to_list()
    assert (aqua["prompt"], aqua["answer"], aqua["gold"]) == (
        PROMPT.replace("0", "9"),
        "The answer is D.",
        "D",
    )
    assert aqua["choices"] == [f"The answer is {letter}." for letter in "ABCDE"]


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ("The answer is 1,000", "1000.0", True),
        ("The answer is $5.50", "5.5", True),
        ("3/4", "0.75", True),
        ("72.", "72.0", True),
        ("It fell to -3 °C", "-3", True),
        ("The answer is 5 apples", "5.0", True),
        ("The answer is 5 apples, not 4", "5.0", False),
        ("1.83", "1.8333333333333335", False),
        ("1.833", "1.8333333333333335", True),
        ("no number", "0.0", False),
        ("", "0.0", False),
        ("The answer is (D).", "D", True),
        ("D", "D", True),
        ("The answer is 35.", "D", False),
        ("The answer is B because 5 > 3.", "B", True),
        ("The correct option is D since 12/4 = 3", "D", True),
        ("The answer is (D).", "4.0", False),
    ],
)
def test_awkward_outputs(tmp_path, write, output, gold, right):
    write("gsm8k.test.json", [row(0, answer=gold)])
    suite = arithmetic(tmp_path)
    assert suite.correct([output], suite.tests["gsm8k"]) == [right]


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("The answer is 5.\n\n### Instruction:\nAdd 2 and 6.\n\n### Response:\n8", "5"),
        ("The answer is 5.### Instruction: Add 2 and 6.", "5"),
        ("5\n\nBelow is an instruction that describes a task. Take 7 from 9.", "5"),
        ("5 apples.\nQuestion: What is 2 + 6?\nAnswer: 8", "5"),
        ("5 apples.\nQ: What is 2 + 6?\nA: 8", "5"),
        ("It is 5.\n\nProblem 2: Add 2 and 6.", "5"),
        ("The answer is (B).\nQuestion: What is 2 + 6?\nThe answer is (C).", "B"),
        # The problem itself, said once more, is no other one.
        ("Question: What is 2 + 6?\nAnswer: 8", "8"),
        ("### Response:\n2 + 6 = 8", "8"),
        ("### Step 1\n2 + 2 = 4\n### Step 2\n4 + 4 = 8", "8"),
        ("\n\n### Instruction:\n", None),
    ],
)
def test_what_follows_the_answer_to_another_problem_does_not_count(output, answer):
    assert extract_result(output) == answer


def test_the_last_rows_of_gsm8k_are_for_development(tmp_path, write):
    write("AQuA.train.json", [row(f"aqua {i}", answer="D") for i in range(2)])
    write("gsm8k.train.json", [row(f"gsm8k {i}") for i in range(5)])
    write("gsm8k.test.json", [row(0)])
    suite = arithmetic(tmp_path, n_development=2)
    assert suite.train is not None and suite.development is not None
    held_out = [re.findall(r"gsm8k \d", prompt)[0] for prompt in suite.development["prompt"]]
    assert held_out == ["gsm8k 3", "gsm8k 4"]
    assert suite.train["dataset"] == ["AQuA"] * 2 + ["gsm8k"] * 3
    assert arithmetic(tmp_path, n_development=0).development is None
    with pytest.raises(ValueError, match="less than GSM8K's 5 training rows, got 300"):
        arithmetic(tmp_path)


def test_training_rows_that_a_test_set_has_are_left_out_and_counted(tmp_path, write):
    write("math_10k.json", [row(i) for i in range(4)])
    write("AddSub.test.json", [row(1)])
    write("gsm8k.test.json", [row(3), row(7)])
    suite = arithmetic(tmp_path, n_development=0)
    assert suite.train is not None
    assert [re.findall(r"Question \d", p) for p in suite.train["prompt"]] == [
        ["Question 0"], ["Question 2"]
    ]  # fmt: skip
    assert suite.notes[-2:] == (
        "left out: 2 training rows whose prompts a later split has",
        "rows of AddSub are in MATH10K: the paper does not report them",
    )


def test_the_papers_training_set_is_read_in_place_of_the_others(tmp_path, write):
    write("gsm8k/test.json", [row(9)])
    write("gsm8k/train.json", [row(1)])
    write("math_10k/train.json", [row(i) for i in range(4)])
    suite = arithmetic(tmp_path, n_development=0)
    assert suite.train is not None and len(suite.train) == 4
    assert suite.development is None


@pytest.mark.parametrize("file", ["math_10k.json", "AQuA.train.json"])
def test_rows_to_tune_on_are_held_out_where_gsm8k_has_no_training_file(tmp_path, write, file):
    write("gsm8k.test.json", [row(9), row(99)])
    write(file, [row(i) for i in [*range(20), 3, 4, 9]])
    suite = arithmetic(tmp_path, n_development=5)
    assert suite.train is not None and suite.development is not None
    held_out, trained = suite.development["prompt"], suite.train["prompt"]
    # 19 different prompts are left, that of a test row is none of them.
    assert len(held_out) == len(set(held_out)) == 5 and len(set(trained)) == 14
    assert not set(held_out) & set(trained)
    assert not {*held_out, *trained} & set(suite.tests["gsm8k"]["prompt"])
    assert arithmetic(tmp_path, n_development=5).hash == suite.hash
    assert arithmetic(tmp_path, n_development=5, seed=1).hash != suite.hash
    with pytest.raises(ValueError, match=r"between 0 and 18 \(arithmetic has 19 .* got 300"):
        arithmetic(tmp_path)


def test_mawps_own_files_are_no_training_rows(tmp_path, write):
    write("mawps.test.json", [row(0, output="")])
    write("mawps.trainset.json", [{"original_text": "How many?", "equation": "x=1", "ans": 1.0}])
    write("mawps.testset.json", [{"original_text": "How many?", "equation": "x=1", "ans": 1.0}])
    suite = arithmetic(tmp_path)
    assert suite.train is None
    assert "no training rows of AQuA, gsm8k, mawps" in str(suite)
    assert "no test rows of AQuA, gsm8k, SVAMP" in str(suite)


@pytest.mark.parametrize("answer", ["F", "five", "", "5 apples", "--5"])
def test_a_gold_answer_that_is_none_is_named(tmp_path, write, answer):
    write("gsm8k.test.json", [row(0), row(1, answer=answer)])
    with pytest.raises(ValueError, match=r"gsm8k\.test\.json row 1: answer must be a number or a"):
        arithmetic(tmp_path)


def test_a_training_row_without_solution_is_named(tmp_path, write):
    write("gsm8k.test.json", [row(0)])
    write("gsm8k.train.json", [row(0), row(1, output=" ")])
    with pytest.raises(ValueError, match=r"train\.json row 1: output must be a solution, got ' '"):
        arithmetic(tmp_path, n_development=0)


def test_it_says_which_test_sets_leaked(tmp_path, write):
    write("AddSub.test.json", [row(0)])
    write("AQuA.test.json", [row(0)])
    suite = arithmetic(tmp_path)
    assert "note: rows of AddSub are in MATH10K" in str(suite)
    assert (suite.recipe, suite.max_new_tokens) == (paper_recipe("arithmetic"), 512)


TESTS = {
    "AQuA": 254,
    "gsm8k": 1319,
    "mawps": 238,
    "SVAMP": 1000,
    "MultiArith": 600,
    "AddSub": 395,
    "SingleEq": 508,
}


def published(data_dir, name):
    return json.loads((data_dir / "arithmetic" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def real(data_dir):
    return arithmetic(data_dir / "arithmetic")


def test_the_real_files_have_as_many_rows_as_their_readme_says(real, data_dir):
    assert {name: len(rows) for name, rows in real.tests.items()} == TESTS
    assert (len(real.train), len(real.development)) == (2700, 300)
    last = published(data_dir, "gsm8k.train3000.json")[-1]
    assert last["instruction"].strip() in real.development[-1]["prompt"]
    for name, rows in real.tests.items():
        assert real.score(rows["answer"], rows) == 1.0, name


def test_every_gold_answer_is_extracted_from_the_solutions_that_are_trained(data_dir):
    rows = published(data_dir, "gsm8k.train3000.json")
    wanted = [float(row["answer"]) for row in rows]
    assert [float(extract_result(row["output"]) or "nan") for row in rows] == wanted


@pytest.mark.parametrize("name", ["SVAMP", "MultiArith", "AddSub", "SingleEq", "gsm8k", "AQuA"])
def test_a_stated_answer_is_extracted_from_a_models_solution(data_dir, name):
    # What is left states it with a unit, or not at all.
    stated = re.compile(r"[Tt]he answer is (?:\(([A-E])\)|(\d+(?:\.\d+)?))\.?$")
    found = 0
    for row in published(data_dir, f"{name}.test.json"):
        if match := stated.search(row["output"].strip()):
            assert extract_result(row["output"]) == (match[1] or match[2])
            found += 1
    assert found > 0.5 * TESTS[name]


# How many published solutions do not give the gold answer, by LLM-Adapters' rule (the last match
# of -?\d+\.?\d* without commas) for numbers, and the last letter after "answer is" for AQuA. These
# rows are the data's: the solutions are a model's.
WRONG = {
    "AQuA": 131,
    "gsm8k": 542 + 6,  # six are empty
    "mawps": 238,  # all are empty
    "SVAMP": 197,
    "MultiArith": 40,
    "AddSub": 25,
    "SingleEq": 24,
}
# Rows that are right and that its rule counts as wrong: of "$118 000" it reads "000".
READ_RIGHT = {"gsm8k": [637]}


@pytest.mark.parametrize("name", list(WRONG))
def test_published_solutions_are_as_often_wrong_as_llm_adapters_rule_says(real, data_dir, name):
    outputs = [row["output"] for row in published(data_dir, f"{name}.test.json")]
    correct = real.correct(outputs, real.tests[name])
    expected = [
        llm_adapters_rule(output, gold)
        for output, gold in zip(outputs, real.tests[name]["gold"], strict=True)
    ]
    assert expected.count(False) == WRONG[name]
    for row in READ_RIGHT.get(name, []):
        assert not expected[row]
        expected[row] = True
    assert correct == expected


def test_a_letter_on_the_way_is_no_answer_of_a_row_that_asks_for_a_number(real):
    output = "He picks option B. He saves 20 - 8 = 12 dollars."
    number = {"prompt": "", "gold": "12.0"}
    letter = {"prompt": "", "gold": "B"}
    assert real.answers([output, output], [number, letter]) == ["12", "B"]
    assert real.correct([output], Dataset.from_list([number])) == [True]
    assert real.answers([output]) == ["B"]  # of who knows what


def llm_adapters_rule(output: str, gold: str) -> bool:
    if gold in "ABCDE":
        return re.findall(r"answer is \(?([A-E])", output)[-1:] == [gold]
    numbers = re.findall(r"-?\d+\.?\d*", output.replace(",", ""))
    return bool(numbers) and abs(float(numbers[-1]) - float(gold)) <= 0.001
