"""BLiMP's sentences as pairs of prompts."""

import json
from collections import Counter
from importlib import import_module

import numpy as np
import pytest
from datasets import Dataset

from reft_interp.causal.rows import rows_of
from reft_interp.tasks import blimp

NOUNS = ["key", "door", "dog", "cat", "car", "cow", "hat", "pen", "cup", "bed", "box", "map"]
SENTENCES = [
    {"sentence_good": f"The {noun}{s} {good} here.", "sentence_bad": f"The {noun}{s} {bad} here."}
    for noun in NOUNS
    for s, good, bad in (("", "is", "are"), ("s", "are", "is"))
]
ODD = [
    {"sentence_good": "Tina left.", "sentence_bad": "Horses left."},  # parts at its first word
    {"sentence_good": "The sheep is in.", "sentence_bad": "The sheep are in."},  # both are right
    {"sentence_good": "The sheep are in.", "sentence_bad": "The sheep is in."},
    {"sentence_good": "A man saw art.", "sentence_bad": "A man saw pie."},  # choices of its own
]


def write(folder, rows):
    file = folder / "paradigm.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_prompts_that_want_the_one_are_sources_of_those_that_want_the_other(tmp_path):
    pairs = blimp(write(tmp_path, [*SENTENCES, *ODD]), n=36)
    assert pairs.changed == {"train": 0.5, "test": 0.5}
    train, test = rows_of(pairs.train), rows_of(pairs.test)
    for row in (*train, *test):
        for side in ("base", "source"):
            plural = row[side].endswith("s")
            assert row[f"{side}_answer"] == (" are" if plural else " is")
            assert row[f"{side}_word"] == row[f"{side}_answer"]
        assert row["label"] == row["source_answer"] and row["choices"] == [" are", " is"]
        assert row["base"] != row["source"] and "sheep" not in row["base"] + row["source"]
    sides = [{row[side] for row in split for side in ("base", "source")} for split in (train, test)]
    assert not sides[0] & sides[1]
    assert blimp(tmp_path / "paradigm.jsonl", n=36).hash == pairs.hash


def test_answers_and_choices_take_turns_and_bases_repeat_last(tmp_path):
    verbs = [("is", "are"), ("was", "were"), ("has", "have")]
    sentences = [
        {
            "sentence_good": f"The {noun}{s} {good} here.",
            "sentence_bad": f"The {noun}{s} {bad} here.",
        }
        for i, noun in enumerate([f"{noun}{n}" for n in range(6) for noun in NOUNS])
        for singular, plural in (verbs[i % 3],)
        for s, good, bad in (("", singular, plural), ("s", plural, singular))
    ]
    pairs = blimp(write(tmp_path, sentences), n=72)
    for split, most in ((pairs.train, 10), (pairs.test, 6)):
        counts = Counter(split["base_answer"])
        assert len(counts) == 6 and max(counts.values()) <= most
        assert len(set(split["base"])) == len(split)


def test_what_the_model_gets_wrong_is_left_out(tmp_path, tiny, monkeypatch):
    asked = []

    def answers(model, rows, batch_size):
        asked.extend(rows)
        return np.array(["map" not in row["prompt"] for row in rows])

    monkeypatch.setattr(import_module("reft_interp.tasks.blimp"), "answers_correctly", answers)
    pairs = blimp(write(tmp_path, SENTENCES), tiny("llama"), n=36)
    assert pairs.model_accuracy == pytest.approx(11 / 12)
    assert "of 24 prompts those 22 are left" in pairs.held_out
    assert "rows are made of those alone" in str(pairs)
    with pytest.raises(ValueError, match=r"share of 0\.95 .* got 0\.917 .* n=24 among 2"):
        blimp(tmp_path / "paradigm.jsonl", tiny("llama"), n=36, minimum_accuracy=0.95)
    assert {(row["answer"], *row["choices"]) for row in asked} == {
        (" is", " are", " is"),
        (" are", " are", " is"),
    }
    for split in pairs.splits.values():
        assert not any("map" in row["base"] + row["source"] for row in rows_of(split))


def test_the_hub_is_read_by_the_paradigms_name(monkeypatch, tmp_path):
    module = import_module("reft_interp.tasks.suites.reading")
    asked = []

    def load(*name):
        asked.append(name)
        return {"train": Dataset.from_list(SENTENCES)}

    monkeypatch.setattr(module, "load_dataset", load)
    assert blimp("agreement", n=36).hash == blimp(write(tmp_path, SENTENCES), n=36).hash
    assert asked == [("nyu-mll/blimp", "agreement")]

    def refuse(*name):
        raise ConnectionError("offline")

    monkeypatch.setattr(module, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"file_or_paradigm: .*\(agreement\) .*offline"):
        blimp("agreement")


def test_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="n must be an even number, at least 6, got 7"):
        blimp("x", n=7)
    with pytest.raises(ValueError, match=r"minimum_accuracy must be between 0 and 1, got 70\.0"):
        blimp(tmp_path / "none.jsonl", minimum_accuracy=70.0)
    for held, message in (
        ([{"sentence_good": "The key is."}], "row 0 must have the columns .* sentence_bad missing"),
        ([{"sentence_good": "The key is.", "sentence_bad": None}], "sentence_bad must be text"),
        ([["The key is."]], "row 0 must be an object"),
    ):
        with pytest.raises(ValueError, match=message):
            blimp(write(tmp_path, held))
    with pytest.raises(ValueError, match="must be a file or the name of a paradigm"):
        blimp(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="n must be fewer pairs"):
        blimp(write(tmp_path, SENTENCES), n=6000)


# " longs" is " long" and one token more, so never the more probable.
@pytest.mark.filterwarnings("ignore:rows. row .* has the choices .* whose tokens begin alike")
def test_smollm2_agrees_as_the_real_paradigm_has_it(data_dir, smollm2, tmp_path):
    real = (data_dir / "blimp" / "distractor_agreement_relational_noun.jsonl").read_text()
    some = tmp_path / "paradigm.jsonl"
    some.write_text("".join(real.splitlines(keepends=True)[:150]))
    pairs = blimp(some, smollm2, n=60)
    assert pairs.model_accuracy is not None and pairs.model_accuracy > 0.7
    assert len(pairs.train) == 40
