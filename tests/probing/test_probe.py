"""The probe as a whole, on a tiny model: every answer is there, consistent, and saved."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

import reft_interp as ri
from reft_interp.causal import PreparedPairs
from reft_interp.evaluation import control_subspaces
from reft_interp.probing.document import document
from reft_interp.probing.geometry import random_angles
from reft_interp.probing.probe import _no_better_than_controls
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.training import ReFTResult

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]

SITE = ri.Site("resid_post", 0)
NOUNS = ("key", "door", "cat", "dog", "house", "table", "road", "book")


def span(prompt, word):
    return {"subject": [prompt.index(word), prompt.index(word) + len(word)]}


@pytest.fixture(scope="module")
def pairs():
    rows = []
    for i, noun in enumerate(NOUNS):
        for plural in (False, True):
            base_word = noun + "s" if plural else noun
            source_word = NOUNS[i - 1] + ("" if (i + plural) % 2 else "s")
            base, source = f"The {base_word} of the man", f"The {source_word} of the man"
            number = source_word.endswith("s")
            rows.append(
                {
                    "base": base,
                    "source": source,
                    "base_answer": " are" if plural else " is",
                    "label": " are" if number else " is",
                    "choices": [" is", " are"],
                    "base_spans": span(base, base_word),
                    "source_spans": span(source, source_word),
                }
            )
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def fitted(tiny, pairs):
    model = tiny("llama")
    task = [
        {
            "prompt": row["base"],
            "answer": row["base_answer"],
            "choices": row["choices"],
            "spans": row["base_spans"],
        }
        for row in pairs
    ]
    das = ri.fit_das(model, pairs, SITE, "subject", rank=2, epochs=1, progress=False)
    reft = ri.fit_reft(model, task, ri.LoReFT(rank=3), SITE, "f1+l1", epochs=1, progress=False)
    return reft, das, task


@pytest.fixture(scope="module")
def report(fitted, pairs):
    reft, das, task = fitted
    return ri.probe(reft, against=das, data=pairs, task=task, draws=2)


def test_asks_of_what_is_read_and_of_what_is_written(report):
    assert report.name == "LoReFT"
    assert set(report.linear["subspace"]) == {"LoReFT, writes", "LoReFT, reads"}
    assert len(report.linear) == 2 * 2 * 5  # subspaces x variables x parts
    assert report.linear["value"].between(0, 1).all()
    assert (report.linear["low"] <= report.linear["value"]).all()
    assert report.angles.groupby("series").size().tolist() == [2, 2]  # min(3, 2) angles each


def test_geometry_is_that_of_the_subspaces(report, fitted):
    reft, das, _ = fitted
    written = reft.intervened.placements[0].intervention.subspace
    found = report.overlaps.set_index("subspace").loc["LoReFT, writes"]
    assert found["overlap"] == pytest.approx(written.overlap(das.subspace))
    assert found["expected at random"] == pytest.approx(3 / written.width)


def test_says_where_the_variable_is_probed_but_never_edited(report, fitted, pairs):
    # "f1+l1" of "The key of the man": neither is the noun.
    note, *others = report.notes
    assert not any("edits" in other for other in others)
    assert note.startswith("LoReFT edits f1+l1. That touches subject")
    assert f"in 0 of the {len(pairs)} prompts" in note
    assert note in str(report)

    reft, das, task = fitted
    on_noun = ri.fit_reft(
        reft.intervened.model, task, ri.LoReFT(rank=3), SITE, "subject", epochs=1, progress=False
    )
    asked = {"against": das, "data": pairs, "draws": 1, "progress": False}
    assert not any("edits" in note for note in ri.probe(on_noun, task=task, **asked).notes)
    spanless = [{name: row[name] for name in row if name != "spans"} for row in task]
    note, *_ = ri.probe(reft, task=spanless, **asked).notes
    assert f"in 0 of the {len(pairs)} prompts" in note


def test_says_where_das_itself_failed_and_where_rows_are_few(report, pairs):
    (few,) = [note for note in report.notes if note.startswith("There are few rows")]
    # Wilson's interval of 8 of 16, by its formula.
    z2 = 1.959964**2
    half = (z2 / (4 * 16) + z2**2 / (4 * 16**2)) ** 0.5 / (1 + z2 / 16)
    assert "16 pairs" in few and f"{0.5 - half:.2f} to {0.5 + half:.2f}" in few
    low = report.interchange["DAS"][0].interval[0]
    none, random = (report.interchange[n] for n in ("no intervention", "random subspace, rank 2"))
    failed = [note for note in report.notes if note.startswith("DAS itself is not above")]
    beaten = [low <= max(one.interval[1] for one in scores) for scores in (none, random)]
    # One epoch of 16 pairs finds nothing.
    assert any(beaten) and len(failed) == 1
    assert ["no intervention (" in failed[0], "random subspaces of rank 2 (" in failed[0]] == beaten
    assert failed[0] in str(report)


@pytest.mark.parametrize(
    ("shuffled", "best", "said"),
    [
        (0.49, 0.49, []),
        (0.5, 0.49, ["shuffled labels (0.50)"]),
        (0.62, 0.7, ["shuffled labels (0.62)"]),
        (0.49, 0.5, ["random subspaces (0.50)"]),
    ],
    ids=["above both", "as shuffled", "below shuffled", "as random"],
)
def test_says_where_a_probe_is_not_above_its_controls(shuffled, best, said):
    frame = pd.DataFrame(
        {
            "part": ["inside", "shuffled labels", "random subspace"],
            "value": [0.5, shuffled, 0.4],
            "high": [0.6, 0.7, best],
        }
    )
    notes = _no_better_than_controls("LoReFT, writes", "number, on subject", frame)
    assert len(notes) == len(said)
    for note, why in zip(notes, said, strict=True):
        assert note.startswith("LoReFT, writes: the probe of 'number, on subject' (0.50) is not ab")
        assert why in note


def test_says_of_which_rows_there_are_too_few(fitted, pairs):
    reft, das, task = fitted
    with pytest.raises(ValueError, match="task: labels: probes are read out in 5 folds"):
        ri.probe(reft, against=das, data=pairs, task=list(task)[:4], progress=False)
    with pytest.raises(ValueError, match="data: labels: probes are read out in 5 folds"):
        ri.probe(reft, against=das, data=list(pairs)[:4], task=task, progress=False)


def test_interchange_inside_is_that_of_the_subspace(report, fitted, pairs):
    reft, das, _ = fitted
    model = reft.intervened.model
    written = reft.intervened.placements[0].intervention.subspace
    alone = ri.interchange_accuracy(
        model, pairs, ri.DistributedInterchange(written), SITE, "subject"
    )
    assert report.interchange["LoReFT, writes"] == (alone,)
    prepared = PreparedPairs(model, pairs, SITE, "subject")
    assert prepared.score(ri.DistributedInterchange(das.subspace)) == report.interchange["DAS"][0]


def test_removal_is_an_ablation_after_the_edit(report, fitted):
    reft, _, task = fitted
    model, placement = reft.intervened.model, reft.intervened.placements[0]
    ablation = ri.ZeroAblation(placement.intervention.subspace)
    both = IntervenedModel(model, [placement, Placement(ablation, SITE, placement.on)])
    row = report.removal.query("model == 'LoReFT' and removed == 'LoReFT, writes'")
    assert row["value"].item() == ri.accuracy(both, task).value
    nothing = report.removal.query("model == 'LoReFT' and removed == 'nothing'")
    assert nothing["value"].item() == ri.accuracy(reft.intervened, task).value


def test_several_at_once_get_the_answers_that_they_get_alone(report, fitted, pairs):
    reft, das, task = fitted
    other = ri.fit_reft(
        reft.intervened.model, task, ri.DiReFT(rank=3), SITE, "f1+l1", epochs=1, progress=False
    )
    first, second = ri.probe_each([reft, other], against=das, data=pairs, task=task, draws=2)
    alone = ri.probe(other, against=das, data=pairs, task=task, draws=2)
    for together, separate in ((first, report), (second, alone)):
        assert together.interchange == separate.interchange
        pd.testing.assert_frame_equal(together.removal, separate.removal)
        pd.testing.assert_frame_equal(together.linear, separate.linear)


def test_what_several_share_is_scored_once(fitted, pairs, monkeypatch):
    reft, das, task = fitted
    other = ri.fit_reft(
        reft.intervened.model, task, ri.DiReFT(rank=3), SITE, "f1+l1", epochs=1, progress=False
    )
    scored = []
    real = PreparedPairs.score

    def counted(self, intervention):
        scored.append(intervention)
        return real(self, intervention)

    monkeypatch.setattr(PreparedPairs, "score", counted)
    ri.probe_each([reft, other], against=das, data=pairs, task=task, draws=2)
    # DAS, whole vector, none; two random subspaces of two ranks; read and written, twice.
    assert len(scored) == 3 + 2 * 2 + 2 * 2


def test_several_must_be_placed_in_one_model(fitted, pairs, tiny):
    reft, das, task = fitted
    elsewhere = IntervenedModel(tiny("gpt2"), Placement(ri.LoReFT(rank=1), SITE, "l1"))
    with pytest.raises(ValueError, match="number 1 is placed in another model"):
        ri.probe_each([reft, elsewhere], against=das, data=pairs, task=task)
    with pytest.raises(ValueError, match="at least one trained ReFT"):
        ri.probe_each([], against=das, data=pairs, task=task)


def test_what_reads_nothing_is_said_in_words(fitted, pairs):
    reft, das, task = fitted
    model = reft.intervened.model
    bias = IntervenedModel(model, Placement(ri.LobiReFT(rank=2), SITE, "l1"))
    report = ri.probe(
        ReFTResult(bias, pd.DataFrame(), {}), against=das, data=pairs, task=task, draws=1
    )
    assert report.notes[0] == "LobiReFT reads nothing: its edit is the same for every h."
    assert set(report.linear["subspace"]) == {"LobiReFT, writes"}
    assert "reads nothing" in str(report)


def test_a_subspace_of_another_width_is_refused(fitted, pairs):
    reft, das, task = fitted
    model = reft.intervened.model
    narrow = IntervenedModel(model, Placement(ri.LoReFT(rank=1), ri.Site("z", 0, heads=0), "l1"))
    with pytest.raises(ValueError, match="wide, the DAS subspace"):
        ri.probe(dataclasses.replace(reft, intervened=narrow), against=das, data=pairs, task=task)


def test_the_report_is_written(report, tmp_path):
    page = report.save(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "LoReFT, writes" in text and "principal axes" in text
    assert report.facts["model"] in text and "learning rate" in report.facts["DAS"]
    assert report.facts["LoReFT"] in text and "on f1+l1" in report.facts["LoReFT"]
    assert {p.stem for p in (tmp_path / "tables").glob("*.csv")} == {
        "linear-probes",
        "promoted-tokens",
        "overlaps",
        "interchange-inside",
        "removal",
    }
    saved = pd.read_csv(tmp_path / "tables" / "overlaps.csv")
    assert saved["overlap"].tolist() == pytest.approx(report.overlaps["overlap"].tolist())
    assert "LoReFT" in report._repr_html_()
    assert "What LoReFT encodes" in str(report)


def test_each_rank_has_its_own_angles_at_random(report, fitted, pairs, tmp_path):
    reft, das, task = fitted
    model = reft.intervened.model
    wide = IntervenedModel(model, Placement(ri.LoReFT(rank=7), SITE, "l1"))
    other = ri.probe(wide, against=das, data=pairs, task=task, draws=1)
    document([report, other]).save(tmp_path)
    rank = reft.intervened.placements[0].intervention.subspace.rank
    drawn = {p.stem.split("-", 1)[-1] for p in (tmp_path / "figures").glob("*angles*.png")}
    assert {f"angles-{rank}", "angles-7"} <= drawn
    expected = other.expected_angles.query("rank == 7")
    by_hand = random_angles((7, das.subspace.rank), 32)
    pd.testing.assert_frame_equal(expected.drop(columns="rank"), by_hand)


def written_at_random(model, kind, *places):
    """A ReFT at each place, of rank 2, whose edits do something."""
    made = IntervenedModel(model, [Placement(kind(rank=2), site, on) for site, on in places])
    for placement in made.placements:
        edit: Any = placement.intervention
        with torch.no_grad():
            edit.value.weight.normal_()
    return made


@pytest.mark.parametrize("tokens", [("f1", "l1"), ("l1", "l1")])
def test_placements_at_one_site_are_told_apart(fitted, pairs, tmp_path, tokens):
    reft, das, task = fitted
    model = reft.intervened.model
    both = written_at_random(model, ri.LoReFT, *((SITE, on) for on in tokens))
    report = ri.probe(both, against=das, data=pairs, task=task, draws=2)
    report.save(tmp_path)
    tables: Any = {p.stem: pd.read_csv(p) for p in (tmp_path / "tables").glob("*.csv")}
    assert len(report.overlaps["subspace"].unique()) == 4 and "encodes" in str(report)
    # Each by itself gets the same answers, as it has no other beside it.
    prepared = PreparedPairs(model, pairs, SITE, "subject")
    inside = tables["interchange-inside"]
    own = inside[inside["method"].str.contains("writes|reads")]
    subspaces: list[Any] = [
        subspace
        for placement in both.placements
        for subspace in (placement.intervention.subspace, placement.intervention.reads)
    ]
    swapped = [prepared.score(ri.DistributedInterchange(one)).value for one in subspaces]
    assert own["value"].tolist() == pytest.approx(swapped)
    probed = tables["linear-probes"]
    assert len(probed) == 4 * 2 and probed["inside"].between(0, 1).all()
    # A random subspace is removed at the tokens that each placement edits.
    removal = tables["removal"]
    controls = removal[removal["removed"].str.startswith("random") & (removal["model"] != "LoReFT")]
    expected = [
        np.mean(
            [
                ri.accuracy(
                    IntervenedModel(model, Placement(ri.ZeroAblation(one), SITE, on)), task
                ).value
                for one in control_subspaces(32, 2, 2, seed=0)
            ]
        )
        for on in dict.fromkeys(tokens)
    ]
    assert controls["value"].tolist() == pytest.approx(expected)


def test_reports_of_one_class_are_told_apart_on_a_page(fitted, pairs, tmp_path):
    reft, das, task = fitted
    model = reft.intervened.model
    refts = [written_at_random(model, ri.LoReFT, (SITE, on)) for on in ("l1", "l1", "f1")]
    asked: Any = {"against": das, "data": pairs, "task": task, "draws": 1, "progress": False}
    reports = [ri.probe(one, **asked) for one in refts]
    page = document(reports).save(tmp_path).read_text(encoding="utf-8")
    assert "What LoReFT encodes" in page and reports[0].facts["LoReFT"] in page
    tables: Any = {p.stem: pd.read_csv(p) for p in (tmp_path / "tables").glob("*.csv")}
    inside = tables["interchange-inside"].set_index("method")["value"]
    left = tables["removal"].set_index(["model", "removed"])["value"]
    for k, report in enumerate(reports, start=1):
        overlaps = tables["overlaps"].set_index("subspace")["overlap"]
        written = refts[k - 1].placements[0].intervention.subspace
        assert overlaps[f"LoReFT {k}, writes"] == pytest.approx(written.overlap(das.subspace))
        (own,) = report.interchange["LoReFT, reads"]
        assert inside[f"LoReFT {k}, reads"] == pytest.approx(own.value)
        kept: Any = report.removal.set_index(["model", "removed"])["value"]
        for removed in ("nothing", "LoReFT, writes"):
            here = removed.replace("LoReFT", f"LoReFT {k}")
            assert left[f"LoReFT {k}", here] == pytest.approx(kept["LoReFT", removed])
        control = f"random subspace, rank 2 at {SITE} on {refts[k - 1].placements[0].on}"
        alone = kept["untouched model", control]
        assert left["untouched model", control] == pytest.approx(alone)
    # What is one for all stands once.
    shared = ["DAS", "whole vector", "random subspace, rank 2", "no intervention"]
    assert sorted(m for m in inside.index if "LoReFT" not in m) == sorted(shared)


def test_a_name_that_is_no_file_name_is_one_in_the_report(report, tmp_path):
    named = report.linear.assign(read=["größe " * 40] * len(report.linear))
    assert dataclasses.replace(report, linear=named).save(tmp_path).is_file()


def test_sites_are_told_apart(fitted, pairs):
    reft, das, task = fitted
    model = reft.intervened.model
    higher = ri.Site("resid_post", 1)
    moved = IntervenedModel(model, Placement(ri.LoReFT(rank=2), higher, "l1"))
    report = ri.probe(moved, against=das, data=pairs, task=task, draws=1)
    names = [name for name, _ in report.interchange.rows]
    assert f"DAS at {SITE}" in names and f"LoReFT, writes at {higher}" in names
    assert {f"whole vector at {site}" for site in (SITE, higher)} <= set(names)
    prepared = PreparedPairs(model, pairs, SITE, "subject")
    own = prepared.score(ri.DistributedInterchange(das.subspace))
    assert report.interchange[f"DAS at {SITE}"] == (own,)
    assert any("different sites" in note for note in report.notes)


def test_a_variable_is_read_from_its_column(fitted, pairs):
    reft, das, task = fitted
    # Each noun's own number has nothing to do with the answer here.
    rows = [
        {**row, "base_parity": "even" if len(row["base"]) % 2 else "odd"} for row in pairs.to_list()
    ]
    asked: Any = {"against": das, "task": task, "draws": 1, "progress": False}
    by_name = ri.probe(reft, data=rows, variable="parity", **asked)
    assert {f"parity, on {das.on}"} < set(by_name.linear["read"])
    by_answer = ri.probe(reft, data=rows, **asked)
    assert f"base's answer, on {das.on}" in set(by_answer.linear["read"])
    with pytest.raises(ValueError, match="data: row 0 has no 'base_colour'"):
        ri.probe(reft, data=rows, variable="colour", **asked)
    with pytest.raises(ValueError, match="'base_parity' is the same in all rows, 'odd'"):
        ri.probe(
            reft, data=[{**row, "base_parity": "odd"} for row in rows], variable="parity", **asked
        )
    first = [{**row, "choices": [row["base_answer"], "x", row["label"]]} for row in rows]
    with pytest.raises(ValueError, match="stands at one place among its choices in all rows"):
        ri.probe(reft, data=first, **asked)


def test_rows_must_say_what_the_variable_is(fitted, pairs):
    reft, das, task = fitted
    with pytest.raises(ValueError, match="data: row 0 has no 'base_answer'"):
        ri.probe(reft, against=das, data=pairs.remove_columns("base_answer"), task=task)
