"""The main job, on few rows: everything that it promises is written, and agrees."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import reft_interp as ri
from reft_interp import demo as demo_module
from reft_interp.cli import app
from reft_interp.demo import run_demo
from reft_interp.tasks.number_agreement import NumberAgreement

pytestmark = pytest.mark.usefixtures("long_training")


@pytest.fixture(scope="module")
def demo(smollm2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    console = Console(file=(folder / "terminal.txt").open("w"), width=120)
    done = run_demo(folder / "report", pairs=36, task_rows=(32, 16), console=console)
    console.file.close()
    return done, (folder / "terminal.txt").read_text()


def test_the_summary_has_what_was_promised(demo):
    done, _ = demo
    summary = json.loads((done.folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(done.summary))
    das = summary["das"]
    assert {"iia", "interval", "n", "whole_vector", "no_intervention", "random_mean"} <= set(das)
    assert {"untouched", "loreft", "direft"} <= set(summary["reft"])
    # So few rows teach nothing: neither DAS nor the ReFTs have to be above chance. The whole vector
    # is not trained, and holds the number of every subject; random directions hold next to nothing.
    assert das["whole_vector"] >= das["random_mean"] + 0.25
    low, high = das["interval"]
    assert low <= das["iia"] <= high
    assert das["no_intervention"] == 0.5  # half of the pairs change nothing, by construction
    assert das["random_draws"] >= 10
    assert summary["seconds"] > 0


def test_what_is_needed_to_repeat_it_is_there(demo):
    done, _ = demo
    run = done.summary["run"]
    assert run["seed"] == 0 and run["model"]["name"] == "smollm2"
    assert run["site"] == str(ri.Site("resid_post", 12))
    assert {"torch", "transformers", "transformer-lens", "python"} <= set(run["versions"])
    assert len(run["counterfactuals"]["hash"]) == 64 and len(run["task"]["hash"]) == 64


def test_page_tables_and_figures_are_written(demo):
    done, terminal = demo
    assert done.page.is_file()
    saved = pd.read_csv(done.folder / "tables" / "das-interchange.csv").set_index("method")
    assert saved.loc["DAS", "value"] == pytest.approx(done.summary["das"]["iia"])
    assert len(list((done.folder / "figures").glob("*.png"))) >= 5
    for words in ("whole vector", "untouched model", "LoReFT", "DiReFT", "The report is in"):
        assert words in terminal


def test_the_saved_interventions_load_and_score_the_same(demo, smollm2):
    done, _ = demo
    das = ri.IntervenedModel.load(done.folder / "interventions" / "das", smollm2)
    pairs = NumberAgreement().counterfactuals(smollm2, n=36, seed=0)
    assert pairs.hash == done.summary["run"]["counterfactuals"]["hash"]
    placed = das.placements[0]
    again = ri.interchange_accuracy(
        smollm2, pairs.test, placed.intervention, placed.site, placed.on
    )
    assert again.value == pytest.approx(done.summary["das"]["iia"])


def test_data_that_cannot_be_read_is_an_error_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="path_or_hub_name must be a folder"):
        run_demo(tmp_path / "report", data=str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("no_type_checks")
def test_the_layer_is_one_of_the_models_and_is_said(tmp_path, make_tiny, monkeypatch):
    class Stopped(Exception):
        """The search has begun."""

    def searched(model, rows, site, on, **settings):
        raise Stopped(site.layer)

    asked = []
    pairs = SimpleNamespace(train=None)
    make = lambda self, model, **settings: asked.append(settings) or pairs  # noqa: E731
    monkeypatch.setattr(NumberAgreement, "counterfactuals", make)
    monkeypatch.setattr(demo_module, "fit_das", searched)
    for depth, layer, expected in ((12, None, 5), (2, None, 1), (2, 0, 0)):
        model = make_tiny("gpt2", n_layer=depth)
        monkeypatch.setattr(demo_module, "load_model", lambda _, model=model: model)
        with pytest.raises(Stopped, match=f"^{expected}$"):
            run_demo(tmp_path, model="mine", layer=layer, console=Console(quiet=True))
    asked.clear()
    found = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--layer", "2"])
    assert found.exit_code == 2 and asked == []
    assert "layer must be between 0 and 1" in " ".join(found.stderr.split())
