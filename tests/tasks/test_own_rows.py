"""Rows of one's own: each text is what stands in the file, whatever else it might be read as."""

import csv
import json

import pytest
from datasets import Dataset

from reft_interp.tasks import read_rows

TEXTS = [
    "4",
    " 04",
    "True",
    "False",
    "None",
    "NA",
    "null",
    "nan",
    "2020-01-01",
    "1e5",
    "a,\nb",
    "é",
]


@pytest.mark.parametrize("answers", [*([text] for text in TEXTS), TEXTS])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", "lines.json", ".parquet"])
def test_texts_are_those_of_the_file(tmp_path, ending, answers):
    rows = [{"prompt": f"2+2={i}", "answer": answer} for i, answer in enumerate(answers)]
    file = tmp_path / f"rows{ending}"
    if ending == ".csv":
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, ["prompt", "answer"])
            writer.writeheader()
            writer.writerows(rows)
    elif ending == ".parquet":
        Dataset.from_list(rows).to_parquet(file)
    elif ending == ".json":
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_rows(file).to_list() == rows


def test_columns_that_only_some_rows_have_are_kept(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "Paris", "answer": " a"},
        {"prompt": "Rome", "answer": " b", "choices": [" a", " b"], "spans": {"city": [0, 4]}},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_rows(file).to_list() == [{**rows[0], "choices": None, "spans": None}, rows[1]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.json", "[]"), ("a.json", ""), ("a.csv", ""),
        ("a.csv", "prompt,answer\n"),
    ],
)  # fmt: skip
def test_a_file_without_rows_is_told_of(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} must hold at least one row, got no rows"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "a"', "cannot be read: "),
        ("a.json", '["a"]', "cannot be read: row 0 must be an object with a prompt, got 'a'"),
        ("a.csv", "prompt,answer\na\n", "row 0: answer must be a text that is not empty, got ''"),
        ("a.csv", "question,answer\na,b\n", "must have the columns prompt, answer; prompt missing"),
        ("a.csv", 'prompt,answer,choices\na,b,"b,c"\n', "JSON lines.*as 'b,c'"),
        ("a.jsonl", '{"prompt": "a", "answer": 4}', "row 0: answer must be a text.*got 4"),
    ],
)
def test_what_cannot_be_read_is_told_of(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        read_rows(tmp_path / name)
