"""Counterfactual data: what is accepted, what it says of itself, and that saving keeps it."""

import hashlib
import json
import re
import subprocess
import sys

import pytest
from datasets import Dataset

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.rows import check_columns, content_hash


def row(base="The key near the doors", source="The cars", *, changes=True, **other):
    return {
        "base": base,
        "source": source,
        "base_answer": " is",
        "source_answer": " are" if changes else " is",
        "label": " are" if changes else " is",
        "choices": [" is", " are"],
        "base_spans": {"subject": [4, 7]},
        "source_spans": {"subject": [4, 8]},
    } | other


def data(train=None, test=None, **other) -> Counterfactuals:
    train = train or [row(), row("The dog", changes=False)]
    test = test or [row("The “café” near\u2028it"), row("The cat"), row("The cow", changes=False)]
    settings = {
        "train": Dataset.from_list(train),
        "test": Dataset.from_list(test),
        "variable": "number",
        "seed": 3,
        "generated": len(train) + len(test) + 4,
        "kept": len(train) + len(test),
        "model_accuracy": 0.925,
        "model": "tiny",
        "held_out": "other nouns",
    }
    return Counterfactuals(**settings | other)


def test_counts_what_was_dropped_and_what_changes():
    made = data()
    assert made.dropped == 4
    assert made.changed == {"train": 1 / 2, "test": 2 / 3}


def test_says_what_it_holds():
    text = str(data())
    for part in (
        "'number': 2 train, 3 test rows",
        "50.0% of train, 66.7% of test",
        "tiny gets 92.5% of prompts right",
        "4 of 9 rows dropped",
        "held out: other nouns",
    ):
        assert part in text
    assert "dropped" not in str(data(model_accuracy=None, generated=5, held_out=""))


def test_says_how_much_of_test_was_seen_in_train():
    seen = data(test=[row("The cars", "The film"), row("The cat"), row("The cow")])
    assert seen.seen == pytest.approx(1 / 3)  # the source of train's rows
    assert "in 33.3% of test rows the base is a prompt of train, too" in str(seen)
    assert data().seen == 0 and "of train, too" not in str(data())


def test_html_shows_rows_and_escapes_what_they_say():
    shown = data(
        test=[row("The <b>key</b>", base_spans={"subject": [4, 5]})], variable="<i>"
    )._repr_html_()
    assert "The &lt;b&gt;key&lt;/b&gt;" in shown and "&lt;i&gt;" in shown
    assert "<b>key" not in shown and "<i>" not in shown


def test_frame_has_a_line_for_each_row_of_both_splits():
    frame = data().to_frame()
    assert frame["split"].tolist() == ["train"] * 2 + ["test"] * 3
    assert frame["base"].tolist()[1] == "The dog"


def test_hash_is_that_of_the_rows_as_canonical_json():
    rows = [{"b": "é", "a": [1, None]}, {"b": "x", "a": [2, 3]}]
    written = '[{"a":[1,null],"b":"é"},{"a":[2,3],"b":"x"}]\nnull\n'
    expected = hashlib.sha256(written.encode()).hexdigest()
    assert content_hash(Dataset.from_list(rows), None) == expected


def test_hash_is_the_same_in_another_process_and_another_order_of_columns():
    made = data()
    code = (
        "import json, sys\n"
        "from datasets import Dataset\n"
        "from reft_interp.causal.rows import content_hash\n"
        "splits = json.loads(sys.stdin.read())\n"
        "print(content_hash(*[Dataset.from_list(rows) for rows in splits]))\n"
    )
    turned = [
        [dict(reversed(row.items())) for row in split.to_list()]
        for split in (made.train, made.test)
    ]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(turned),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == made.hash


def test_hash_changes_with_a_row_its_order_and_its_split():
    first, second, third = row("The dog"), row("The cat"), row("The cow")
    hashes = {
        data([first], [second, third]).hash,
        data([first], [third, second]).hash,
        data([first, second], [third]).hash,
        data([first], [second, row("The hen")]).hash,
    }
    assert len(hashes) == 4
    assert data([first], [second, third], seed=5).hash in hashes


def test_loads_what_it_saved(tmp_path):
    made = data()
    folder = made.save(tmp_path / "new" / "folder")
    loaded = Counterfactuals.load(folder)
    assert loaded.hash == made.hash
    assert loaded.test.to_list() == made.test.to_list()
    assert str(loaded) == str(made)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "test.jsonl",
        "train.jsonl",
    ]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["variable"] == "number" and config["generated"] == 9
    first = json.loads((folder / "train.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert first == made.train[0]


def test_saves_over_what_was_there(tmp_path):
    data().save(tmp_path)
    other = data([row("The hen")])
    other.save(tmp_path)
    assert Counterfactuals.load(tmp_path).hash == other.hash


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"without config.json, train.jsonl, test.jsonl"):
        Counterfactuals.load(tmp_path)
    data().save(tmp_path)
    edited = json.dumps(row("The bird")) + "\n" + json.dumps(row("The fox"))
    (tmp_path / "train.jsonl").write_text(edited, encoding="utf-8")
    with pytest.raises(ValueError, match="not those that were saved"):
        Counterfactuals.load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(ValueError, match="format must be 1"):
        Counterfactuals.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("hash"), "damaged: it lacks hash"),
        (lambda config: config.pop("variable"), "damaged: it lacks variable"),
        (lambda config: config.update(kept="two"), "'kept' must be a whole number, got 'two'"),
        (lambda config: config.update(more=1), "damaged: nobody reads more"),
        (lambda config: config.update(kept=7), "what it holds: kept must be the number of rows"),
    ],
)
def test_a_damaged_configuration_is_told_with_its_file(tmp_path, change, message):
    file = data().save(tmp_path) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    change(config)
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*{message}"):
        Counterfactuals.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[1, 2]", "damaged: must be a mapping, got"),
        ("config.json", '{"format"', "damaged: Expecting"),
        ("train.jsonl", '{"base": "The', "train.jsonl cannot be read: the rows: Unterminated"),
        ("train.jsonl", "[1]", "train.jsonl cannot be read: the rows: "),
        ("test.jsonl", '{"base": "The dog"}', "what it holds: test must have the column"),
    ],
)
def test_a_damaged_file_is_told_by_its_name(tmp_path, name, text, message):
    (data().save(tmp_path) / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*{message}"):
        Counterfactuals.load(tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(label=" was"), r"train row 1: label must be one of .*got ' was'.*key near"),
        (row(base_answer="is"), r"base_answer must be one of .*leading space"),
        (row(choices=[" is"], label=" is"), "two or more different"),
        (row(choices=[" is", " is"], label=" is"), "two or more different"),
        (row(choices=[" is", " are", ""]), "two or more different"),
        (row(base=""), "base must be a prompt"),
        (row(source=""), "source must be a prompt"),
        (row(base="The key "), "ends in a space"),
        (row(base_spans={"subject": [4, 99]}), r"'subject' in base_spans .*<= 22.*got \[4, 99\]"),
        (row(source_spans={"subject": [5, 5]}), "'subject' in source_spans"),
        (row(source_spans={"subject": [5]}), "'subject' in source_spans"),
    ],
)
def test_a_bad_row_is_shown(bad, message):
    with pytest.raises(ValueError, match=message):
        data([row(), bad])


def test_absent_spans_are_no_error():
    # Dataset.from_list gives every row every name, with None where it had none.
    made = data([row(), row("The dog", base_spans={"verb": [0, 3]})])
    assert made.train[1]["base_spans"] == {"subject": None, "verb": [0, 3]}


def test_missing_columns_are_named():
    incomplete = row()
    del incomplete["label"], incomplete["choices"]
    with pytest.raises(ValueError, match=r"train must have the columns .*; label, choices missing"):
        data([incomplete])


def test_a_split_must_be_a_dataset_with_rows():
    whole = Dataset.from_list([row()])
    with pytest.raises(ValueError, match="test must have rows"):
        Counterfactuals(whole, whole.select([]), "number", seed=0, generated=1, kept=1)
    with pytest.raises(TypeError, match=r"test must be a datasets.Dataset, got list"):
        check_columns("test", [row()], ["base"])  # pyright: ignore[reportArgumentType]


def test_sources_are_named_alike_in_both_splits():
    with pytest.raises(ValueError, match=r"test row 0: sources must be named alike .* one source"):
        data([row()], [several("The dog")])
    other = several("The dog")
    other["sources"]["tense"] = other["sources"].pop("gender")
    with pytest.raises(ValueError, match=r"got \['number', 'tense'\], and .* \['gender', 'number'"):
        data([several()], [other])
    lacking = several("The cow")
    del lacking["sources"]["gender"]  # a Dataset fills it in with None
    with pytest.raises(TypeError, match=r"train row 1: sources\['gender'\] must be .* got None"):
        data([several(), lacking], [several("The dog")])


def test_a_pair_in_both_splits_is_an_error():
    with pytest.raises(ValueError, match=r"test row 1 is also in train.*The dog"):
        data([row("The dog")], [row("The cat"), row("The dog")])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kept": 4}, "kept must be the number of rows in both splits, 5, got 4"),
        ({"generated": 4}, r"generated must be at least kept \(5\), got 4"),
        ({"model_accuracy": 92.5}, r"model_accuracy must be between 0 and 1, got 92.5"),
    ],
)
def test_counts_must_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        data(**wrong)


def several(base="The key near the doors", **prompts):
    """A row with a source for each of two variables."""
    given = {"number": "The cars", "gender": "The queen"} | prompts
    one = row(base)
    for name in ("source", "source_answer", "source_spans"):
        del one[name]
    sources = {
        name: {"prompt": text, "answer": " is", "spans": {"subject": [4, 7]}}
        for name, text in given.items()
    }
    return one | {"sources": sources}


def test_each_variable_may_have_a_source_of_its_own(tmp_path):
    made = data([several(), several("The dog")], [several("The cat")])
    assert Counterfactuals.load(made.save(tmp_path)).hash == made.hash
    assert "The queen" in made._repr_html_()
    # A source that is the base is fine while another is not: that variable stays what it was.
    data([several(gender="The key near the doors")], [several("The cat")])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            several("The cat", number="The cat", gender="The cat"),
            "source must differ from its base",
        ),
        (several(gender=""), r"sources\['gender'\] must be a prompt"),
        (several(gender="The"), r"'subject' in the spans of sources\['gender'\] must be"),
    ],
)
def test_a_bad_source_of_several_is_shown(bad, message):
    with pytest.raises(ValueError, match=message):
        data([bad], [several("The cow")])


def test_a_pair_is_the_same_whatever_the_order_of_its_sources():
    again = several()
    again["sources"] = dict(reversed(again["sources"].items()))
    with pytest.raises(ValueError, match="test row 0 is also in train"):
        data([several()], [again])
