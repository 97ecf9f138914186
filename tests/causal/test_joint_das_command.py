"""`reft-interp das` of several variables, on a model in which two were put by hand."""

import json

import pytest
from two_variables import PLANTED, joint_pairs, planted_model
from typer.testing import CliRunner

import reft_interp as ri
from reft_interp.cli import app
from reft_interp.evidence_report import read_places

WORDS = ["das", "--variable", "first=0,last,1", "--variable", "second = 0, l1, 1"]


@pytest.fixture
def model(tiny_parts):
    return planted_model(tiny_parts)


def test_it_writes_the_evidence_of_both(model, tmp_path, monkeypatch):
    monkeypatch.setattr("reft_interp.evidence_report.load_model", lambda name: model)
    joint_pairs().save(tmp_path / "pairs")
    words = [*WORDS, "--counterfactuals", str(tmp_path / "pairs"), "--out", str(tmp_path / "r")]
    words += ["--epochs", "20", "--learning-rate", "0.02", "--batch-size", "24", "--seeds", "1"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    held = json.loads((tmp_path / "r" / "evidence.json").read_text())
    assert {"DAS", "shuffled labels", "untrained model"} < {
        one["method"] for one in held["methods"]
    }
    found = ri.JointDASResult.load(tmp_path / "r" / "interchange", model)
    assert list(found.subspaces) == ["first", "second"]
    for subspace, direction in zip(found.subspaces.values(), PLANTED.basis, strict=True):
        assert subspace.overlap(ri.Subspace(direction[None])) > 0.9
    assert found.settings["epochs"] == 20 and found.settings["batch_size"] == 24


def test_places_are_layer_tokens_and_rank():
    found = read_places(["a=3,subject,4", " b = 0 , f1,l1 , 2 "], "mlp_out")
    assert found == {
        "a": (ri.Site("mlp_out", 3), "subject", 4),
        "b": (ri.Site("mlp_out", 0), "f1,l1", 2),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["das"], "give --layer, or --variable"),
        ([*WORDS, "--layer", "1"], "not both"),
        (["das", "--variable", "first"], "as left=0,subject,4, got 'first'"),
        (["das", "--variable", "a=0,last"], "as left=0,subject,4, got 'a=0,last'"),
        (["das", "--variable", "a=x,last,1"], "got 'a=x,last,1'"),
        (["das", "--variable", "a=0,last,1", "--variable", "a=1,last,1"], "'a' is there twice"),
        (WORDS, "folder must be one written by"),
        ([*WORDS, "--rank", "4"], "--rank is of one variable"),
    ],
    ids=lambda told: told if isinstance(told, str) else "",
)
def test_mistakes_are_told_before_a_model_is_loaded(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert said.exit_code == 2
    assert message in said.stderr.replace("\n", " ")
