"""The command line: help, mistakes, and what it passes on."""

import json
import runpy
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import reft_interp as ri
from reft_interp.cli import app
from reft_interp.tasks import plantings


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("demo", "Find a causal variable"),
        ("das", "Find a subspace by DAS"),
        ("sweep", "A YAML file, as above"),
        ("doctor", "Print versions"),
    ],
)
def test_help_says_what_a_command_does(command, words):
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert words in shown.output


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A model whose variable is known, as the commands load it, and its pairs in a folder."""
    planting = next(one for one in plantings() if one.name == "one layer")
    monkeypatch.setattr("reft_interp.models.load_model", lambda name: planting.model)
    monkeypatch.setattr("reft_interp.evidence_report.load_model", lambda name: planting.model)
    planting.counterfactuals(120).save(tmp_path / "pairs")
    return planting, tmp_path


def test_das_writes_its_evidence(planted):
    planting, folder = planted
    words = ["das", "--layer", str(planting.site.layer), "--on", "last", "--out", str(folder / "r")]
    words += ["--component", planting.site.component, "--counterfactuals", str(folder / "pairs")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    held = json.loads((folder / "r" / "evidence.json").read_text())
    assert {row["method"] for row in held["methods"]} > {"DAS", "shuffled labels"}
    assert held["holds"] == (not held["failing"])
    page = (folder / "r" / "report.html").read_text()
    assert "Is the same subspace found again?" in page
    found = ri.DASResult.load(folder / "r" / "interchange", planting.model)
    assert found.subspace.rank == 1
    assert found.settings["epochs"] == 3 and found.settings["learning_rate"] == 5e-3


def test_das_trains_as_it_is_told(planted, monkeypatch):
    planting, folder = planted
    told = {}

    def gather(*arguments, **options):
        told.update(options)
        return ri.gather_evidence(*arguments, **options, resamples=0, random_subspaces=1)

    monkeypatch.setattr("reft_interp.evidence_report.gather_evidence", gather)
    words = ["das", "--layer", str(planting.site.layer), "--on", "last", "--out", str(folder / "r")]
    words += ["--counterfactuals", str(folder / "pairs"), "--component", planting.site.component]
    words += ["--epochs", "2", "--learning-rate", "0.01", "--batch-size", "40", "--seeds", "1"]
    said = CliRunner().invoke(app, [*words, "--seed", "5", "--minimum-accuracy", "0.25"])
    assert said.exit_code == 0, said.output
    assert told == {
        "rank": 1, "seeds": 1, "epochs": 2, "learning_rate": 0.01, "batch_size": 40, "seed": 5,
        "minimum_accuracy": 0.25,
    }  # fmt: skip
    found = ri.DASResult.load(folder / "r" / "interchange", planting.model)
    # 80 pairs, 40 a step, twice.
    assert len(found.losses) == 4 and found.settings["seed"] == 5
    page = (folder / "r" / "report.html").read_text()
    assert "learning rate" in page and "batch size" in page


def test_sweep_writes_a_table_and_goes_on(planted):
    planting, folder = planted
    study = folder / "study.yaml"
    study.write_text(f"counterfactuals: {folder / 'pairs'}\nlayers: all\nepochs: 1\n")
    for _ in range(2):
        said = CliRunner().invoke(app, ["sweep", str(study), "--out", str(folder / "s")])
        assert said.exit_code == 0, said.output
    table = pd.read_csv(folder / "s" / "table.csv")
    layers = planting.model.cfg.n_layers
    assert len(table[table["method"] == "DAS"]) == layers
    assert (folder / "s" / "iia.png").stat().st_size > 1000


def test_what_a_model_must_get_right_can_be_told(tmp_path, tiny, monkeypatch):
    """Of a model that does not know the answers, nothing is asked."""
    rows = [
        {"base": base, "source": source, "base_answer": " is", "label": " a"}
        for base, source in (("The key", "The doors"), ("The dog", "A cat"))
    ]
    pairs = ri.Counterfactuals.from_rows(rows[:1], rows[1:], "number")
    pairs.save(tmp_path / "own")
    for module in ("models", "evidence_report"):
        monkeypatch.setattr(f"reft_interp.{module}.load_model", lambda name: tiny("llama"))
    wrong = ri.Accuracy(0, 1)
    monkeypatch.setattr("reft_interp.causal.task_done.task_accuracy", lambda *_: wrong)
    study = tmp_path / "study.yaml"
    keys = f"counterfactuals: {tmp_path / 'own'}\nlayers: [0]\nepochs: 1\n"
    study.write_text(keys)
    words = ["sweep", str(study), "--out", str(tmp_path / "own sweep")]
    das = ["das", "--layer", "0", "--on", "last", "--counterfactuals", str(tmp_path / "own")]
    das += ["--out", str(tmp_path / "own das")]
    for refused in (words, das):
        said = CliRunner().invoke(app, refused)
        assert said.exit_code == 2
        assert "key of a study and --minimum-accuracy of the command line" in said.stderr
    assert not (tmp_path / "own das").exists() and not (tmp_path / "own sweep").exists()
    study.write_text(f"{keys}minimum_accuracy: 0\n")
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    # It goes on to what else is wrong with the pairs.
    said = CliRunner().invoke(app, [*das, "--minimum-accuracy", "0"])
    assert "labels cannot be shuffled" in said.stderr


def test_tokens_that_no_pair_has_are_told_of_before_pairs_are_made(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("reft_interp.evidence_report.load_model", lambda name: tiny("llama"))
    asked = []
    monkeypatch.setattr(
        "reft_interp.tasks.number_agreement.predict_choices", lambda *_: asked.append(1) or 1 / 0
    )
    words = ["das", "--layer", "0", "--on", "subjcet", "--out", str(tmp_path / "r")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2 and "did you mean 'subject'?" in said.stderr
    assert not asked and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["das", "--layer", "1", "--minimum-accuracy", "70"], "--minimum-accuracy"),
        (["sweep", "nowhere.yaml"], "study must be a YAML file"),
        (["das", "--layer", "1", "--component", "residual"], "component must be one of resid_pre"),
        (["das", "--layer", "1", "--counterfactuals", "nowhere"], "folder must be one written by"),
        (["das", "--layer", "1", "--out", __file__], "File exists"),
        (["das", "--layer", "-1"], "Invalid value for '--layer'"),
        (["das", "--layer", "1", "--rank", "0"], "Invalid value for '--rank'"),
        (["das", "--layer", "1", "--pairs", "0"], "Invalid value for '--pairs'"),
        (["das", "--layer", "1", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["das", "--layer", "1", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["das", "--layer", "1", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["das", "--layer", "1", "--learning-rate", "0"], "learning_rate must be"),
        (["train", "rows.csv", "--rank", "0"], "Invalid value for '--rank'"),
        (["train", "rows.csv", "--held-out", "-1"], "Invalid value for '--held-out'"),
        (["compare", "mawps", "--data", ".", "--steps", "0"], "Invalid value for '--steps'"),
        (["compare", "mawps", "--data", ".", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["compare", "mawps", "--data", ".", "--trials", "0"], "Invalid value for '--trials'"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert said.exit_code == 2
    assert message in said.stderr.replace("\n", " ")


def test_it_says_which_version_it_is():
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.stdout) == (0, f"reft-interp {ri.__version__}\n")


def test_pairs_that_cannot_be_read_are_told_before_a_model_is_loaded(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(f"counterfactuals: {tmp_path / 'nowhere'}\nmodel: {tmp_path / 'none'}\n")
    said = CliRunner().invoke(app, ["sweep", str(study), "--out", str(tmp_path / "s")])
    assert said.exit_code == 2
    assert "folder must be one written by" in said.stderr.replace("\n", " ")


def test_libraries_that_do_not_work_together_are_a_sentence(tmp_path, monkeypatch):
    study = tmp_path / "study.yaml"
    study.write_text("layers: all\n")
    words = ["sweep", str(study), "--out", str(tmp_path / "s")]
    monkeypatch.setattr("transformers.__version__", "6.0.0")
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2
    assert "error: transformers 6.0.0 with transformer-lens 4.3" in said.stderr
    # Any other RuntimeError is no mistake of the user's: it stays to be seen.
    wrong = RuntimeError("a shape is wrong")

    def fails(name):
        raise wrong

    monkeypatch.setattr("reft_interp.models.load_model", fails)
    assert CliRunner().invoke(app, words).exception is wrong


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch):
    def refused(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("reft_interp.whole_files.TemporaryFile", refused)
    missing = tmp_path / "nowhere"
    said = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--data", str(missing)])
    assert said.exit_code == 2 and "Permission denied" in said.stderr


def test_a_mistake_is_a_sentence_and_no_traceback(tmp_path):
    missing = tmp_path / "nowhere"
    said = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--data", str(missing)])
    assert said.exit_code == 2
    assert "error: path_or_hub_name must be a folder" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_module_runs_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reft_interp", "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("reft_interp", run_name="__main__")
    assert left.value.code == 0
    assert "doctor" in capsys.readouterr().out


def test_doctor_exits_with_what_it_found(smollm2):
    said = CliRunner().invoke(app, ["doctor"])
    assert said.exit_code == 0
    assert "transformer-lens" in said.output.lower() or "transformer_lens" in said.output.lower()
