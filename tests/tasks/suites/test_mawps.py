"""MAWPS: equations as answers, read from its own files."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from reft_interp.tasks.suites import mawps
from reft_interp.tasks.suites.mawps import solved

ROW = {"original_text": " There are 4 crayons in each of 3 boxes . How many ?", "ans": 12.0}


def write(folder: Path, **rows) -> None:
    for name in ("trainset", "validset", "testset"):
        given = rows.get(name, [ROW | {"equation": "X=(4.0*3.0)"}])
        (folder / f"mawps.{name}.json").write_text(json.dumps(given))


@pytest.mark.parametrize(
    ("equation", "answer", "written"),
    [
        ("X=((22.0-14.0)/4.0)", "2", "(22 - 14) / 4 = 2"),
        ("x=3*6", "18", "3 * 6 = 18"),
        ("12.0=X", "12", "12 = 12"),
        ("X=-(3.0)+2.05", "-0.95", "-(3) + 2.05 = -0.95"),
        ("X=(1+2)*(3+4)", "21", "(1 + 2) * (3 + 4) = 21"),
        ("(6.0+x)*(x-6.0)=189.0", "-15", "(6 + x) * (x - 6) = 189"),
        ("3.5+x=12.0", "8.5", "3.5 + x = 12"),
    ],
)
def test_an_equation_ends_with_the_answer_where_x_stands_alone(equation, answer, written):
    assert solved(equation, answer) == written


def test_rows_are_alpacas_prompts_and_solved_equations(tmp_path):
    write(tmp_path)
    suite = mawps(tmp_path)
    row: Any
    (row,) = suite.tests["mawps"]
    assert row["prompt"].endswith(
        "### Instruction:\nThere are 4 crayons in each of 3 boxes . How many ?\n\n### Response:\n"
    )
    assert row["answer"] == "4 * 3 = 12. The answer is 12." and row["gold"] == "12"
    assert suite.score(["4 * 3 = 12. The answer is 12.0."], [row]) == 1.0
    assert suite.score(["4 + 3 = 7. The answer is 7."], [row]) == 0.0


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"folder must hold mawps\.trainset\.json, got .*no files"):
        mawps(tmp_path)
    write(tmp_path, validset=[ROW | {"equation": "X=1", "ans": "many"}])
    with pytest.raises(ValueError, match=r"validset\.json row 0: ans must be a number, got 'many'"):
        mawps(tmp_path)


def test_the_published_files(tmp_path):
    data = os.environ.get("REFT_INTERP_DATA")
    if not data:
        pytest.skip("REFT_INTERP_DATA is not set: the folder that holds arithmetic/")
    suite = mawps(Path(data) / "arithmetic")
    assert {name: len(split) for name, split in suite.splits.items()} == {
        "train": 1835, "development": 232, "test mawps": 238
    }  # fmt: skip
    prompts = [set(split["prompt"]) for split in suite.splits.values()]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert "left out: 63 training and 5 development rows" in suite.notes[0]
    assert suite.train is not None
    assert suite.score(suite.train["answer"], suite.train) == 1.0
    # Where x stands alone, Python agrees with the answer.
    wrong = 0
    train: Any = suite.train
    for row in train:
        term, _, answer = row["answer"].split(". The answer is")[0].rpartition(" = ")
        if re.fullmatch(r"[-+*/(). \d]+", term + answer):
            wrong += abs(eval(term) - float(answer)) > 0.01 * max(1, abs(float(answer)))
    assert wrong <= 19  # one in a hundred: the data's own
