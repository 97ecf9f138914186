"""Sweeps: cells are those of `fit_das`; killing, sharing and failing change none of them."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from pandas.testing import assert_frame_equal

import reft_interp as ri
from reft_interp.tasks import plantings

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]

SETTINGS = {"epochs": 4, "learning_rate": 2e-2}
# What a process of its own runs: the same model, pairs and cells as the tests.
SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
import reft_interp as ri
from reft_interp.tasks import plantings

one = plantings()[0]
cells = ri.grid(
    [ri.Site("resid_post", layer) for layer in (0, 2)], ["last", 0], ranks=(1, 2), seeds=(0, 1),
    epochs=4, learning_rate=2e-2,
)
ri.sweep(one.model, one.counterfactuals(90), cells, sys.argv[1], rows_at_once=32, progress=False)
"""


@pytest.fixture(scope="module")
def planted() -> ri.tasks.Planting:
    return plantings()[0]


@pytest.fixture(scope="module")
def pairs(planted) -> ri.Counterfactuals:
    return planted.counterfactuals(90)


@pytest.fixture(scope="module")
def cells() -> list[ri.DASCell]:
    sites = [ri.Site("resid_post", layer) for layer in (0, 2)]
    return ri.grid(sites, ["last", 0], ranks=(1, 2), seeds=(0, 1), **SETTINGS)


def run(planted, pairs, cells, folder) -> ri.Sweep:
    return ri.sweep(planted.model, pairs, cells, folder, rows_at_once=32, progress=False)


@pytest.fixture(scope="module")
def undisturbed(planted, pairs, cells, tmp_path_factory) -> ri.Sweep:
    return run(planted, pairs, cells, tmp_path_factory.mktemp("sweep"))


def test_a_cell_is_what_fit_das_finds_and_scores(planted, pairs, cells, undisturbed):
    number = 5
    cell, row = cells[number], undisturbed.frame.iloc[number]
    assert (row["cell"], row["layer"], row["tokens"]) == (number, cell.site.layer, "indices:0")
    alone = ri.fit_das(
        planted.model, pairs.train, cell.site, cell.on, rank=cell.rank, seed=cell.seed,
        progress=False, **SETTINGS,
    )  # fmt: skip
    found = undisturbed.subspace(number)
    assert found.principal_angles(alone.subspace).max() < 0.1
    scores = alone.evaluate(pairs.test, random_subspaces=1)
    assert row["iia"] == scores["DAS"][0].value
    assert (row["low"], row["high"]) == scores["DAS"][0].interval
    whole = undisturbed.frame[
        (undisturbed.frame["method"] == "whole vector")
        & (undisturbed.frame["site"] == str(cell.site))
        & (undisturbed.frame["tokens"] == "indices:0")
    ]
    assert whole["iia"].item() == scores["whole vector"][0].value
    assert undisturbed.no_intervention == scores["no intervention"][0]


def test_ranks_and_seeds_are_whole_numbers_and_the_whole_vector_has_none(undisturbed):
    frame = undisturbed.frame
    whole = frame["method"] == "whole vector"
    assert frame.loc[whole, ["rank", "seed"]].isna().all(axis=None)
    assert [str(rank) for rank in frame.loc[~whole, "rank"]][:3] == ["1", "1", "2"]
    assert {str(seed) for seed in frame.loc[~whole, "seed"]} == {"0", "1"}


def test_it_finds_where_the_variable_is(undisturbed):
    best = undisturbed.frame[undisturbed.frame["method"] == "DAS"].sort_values("iia").iloc[-1]
    assert best["iia"] > 0.95
    assert (best["layer"], best["tokens"]) in {(2, "last"), (0, "indices:0")}
    early = undisturbed.frame[
        (undisturbed.frame["layer"] == 0) & (undisturbed.frame["tokens"] == "last")
    ]
    assert (early["iia"] <= 0.6).all()


def test_a_sweep_that_is_killed_goes_on_where_it_was(planted, pairs, cells, undisturbed, tmp_path):
    for wanted in (2, 9):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("cells/*.json"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # not one that had come to its end
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.json")}
    resumed = run(planted, pairs, cells, tmp_path)
    assert_frame_equal(resumed.frame, undisturbed.frame)
    # A group that was whole was not run again.
    whole = [path for path in done if path.stat().st_mtime_ns == done[path]]
    assert len(whole) >= 2


def test_several_processes_share_the_work(planted, undisturbed, pairs, cells, tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    assert_frame_equal(run(planted, pairs, cells, tmp_path).frame, undisturbed.frame)


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(planted, pairs, tmp_path):
    good = ri.DASCell(ri.Site("resid_post", 2), "last", **SETTINGS)
    cells = [
        ri.DASCell(ri.Site("resid_post", 7), "last", **SETTINGS),
        good,
        ri.DASCell(ri.Site("resid_post", 2), "last", rank=99, **SETTINGS),
        ri.DASCell(ri.Site("resid_post", 2), "nowhere", **SETTINGS),
    ]
    found = run(planted, pairs, cells, tmp_path)
    frame: Any = found.frame[found.frame["method"] == "DAS"]
    assert frame["error"].isna().tolist() == [False, True, False, False]
    assert "layer" in frame["error"].iloc[0] and "99" in frame["error"].iloc[2]
    assert "nowhere" in frame["error"].iloc[3]
    # The same place fails for the whole vector, and says so in the same words.
    whole: Any = found.frame[found.frame["method"] == "whole vector"]
    first, last = whole["error"].dropna()
    assert first == frame["error"].iloc[0]
    # Another row of the pairs is the first that lacks the span.
    assert last.startswith("ValueError: no span 'nowhere' (there are: companion,")
    alone = run(planted, pairs, [good], tmp_path / "alone")
    assert frame["iia"].iloc[1] == alone.frame["iia"].iloc[0]
    assert pd.isna(frame["iia"].iloc[0])
    with pytest.raises(FileNotFoundError, match="cell 0 has no subspace"):
        found.subspace(0)
    assert "5 failed" in str(found)
    # The first errors are printed, and how many more there are.
    told = str(found).splitlines()
    first = frame.iloc[0]
    called = f"DAS (rank {first['rank']}, seed {first['seed']})"
    assert f"{called} at blocks.7.hook_resid_post, last: {first['error']}" in told
    assert told[-1] == "and 2 more, in the column error"


@pytest.mark.parametrize("step", ["prepare_das", "train_prepared"])
def test_an_error_in_a_joint_run_is_that_of_its_cell(planted, pairs, tmp_path, monkeypatch, step):
    from reft_interp.sweeps import das_sweep_run

    def fails(*given, **arguments):
        cells = given[2] if step == "prepare_das" else [one.cell for one in given[0]]
        if any(cell.rank == 2 for cell in cells):
            raise IndexError("out of range")
        return really(*given, **arguments)

    really = getattr(das_sweep_run, step)
    monkeypatch.setattr(das_sweep_run, step, fails)
    cells = ri.grid([ri.Site("resid_post", 2)], ["last"], ranks=(1, 2), **SETTINGS)
    frame = run(planted, pairs, cells, tmp_path).frame
    assert frame["error"].iloc[1] == "IndexError: out of range"
    assert pd.isna(frame["error"].iloc[0]) and frame["iia"].iloc[0] >= 0.5


def trains_again(monkeypatch, error: BaseException | None) -> list[int]:
    """Let cells of rank 2 end in an error; what is trained, by its rank, as it happens."""
    from reft_interp.sweeps import das_sweep_run

    trained: list[int] = []

    def train(prepared, **arguments):
        trained.extend(one.cell.rank for one in prepared)
        if error is not None and 2 in [one.cell.rank for one in prepared]:
            raise error
        return really(prepared, **arguments)

    really = das_sweep_run.train_prepared
    monkeypatch.setattr(das_sweep_run, "train_prepared", train)
    return trained


@pytest.mark.parametrize("error", [KeyError("no such hook"), TypeError("unexpected")])
def test_what_failed_is_run_again_alone(planted, pairs, tmp_path, error):
    cells = ri.grid([ri.Site("resid_post", 2)], ["last"], ranks=(1, 2), **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        trains_again(patch, error)
        failed = run(planted, pairs, cells, tmp_path).frame
    assert failed["error"].iloc[1] == f"{type(error).__name__}: {error}"
    assert failed["error"].isna().tolist() == [True, False, True]
    kept = ri.sweep(
        planted.model, pairs, cells, tmp_path, rows_at_once=32, retry_failed=False, progress=False
    )
    assert_frame_equal(kept.frame, failed)
    with pytest.MonkeyPatch.context() as patch:
        trained = trains_again(patch, None)
        found: Any = run(planted, pairs, cells, tmp_path).frame
    assert trained == [2]
    assert found["iia"].iloc[0] == failed["iia"].iloc[0]
    alone: Any = run(planted, pairs, cells[1:], tmp_path / "alone").frame
    assert found["iia"].iloc[1] == alone["iia"].iloc[0] and found["error"].isna().all()


def test_whoever_is_at_the_baselines_may_be_killed(planted, pairs, cells, tmp_path):
    # Another process holds the lock, and loses it without having scored anything.
    other = FileLock(tmp_path / "baselines.lock", thread_local=False)
    other.acquire()
    timer = threading.Timer(2, other.release)
    timer.start()
    found = run(planted, pairs, cells[:1], tmp_path)
    timer.join()
    assert found.frame["method"].tolist() == ["DAS", "whole vector"]


def test_a_baseline_that_fails_loses_no_cell(planted, pairs, cells, tmp_path, monkeypatch):
    from reft_interp.sweeps import das_sweep_run

    def fails(prepared, **arguments):
        edits = [one.placements[0].intervention for one, _ in prepared]
        if any(isinstance(edit, ri.Interchange) for edit in edits):
            raise MemoryError("too large")
        return really(prepared, **arguments)

    really = das_sweep_run.prepared_accuracies
    monkeypatch.setattr(das_sweep_run, "prepared_accuracies", fails)
    frame = run(planted, pairs, cells[:1], tmp_path).frame
    assert frame["error"].tolist()[1] == "MemoryError: too large"
    assert pd.isna(frame["error"].iloc[0]) and frame["iia"].iloc[0] >= 0


def test_a_baseline_that_failed_is_scored_again_alone(planted, pairs, tmp_path):
    from reft_interp.sweeps import das_sweep_run

    really = das_sweep_run.prepared_accuracies
    cells = [ri.DASCell(ri.Site("resid_post", i), "last", **SETTINGS) for i in (1, 2)]
    scored = []

    def score(prepared, **arguments):
        places = [one.placements[0] for one, _ in prepared]
        whole = [of.site.layer for of in places if isinstance(of.intervention, ri.Interchange)]
        scored.extend(whole)
        if failing and 2 in whole:
            raise MemoryError("too large")
        return really(prepared, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(das_sweep_run, "prepared_accuracies", score)
        failing = True
        failed = run(planted, pairs, cells, tmp_path).frame
        assert failed["error"].isna().tolist() == [True, True, True, False]
        scored.clear()
        kept = ri.sweep(
            planted.model, pairs, cells, tmp_path, rows_at_once=32, retry_failed=False,
            progress=False,
        )  # fmt: skip
        assert_frame_equal(kept.frame, failed)
        assert scored == []
        failing = False
        found: Any = run(planted, pairs, cells, tmp_path)
    assert scored == [2]
    frame = run(planted, pairs, cells, tmp_path / "undisturbed").frame
    assert_frame_equal(found.frame, frame)


def test_the_whole_vector_has_no_labels_to_shuffle(planted, pairs, cells, tmp_path):
    both = [dataclasses.replace(cells[0], shuffled_labels=of, epochs=1) for of in (False, True)]
    found = run(planted, pairs, both, tmp_path)
    frame = found.frame
    assert frame["shuffled labels"].tolist() == [False, True, False]
    assert found.plot(method="whole vector") is not None


def test_an_interrupt_ends_the_sweep(planted, pairs, tmp_path, monkeypatch):
    cells = ri.grid([ri.Site("resid_post", 2)], ["last"], ranks=(2,), **SETTINGS)
    trains_again(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(planted, pairs, cells, tmp_path)
    assert not list(tmp_path.glob("cells/*"))


def test_recall_is_the_share_of_good_places_that_are_kept(undisturbed, cells):
    places = {"resid 0 last": (0.5, 0.4), "resid 2 last": (0.9, 0.8), "resid 2 first": (0.85, 0.7)}
    frame = pd.DataFrame(
        [
            {"method": method, "site": name[:7], "tokens": name[8:], "shuffled labels": shuffled,
             "iia": iia, "low": low}
            for name, (iia, low) in places.items()
            for method, shuffled in (("DAS", False), ("DAS", True), ("whole vector", False))
        ]
    )  # fmt: skip
    frame["site"] = [f"blocks.{name[-1]}.hook_resid_post" for name in frame["site"]]
    sweep = dataclasses.replace(undisturbed, frame=frame)
    last, first = (ri.DASCell(ri.Site("resid_post", 2), on) for on in ("last", "first"))
    low = ri.DASCell(ri.Site("resid_post", 0), "last")
    assert [sweep.recall(kept) for kept in ([last], [low], [last, first], [])] == [0.5, 0, 1, 0]
    with pytest.raises(ValueError, match=r"which has none at \('blocks.1.hook_\w+', 'last'\)"):
        sweep.recall([ri.DASCell(ri.Site("resid_post", 1), "last")])
    failed = dataclasses.replace(undisturbed, frame=frame.assign(iia=float("nan")))
    with pytest.raises(ValueError, match="no cell of this sweep came to its end"):
        failed.recall([last])
    assert undisturbed.recall(cells) == 1


def test_the_heat_map_shows_the_cells(undisturbed):
    ax = undisturbed.plot(rank=1, seed=0)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["last", "indices:0"]
    one = undisturbed.frame.query("method == 'DAS' and rank == 1 and seed == 0").iloc[0]
    texts = [text.get_text() for text in ax.texts]
    assert any(f"{one['iia']:.2f}"[-3:] in text and "[" in text for text in texts)
    assert undisturbed.plot(method="whole vector").get_title(loc="left")
    with pytest.raises(ValueError, match="'colour' is no column"):
        undisturbed.plot(colour=1)
    with pytest.raises(ValueError, match="no cells of method 'DAS'"):
        undisturbed.plot(rank=7)
    assert "a claim about one needs pairs that the sweep has not seen" in str(undisturbed)
    assert "no intervention" in str(undisturbed) and "<table" in undisturbed._repr_html_()


def test_the_heat_map_keeps_apart_what_is_not_alike(undisturbed):
    frame = undisturbed.frame[undisturbed.frame["method"] == "DAS"].iloc[[0, 0, 0]].copy()
    frame["site"] = ["whole", "head", "head"]
    frame["shuffled labels"] = [False, False, True]
    frame["iia"], frame["low"], frame["high"] = [0.9, 0.5, 0.1], [0.8, 0.4, 0.0], [1.0, 0.6, 0.2]
    some = dataclasses.replace(undisturbed, frame=frame)
    ax = some.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["whole", "head"]
    assert [text.get_text().split("\n")[0] for text in ax.texts] == ["0.90", "0.50"]
    shuffled = some.plot(**{"shuffled labels": True})
    assert [text.get_text() for text in shuffled.texts] == ["0.10\n[0.00, 0.20]"]


def test_cells_that_differ_in_their_training_are_told_apart(planted, pairs, tmp_path):
    site = ri.Site("resid_post", 2)
    ways = [{}, {"epochs": 1}, {"learning_rate": 1e-6}, {"resampled_pairs": 0}]
    cells = [ri.DASCell(site, "last", **(SETTINGS | way)) for way in ways]
    found = run(planted, pairs, cells, tmp_path)
    frame: Any = found.frame[found.frame["method"] == "DAS"]
    assert frame["epochs"].tolist() == [4, 1, 4, 4]
    assert frame["learning rate"].tolist() == [2e-2, 2e-2, 1e-6, 2e-2]
    assert frame["resampled pairs"].isna().tolist() == [True, True, True, False]
    assert "batch size" not in frame  # alike in all
    assert "0.000001" in str(found)
    told = r"cells differ in epochs \(1, 4\), over which no mean is drawn: choose one, as by plot"
    with pytest.raises(ValueError, match=told):
        found.plot()
    with pytest.raises(ValueError, match=r"cells differ in learning rate \(1e-06, 0.02\)"):
        found.plot(epochs=4)
    with pytest.raises(ValueError, match="cells differ in epochs"):
        found.save()
    assert len(pd.read_csv(tmp_path / "table.csv")) == 5
    chosen: Any = {"epochs": 4, "learning rate": 2e-2}
    drawn = found.plot(**chosen)
    assert [text.get_text()[:4] for text in drawn.texts] == [f"{frame['iia'].iloc[0]:.2f}"]
    assert found.plot(method="whole vector").texts


def test_cells_on_resampled_pairs_count_neither_in_the_heat_map_nor_in_recall(undisturbed):
    frame = undisturbed.frame[undisturbed.frame["method"] == "DAS"].iloc[[0, 0]].copy()
    sites = [ri.Site("resid_post", layer) for layer in (0, 2)]
    frame["site"], frame["layer"] = [str(site) for site in sites], [0, 2]
    frame["iia"], frame["low"], frame["high"] = [0.5, 0.9], [0.4, 0.8], [0.6, 1.0]
    frame["resampled pairs"] = pd.array([None, 0], dtype="Int64")
    some = dataclasses.replace(undisturbed, frame=frame)
    assert [text.get_text()[:4] for text in some.plot().texts] == ["0.50"]
    both = some.plot(**{"resampled pairs": 0})
    assert [text.get_text()[:4] for text in both.texts] == ["0.90"]
    assert some.recall([ri.DASCell(sites[0], "last")]) == 1
    with pytest.raises(ValueError, match="kept must be cells of this sweep"):
        some.recall([ri.DASCell(sites[1], "last")])


def test_a_folder_holds_one_sweep(planted, pairs, cells, undisturbed):
    with pytest.raises(ValueError, match="holds another sweep: cells differ"):
        run(planted, pairs, cells[:3], undisturbed.folder)
    with pytest.raises(ValueError, match="holds another sweep: pairs differ"):
        run(planted, planted.counterfactuals(90, seed=1), cells, undisturbed.folder)
    assert json.loads((undisturbed.folder / "sweep.json").read_text())["pairs"] == pairs.hash


def test_another_model_of_the_same_name_is_another_sweep(planted, pairs, cells, undisturbed):
    retrained = copy.deepcopy(planted.model)
    with torch.no_grad():
        for parameter in retrained.parameters():
            parameter.add_(1e-3)
    with pytest.raises(ValueError, match="holds another sweep: weights differ"):
        ri.sweep(retrained, pairs, cells, undisturbed.folder, rows_at_once=32, progress=False)


def test_a_folder_that_does_not_say_which_weights_goes_on(planted, pairs, cells, tmp_path):
    whole = run(planted, pairs, cells[:1], tmp_path).frame
    path = tmp_path / "sweep.json"
    older = json.loads(path.read_text())
    del older["weights"]
    path.write_text(json.dumps(older))
    assert_frame_equal(run(planted, pairs, cells[:1], tmp_path).frame, whole)


@pytest.mark.usefixtures("no_type_checks")
def test_a_grid_of_numpy_numbers_is_one_of_numbers():
    numbers: Any = np.array([1, 2])
    sites = [ri.Site("resid_post", 2)]
    found = ri.grid(sites, ["last"], ranks=numbers, seeds=numbers)
    assert json.dumps([(cell.rank, cell.seed) for cell in found]) == (
        "[[1, 1], [1, 2], [2, 1], [2, 2]]"
    )


def test_what_is_no_sweep_is_refused(planted, pairs, tmp_path):
    with pytest.raises(ValueError, match="at least one cell"):
        run(planted, pairs, [], tmp_path)
    given = ri.DASCell(ri.Site("resid_post", 2), "last", start=ri.Subspace.random(32, 1, seed=0))
    with pytest.raises(ValueError, match="leave start out"):
        run(planted, pairs, [given], tmp_path)
    assert os.listdir(tmp_path) == [] and Path(tmp_path).is_dir()


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    frame = pd.DataFrame({"cell": [0], "iia": [0.5], "error": [None]})
    swept = ri.Sweep(tmp_path, frame, ri.Accuracy(1, 2))
    (tmp_path / "table.csv").write_text("what was there")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        swept.save()
    assert (tmp_path / "table.csv").read_text() == "what was there"


@pytest.mark.usefixtures("no_type_checks")
def test_a_grid_of_one_is_told_how_to_be_one():
    site: Any = ri.Site("resid_post", 0)
    with pytest.raises(TypeError, match="sites must be several"):
        ri.grid(site, ["last"])
    single: list[Any] = ["last", -1, ri.last(2)]
    for on in single:
        with pytest.raises(TypeError, match=r"on must be several, as \[.*\], got "):
            ri.grid([site], on)
    with pytest.raises(TypeError, match=r"rank: a grid has ranks, as ranks=\(4,\)"):
        ri.grid([site], ["last"], rank=4)
