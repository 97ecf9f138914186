"""Readers: what a file may hold, and what is said of one that holds something else."""

import pytest

from reft_interp.tasks.suites.reading import hold_out, locate, read_json, without

COLUMNS = ("instruction", "answer")
ROW = {"instruction": "add", "answer": 5}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_are_read_and_numbers_become_text(write, name, mark):
    odd = '{"instruction": "a \u2028 b", "answer": "x", "more": [1]}'
    one = '{"instruction": "add", "answer": 5}'
    text = f"[{one}, {odd}]" if name == "rows.json" else f"{one}\n{odd}\n"
    rows = read_json(write(name, mark + text), COLUMNS)
    assert rows == [
        {"instruction": "add", "answer": "5"},
        {"instruction": "a \u2028 b", "answer": "x", "more": [1]},
    ]


def test_an_object_of_rows_is_a_list_of_them(write):
    rows = read_json(write("rows.json", {"0": ROW, "1": ROW}), COLUMNS)
    assert [row["answer"] for row in rows] == ["5", "5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", r"rows\.json must be JSON"),
        ("[]", r"rows\.json must hold a list of rows, got nothing in it"),
        ("5", r"rows\.json must hold a list of rows, got a int"),
        ([ROW, "add"], r"rows\.json row 1 must be an object with instruction, answer, got 'add'"),
        (
            [ROW, {"instruction": "add", "output": "5"}],
            r"rows\.json row 1 must have the columns instruction, answer; answer missing, it has "
            "instruction, output",
        ),
        ([{**ROW, "answer": None}], r"rows\.json row 0: answer must be text, got None"),
        ([{**ROW, "answer": True}], r"rows\.json row 0: answer must be text, got True"),
        ([{**ROW, "answer": ["5"]}], r"rows\.json row 0: answer must be text, got \['5'\]"),
    ],
)
def test_a_bad_file_is_named_with_its_row_and_columns(write, content, message):
    with pytest.raises(ValueError, match=message):
        read_json(write("rows.json", content), COLUMNS)


def test_a_folder_is_a_path_and_a_word_is_an_id(tmp_path, write):
    assert locate(tmp_path, "files") == tmp_path
    assert locate(str(tmp_path), "files") == tmp_path
    assert locate("owner/name", "files") == "owner/name"
    file = write("rows.json", [])
    assert locate(file, "files", files=True) == file
    with pytest.raises(ValueError, match=r"must be a folder with such files, or .*\(a file\)"):
        locate(file, "such files")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c"])
def test_a_path_to_nothing_is_an_error(name):
    with pytest.raises(ValueError, match=r"folder with such files or a file, .*\(nothing there\)"):
        locate(name, "such files", files=True)


def test_rows_held_out_share_no_prompt_with_the_others():
    rows = [{"prompt": f"{i % 8}", "gold": f"{i}"} for i in range(12)]
    train, held_out = hold_out(rows, 3, 0, "some")
    assert len({row["prompt"] for row in held_out}) == len(held_out) == 3
    assert all(int(row["gold"]) < 8 for row in held_out)
    assert {r["prompt"] for r in train} | {r["prompt"] for r in held_out} == set("01234567")
    assert train == without(rows, held_out) == [row for row in rows if row in train]
    assert hold_out(rows, 3, 0, "some") == (train, held_out) != hold_out(rows, 3, 1, "some")
    assert hold_out(rows, 0, 0, "some") == (rows, [])
    for n in (-1, 8):
        with pytest.raises(ValueError, match=rf"between 0 and 7 \(some has 8 .*got {n}"):
            hold_out(rows, n, 0, "some")
