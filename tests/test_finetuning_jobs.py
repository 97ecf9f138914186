"""The commands that finetune: from a file to a folder, and what is said of mistakes."""

import json
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import reft_interp as ri
from reft_interp import finetuning_jobs
from reft_interp.cli import app
from reft_interp.models import identify

POST = ri.Site("resid_post", 0)
WORDS = {" key": " is", " keys": " are"}


@pytest.fixture
def rows(tmp_path, tiny, monkeypatch):
    """The last word says which answer is right, and the model is a tiny one."""
    model = tiny("llama")
    asked: list[str] = []

    def loaded(name, **_):
        asked.append(str(name))
        return model

    monkeypatch.setattr("reft_interp.finetuning_jobs.load_model", loaded)
    said = ["The old", "Near the doors the", "A long", "In Japan the", "Paris, and the"]
    held = [
        {"prompt": f"{start}{' big' * k}{word}", "answer": answer, "choices": list(WORDS.values())}
        for start in said
        for k in range(4)
        for word, answer in WORDS.items()
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in held))
    return file, model, asked


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120"})


def test_what_is_trained_on_a_file_is_saved_scored_and_used(rows):
    file, model, asked = rows
    folder = file.parent / "reft"
    options = ["--layers", "0", "--on", "last", "--epochs", 20, "--learning-rate", 0.03]
    said = run("train", file, "--out", folder, *options, "--held-out", 0.2)
    assert said.exit_code == 0, said.output
    assert "LoReFT           1.000" in said.output and "n=8" in said.output
    found = ri.ReFTResult.load(folder, model)
    assert found.settings["rows"] == 32
    prompts = ["In Japan the old key", "A long big keys"]
    said = run("generate", folder, *prompts, "--tokens", 2)
    assert said.exit_code == 0, said.output
    assert asked[-1] == identify(model).name
    expected = found.intervened.generate(prompts, max_new_tokens=2)
    assert said.output.startswith(f"{prompts[0]} → {expected[0]}")
    assert expected[0].startswith(" is") and expected[1].startswith(" are")


def films(folder, count):
    """SST-2's files, with `count` rows each; gives their folder."""
    folder.mkdir()
    for split, what in (("train", "film"), ("dev", "play")):
        lines = (f"a {'fine' if i % 2 else 'bad'} {what} {i}\t{i % 2}\n" for i in range(count))
        (folder / f"sst2.{split}.tsv").write_text("".join(lines))
    return folder


def test_a_comparison_writes_its_table(rows, tmp_path):
    words = ["glue/sst2", "--data", films(tmp_path / "glue", 40), "--out", tmp_path / "c"]
    methods = ["--methods", "linear head", "--steps", 2, "--seeds", 2]
    said = run("compare", *words, *methods, "--rows", 30, "--test", 10)
    assert said.exit_code == 0, said.output
    table = pd.read_csv(tmp_path / "c" / "table.csv")
    assert list(table["method"]) == ["untouched", "linear head"] and set(table["n"]) == {10}
    assert (tmp_path / "c" / "parameters.png").is_file()
    assert not (tmp_path / "c" / "probe").exists()
    assert "rows to tune on, fewer" in " ".join(said.output.split())


@pytest.mark.parametrize(("asked", "told"), [(19, False), (20, False), (500, True)])
def test_fewer_rows_to_tune_on_than_were_asked_for_are_told_of(rows, tmp_path, asked, told):
    # Half of SST-2's development rows are tuned on.
    words = ["glue/sst2", "--data", films(tmp_path / "glue", 40), "--out", tmp_path / "c"]
    rest = ["--methods", "linear head", "--steps", 1, "--seeds", 1, "--trials", 1, "--test", 4]
    said = run("compare", *words, *rest, "--development", asked)
    assert said.exit_code == 0, said.output
    text = " ".join(said.output.split())
    assert (f"sst2 has 20 rows to tune on, fewer than --development {asked}" in text) == told


def test_a_comparison_ends_in_a_probe(rows, tmp_path):
    words = ["glue/sst2", "--data", films(tmp_path / "glue", 60), "--out", tmp_path / "c"]
    methods = ["--methods", "LoReFT", "--steps", 1, "--seeds", 1, "--trials", 1]
    said = run("compare", *words, *methods, "--rows", 8, "--probe")
    assert said.exit_code == 0, said.output
    page = tmp_path / "c" / "probe" / "report.html"
    assert "What the untouched model holds in each subspace" in said.output
    assert str(page) in said.output and page.is_file()
    encoded = pd.read_csv(page.parent / "tables" / "subspace-encoded.csv")
    assert "LoReFT" in set(encoded["subspace"]) and set(encoded["n"]) == {30}


def test_where_all_methods_fail_it_is_said_why(rows, tmp_path, monkeypatch):
    glue = tmp_path / "glue"
    glue.mkdir()
    for split in ("train", "dev"):
        lines = (f"a film {split} {i}\t{i % 2}\n" for i in range(8))
        (glue / f"sst2.{split}.tsv").write_text("".join(lines))

    def broken(*given, **options):
        raise IndexError("index out of range")

    monkeypatch.setattr("reft_interp.training.prompting.generate", broken)
    words = ["glue/sst2", "--data", glue, "--out", tmp_path / "c", "--methods", "few-shot prompt"]
    said = run("compare", *words, "--steps", 1, "--seeds", 1, "--trials", 1, "--test", 2)
    assert said.exit_code == 2
    told = " ".join(said.stderr.split())
    assert (
        "error: no method came to its end: untouched: IndexError: index out of range; few" in told
    )
    assert "few-shot prompt: ValueError: with the examples before it: row 0 has" in told
    assert told.endswith("tiny-llama can read 128: show fewer examples")
    assert len(pd.read_csv(tmp_path / "c" / "table.csv")) == 2


def test_a_row_that_is_too_long_is_named_by_its_place_in_the_file(rows):
    file, *_ = rows
    lines = file.read_text().splitlines(keepends=True)
    long = json.dumps({"prompt": "The key" * 130, "answer": " is", "choices": [" is"]}) + "\n"
    file.write_text("".join([*lines[:3], long, *lines[3:]]))
    found = run("train", file, "--out", file.parent / "reft")
    assert found.exit_code == 2
    assert f"{file}: row 3 has" in found.stderr.replace("\n", "")


def test_composed_edits_are_asked_for_by_name(rows):
    file, model, _ = rows
    placed = {
        name: ri.IntervenedModel(
            model, ri.Placement(ri.VectorAddition(torch.full((32,), k)), POST, "last")
        )
        for name, k in (("up", 3.0), ("down", -3.0))
    }
    both, folder = ri.compose(placed), file.parent / "both"
    both.save(folder)
    prompt = "In Japan the old key"
    texts = {}
    for edits in (["up"], ["up", "down"], []):
        said = run("generate", folder, prompt, "--tokens", 4, "--edits", ",".join(edits))
        assert said.exit_code == 0, said.output
        (expected,) = both.generate([{"prompt": prompt, "edits": edits}], max_new_tokens=4)
        assert said.output.startswith(f"{prompt} → {expected}")
        texts[tuple(edits)] = expected
    assert texts["up",] != texts[()]
    for words, told in [
        ([], "edits must say which of up, down are wanted, as --edits up"),
        (["--edits", "left"], "edits must be among up, down, got 'left'"),
    ]:
        found = run("generate", folder, prompt, *words)
        assert found.exit_code == 2 and told in " ".join(found.stderr.split())
    placed["up"].save(file.parent / "one")
    found = run("generate", file.parent / "one", prompt, "--edits", "up")
    assert "edits have no names here, got 'up'" in found.stderr


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"question": "a", "answer": "b"}, "prompt missing, it has question, answer"),
        ({"prompt": "a", "answer": " "}, "row 0: answer must be a text that is not empty, got ' '"),
        (
            {"prompt": "a", "answer": None},
            "row 0: answer must be a text that is not empty, got N",
        ),
    ],
)
def test_a_bad_file_is_told_before_a_model_is_loaded(tmp_path, columns, said):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(columns) + "\n")
    found = run("train", file)
    assert found.exit_code == 2 and said in " ".join(found.stderr.split())


def test_too_few_rows_to_hold_any_out_are_told_of_with_a_share_that_works(rows, tmp_path):
    _, _, asked = rows
    few = tmp_path / "few.jsonl"
    for count, share, said in [
        (2, 0.1, "0.5 would hold out one of them, 0 (--held-out 0) trains on all rows"),
        (3, 0.9, "0.33 would hold out one of them"),
        (1, 0.5, "leaves none on one side; 0 (--held-out 0) trains on all rows"),
    ]:
        few.write_text("".join(f'{{"prompt": "{i}", "answer": " b"}}\n' for i in range(count)))
        found = run("train", few, "--held-out", share, "--out", tmp_path / "new")
        assert found.exit_code == 2
        assert said in " ".join(found.stderr.split()), found.stderr
    assert asked == [] and not (tmp_path / "new").exists()


def test_other_mistakes_are_told_too(rows, tmp_path):
    file, _, asked = rows
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for words, said in [
        (["train", tmp_path / "rows.txt"], "file must end in .json, .jsonl, .csv, .parquet, got"),
        (["train", tmp_path / "none.csv"], "there is no"),
        (["train", broken], "cannot be read"),
        (["train", file, "--method", "ReFT"], "method must be one of LoReFT, DiReFT"),
        (["train", file, "--held-out", 1.0], "held_out must be at least 0 and below 1, got 1.0"),
        (["train", file, "--layers", "low"], 'layers must be "all" or numbers with commas'),
        (["train", file, "--layers", "8,8"], "layers must be different numbers from 0, got '8,8'"),
        (["train", file, "--layers", "0,-1"], "layers must be different numbers from 0, got '0,-1"),
        (["train", file, "--rank", 0], "Invalid value for '--rank'"),
        (["train", file, "--on", "f3 and l1"], "positions 'f3 and l1'"),
        (["train", file, "--epochs", 0], "epochs must be above 0, got 0"),
        (["train", file, "--learning-rate", -1], "learning_rate must be above 0, got -1"),
        (["train", file, "--batch-size", 0], "Invalid value for '--batch-size'"),
        (["train", file, "--seed", -1], "seed must be at least 0 and below 2**32, got -1"),
        (["generate", tmp_path / "none", "The"], "none holds no saved intervention"),
        (["train", file, "--out", broken], "File exists"),
        (["compare", "instructions", "--data", tmp_path], "is scored by a judge, whom a command"),
        (["compare", "glue/snli", "--data", tmp_path], "suite must be one of commonsense"),
    ]:
        found = run(*words)
        assert found.exit_code == 2, words
        assert said in " ".join(found.stderr.split()), found.stderr
    assert asked == []


def test_a_classifier_continues_no_prompt(rows, tmp_path):
    _, model, asked = rows
    ri.Classifier(model, 2).save(tmp_path / "classifier")
    found = run("generate", tmp_path / "classifier", "The")
    assert found.exit_code == 2 and asked == []
    said = " ".join(found.stderr.split())
    assert "holds a classifier, which says classes and no texts: Classifier.load reads it" in said


def test_a_prompt_that_stands_twice_is_not_trained_on_and_scored(rows, monkeypatch):
    file, _, _ = rows
    file.write_text(file.read_text() * 3)
    seen = {}
    trained, scored = finetuning_jobs.fit_reft, ri.ReFTResult.evaluate

    def fit(model, some, *arguments, **settings):
        seen["trained"] = {row["prompt"] for row in some}
        return trained(model, some, *arguments, **settings)

    def evaluate(self, some, **settings):
        seen["scored"] = {row["prompt"] for row in some}
        return scored(self, some, **settings)

    monkeypatch.setattr(finetuning_jobs, "fit_reft", fit)
    monkeypatch.setattr(ri.ReFTResult, "evaluate", evaluate)
    options = ["--layers", "0", "--on", "last", "--epochs", 1, "--held-out", 0.2]
    said = run("train", file, "--out", file.parent / "reft", *options)
    assert said.exit_code == 0, said.output
    assert len(seen["scored"]) == 8 and len(seen["trained"]) == 32
    assert not seen["scored"] & seen["trained"]


@pytest.mark.parametrize("option", ["--rows", "--development", "--test"])
def test_no_rows_at_all_are_refused(tmp_path, option):
    said = run("compare", "glue/sst2", "--data", tmp_path, option, 0)
    assert said.exit_code == 2 and f"Invalid value for '{option}'" in " ".join(said.stderr.split())
    name = "train" if option == "--rows" else option.removeprefix("--")
    asked: Any = {"train": 5, "test": 5, "development": 5, name: 0}
    data = films(tmp_path / "glue", 40)
    with pytest.raises(ValueError, match=r"n_\w+ must be .*, got 0"):
        finetuning_jobs.run_compare(
            "glue/sst2", str(data), tmp_path / "c", methods=["LoRA"], steps=1, batch_size=1,
            trials=1, seeds=1, max_length=None, probe=False, model="none", say=print, **asked,
        )  # fmt: skip
