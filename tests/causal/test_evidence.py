"""Evidence: it claims what was planted, claims nothing else, and says what it was measured by."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import reft_interp as ri
from reft_interp.causal.claim import CONTROLS
from reft_interp.causal.claim_document import document
from reft_interp.causal.readable_split import has_split
from reft_interp.tasks import plantings

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]

BUDGET = {"epochs": 12, "learning_rate": 3e-2, "progress": False, "random_subspaces": 5}


@pytest.fixture(scope="module")
def planted() -> dict[str, ri.tasks.Planting]:
    return {planting.name: planting for planting in plantings()}


@pytest.fixture(scope="module")
def true(planted) -> ri.Evidence:
    one = planted["one layer"]
    return ri.gather_evidence(
        one.model, one.counterfactuals(240), one.site, one.on, rank=one.rank, **BUDGET
    )


def test_it_holds_where_the_variable_was_put(true, planted):
    assert true.holds and true.failing == ()
    assert true.iia.value > 0.99
    assert true.subspace.principal_angles(planted["one layer"].subspace).max() < 5


@pytest.mark.parametrize("name", ["one layer, too early", "nowhere", "decoy"])
def test_it_does_not_hold_where_the_variable_is_not(planted, name):
    one = planted[name]
    found = ri.gather_evidence(
        one.model, one.counterfactuals(120), one.site, one.on, rank=one.rank, seeds=1,
        resamples=0, **BUDGET,
    )  # fmt: skip
    assert not found.holds
    assert "no intervention" in found.failing
    assert "not above the upper bound of: no intervention" in found.summary()


def test_every_control_is_there_and_scored_on_the_same_pairs(true):
    frame = true.to_frame().set_index("method")
    assert {"DAS", "whole vector", "placebo of the same size", *CONTROLS} < set(frame.index)
    assert set(frame["n"]) == {80}
    assert frame.loc["no intervention", "value"] == 0.5
    assert frame.loc["random subspace", "draws"] == 5
    assert frame.loc["shuffled labels", "draws"] == frame.loc["untrained model", "draws"] == 3


def test_the_claim_has_the_interval_of_its_own_pairs(true):
    frame = true.to_frame().set_index("method")
    assert tuple(frame.loc["DAS", ["value", "low", "high"]]) == (true.iia.value, *true.iia.interval)
    assert frame.loc["DAS", "draws"] == 1
    assert frame.loc["DAS, other seeds", "draws"] == len(true.found) - 1


def test_holds_is_what_the_intervals_say(true):
    best = max(one.interval[1] for name in CONTROLS for one in true.comparison[name])
    assert true.holds == (true.iia.interval[0] > best)
    worse = dict(true.hits) | {"shuffled labels": true.hits["DAS"]}
    other = dataclasses.replace(true, hits=worse)
    assert not other.holds and other.failing == ("shuffled labels",)


def test_selectivity_is_the_difference_on_the_same_pairs(true):
    frame = true.selectivity.set_index("control")
    hits = true.hits
    expected = hits["DAS"][0].mean() - np.mean(hits["shuffled labels"])
    assert frame.loc["shuffled labels", "difference"] == pytest.approx(expected)
    row = frame.loc["no intervention"]
    assert row["low"] <= row["difference"] == 0.5 <= row["high"]


def test_seeds_and_resamples_find_the_same_place(true):
    frame = true.stability.set_index("run")
    assert list(frame.index) == [
        "seed 0", "seed 1", "seed 2", "resampled pairs 0", "resampled pairs 1",
    ]  # fmt: skip
    assert (frame["largest angle"] < 10).all() and (frame["overlap"] > 0.95).all()
    assert frame["overlap at random"].iloc[0] == pytest.approx(1 / 32)
    assert true.gap == pytest.approx(0)


def test_the_overlap_of_chance_is_that_of_the_ranks(true):
    other = ri.DistributedInterchange(ri.Subspace.random(32, 8, seed=0))
    frame = dataclasses.replace(true, resampled=(other, true.resampled[1])).stability
    expected = frame.set_index("run")["overlap at random"]
    assert expected["resampled pairs 0"] == pytest.approx(8 / 32)
    drawn = [ri.Subspace.random(32, 8, seed=i).overlap(true.subspace) for i in range(1, 400)]
    assert np.mean(drawn) == pytest.approx(8 / 32, abs=0.02)


def test_effects_have_sizes(true):
    frame = true.effects.to_frame().set_index(["method", "measure"])
    moved = frame.loc[("DAS", "logit difference, change (nats)")]
    assert moved["low"] > 2 and moved["n"] == 40
    assert frame.loc[("DAS", "probability of the label, change"), "low"] > 0.1
    still = "KL where nothing should change (nats)"
    # The number alone moves little where it should not; the whole vector moves the mood too.
    assert 0 <= frame.loc[("DAS", still), "value"] < frame.loc[("whole vector", still), "value"]
    for text in (str(true.effects), true.effects._repr_html_(), document(true).html()):
        assert "among all tokens of the vocabulary, where accuracy compares a row" in text


def test_what_another_method_found_is_a_page_without_an_interchange(true, tmp_path):
    # DAS's is saved by `reft-interp das`, whose test reads it.
    found = dataclasses.replace(
        true,
        method="probe",
        found=(true.interchange,),
        resampled=(),
        hits=true.hits | {"probe": true.hits["DAS"][:1]},
    )
    assert "Does blocks." in found.save(tmp_path).read_text(encoding="utf-8")
    assert not (tmp_path / "interchange").exists() and (tmp_path / "evidence.json").is_file()
    again = ri.Subspace.load(tmp_path / "subspace.safetensors")
    assert again.overlap(true.subspace) == pytest.approx(1, abs=1e-6)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"subspace\.safetensors is what other .* that of DAS"):
        true.save(tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    (tmp_path / "interchange").mkdir()  # as DAS's evidence leaves one
    with pytest.raises(ValueError, match=r"interchange is what other evidence found, .* of probe"):
        found.save(tmp_path)


def test_what_is_saved_is_json_and_says_what_was_searched(true, planted, tmp_path):
    split = pd.DataFrame([{"part": "read", "rank": 1}, {"part": "not read", "rank": np.nan}])
    pairs = planted["one layer"].counterfactuals(240)
    dataclasses.replace(true, split=split).save(tmp_path, pairs)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "evidence.json").read_text()
    held = json.loads(text, parse_constant=refuse)
    assert held["split"] == [{"part": "read", "rank": 1}, {"part": "not read", "rank": None}]
    assert held["settings"] == true.found[0].settings and held["settings"]["epochs"] == 12
    assert (held["model"], held["method"], held["pairs"]) == (true.model, "DAS", pairs.hash)
    assert held["reft_interp"] == ri.__version__
    assert held["notes"] == list(true.flags)
    assert [row["run"] for row in held["stability"]] == true.stability["run"].tolist()
    assert [row["measure"] for row in held["effects"]] == true.effects.to_frame()[
        "measure"
    ].tolist()
    # Settings of one of several searches are none of the page's.
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "resampled pairs</" not in page.split("How this was made")[-1]


def test_flags_warn_of_what_the_claim_hides(true):
    assert true.flags == ()
    worse = dict(true.hits) | {"DAS": (true.hits["no intervention"][0], true.hits["DAS"][1])}
    flags = " ".join(dataclasses.replace(true, hits=worse).flags)
    assert "changes of the same size" in flags and "seeds differ" in flags
    only = {"placebo of the same size": (true.hits["DAS"][0],)}
    as_placebo = dataclasses.replace(true, hits=dict(true.hits) | only)
    assert as_placebo.holds and "placebo" not in as_placebo.failing
    assert any("which `holds` does not count" in flag for flag in as_placebo.flags)
    assert "higher than on held-out pairs" in flags
    whole = dict(worse) | {"whole vector": (true.hits["DAS"][0],)}
    below, *others = dataclasses.replace(true, hits=whole).flags
    assert "below the plain swap" in below
    assert not any("fitted to" in flag for flag in others)  # training pairs: all are right
    few = tuple(np.arange(len(hits)) % 2 == 0 for hits in true.train_hits)
    unlearned = dataclasses.replace(true, hits=whole, train_hits=few)
    assert any(
        "DAS gives only 0.500 even of the pairs that it was fitted to" in flag
        for flag in unlearned.flags
    )


def test_the_summary_can_be_quoted(true):
    text = true.summary()
    for words in (
        "planted: one layer", "rank-1", "100.0% of 80 held-out pairs", "5 draws",
        "shuffled labels", "untrained copy",
        "2 other seeds and 2 resamples of the training pairs give 100.0%, in subspaces whose",
    ):  # fmt: skip
        assert words in text
    # The whole vector and the placebo are beside the claim, not below it.
    assert text.endswith(
        "The lower bound is above the upper bounds of no intervention, random subspaces, shuffled "
        "labels and the untrained model."
    )
    assert "holds: True" in str(true) and "holds: True" in true._repr_html_()
    assert true.plot().get_yticklabels()


def test_the_summary_says_what_was_run_again(true):
    hits = {name: draws for name, draws in true.hits.items() if "resampled" not in name}
    seeds = dataclasses.replace(true, hits=hits, resampled=())
    assert "2 other seeds give" in seeds.summary() and "resample" not in seeds.summary()
    first = {"DAS": true.hits["DAS"][:1]}
    samples = dataclasses.replace(true, hits=true.hits | first, found=true.found[:1])
    assert ". 2 resamples of the training pairs give" in samples.summary()
    alone = dataclasses.replace(seeds, hits=hits | first, found=true.found[:1])
    assert "overlap" not in alone.summary() and "give" not in alone.summary().split("copy")[1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"resamples": -1}, "resamples must be at least 0"),
        ({"random_subspaces": 0}, "random_subspaces must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": -1, "method": ri.PCA()}, "seed must be at least 0, got -1"),
    ],
)
def test_no_control_is_refused(planted, arguments, match):
    one = planted["one layer"]
    with pytest.raises(ValueError, match=match):
        ri.gather_evidence(one.model, one.counterfactuals(12), one.site, one.on, **arguments)


def test_evidence_is_of_one_source_and_says_so(planted, tiny):
    task = ri.tasks.hierarchical_equality()
    pairs = task.counterfactuals(None, ["left", "right"], n=12, own_sources=True)
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    several = r"one source each, got several: left, right; .* gather_joint_evidence take"
    with pytest.raises(ValueError, match=several):
        ri.gather_evidence(model, pairs, site, "last")
    with pytest.raises(ValueError, match=several):
        ri.compare_methods(model, pairs, site, "last", [ri.DifferenceOfMeans()])
    with pytest.raises(ValueError, match=several):
        ri.fit_das(model, pairs.train, site, "last", progress=False)


@pytest.mark.parametrize("method", [ri.LogisticProbe(), ri.DifferenceOfMeans()], ids=str)
@pytest.mark.parametrize("name", ["one layer", "decoy"])
def test_any_method_gets_its_controls(planted, method, name):
    one = planted[name]
    found = ri.gather_evidence(
        one.model, one.counterfactuals(240), one.site, one.on, method=method, progress=False
    )
    assert found.holds == one.truth == (found.iia.value > 0.99)
    assert (found.method, len(found.found)) == (method.name, 1)
    frame = found.to_frame().set_index("method")
    assert {method.name, "whole vector", "placebo of the same size", *CONTROLS} < set(frame.index)
    # Each seed deals the labels out anew; a method without a seed finds the same each time.
    assert frame.loc["shuffled labels", "draws"] == 3
    assert frame.loc["untrained model", "draws"] == 1
    assert f"found by {method.name} at" in found.summary()
    assert list(found.stability["run"]) == ["seed 0", "resampled pairs 0", "resampled pairs 1"]


def test_das_as_a_method_is_das_by_its_settings(planted, true):
    one = planted["one layer"]
    settings = {"epochs": 12, "learning_rate": 3e-2}
    found = ri.gather_evidence(
        one.model, one.counterfactuals(240), one.site, one.on,
        method=ri.DAS(rank=one.rank, seed=1, **settings), seeds=1, resamples=0, progress=False,
    )  # fmt: skip
    torch.testing.assert_close(found.subspace.basis, true.found[1].subspace.basis)


def test_a_method_with_a_seed_is_fitted_with_those_that_follow(planted):
    one = planted["one layer"]
    found = ri.gather_evidence(
        one.model, one.counterfactuals(48), one.site, one.on, method=ri.BoundlessDAS(epochs=1),
        seeds=2, resamples=0, random_subspaces=1, progress=False,
    )  # fmt: skip
    again = ri.BoundlessDAS(epochs=1, seed=1).fit(
        one.model, one.counterfactuals(48).train, found.variable, one.site, one.on
    )
    assert isinstance(found.found[1], ri.BoundlessInterchange)
    torch.testing.assert_close(found.found[1].subspace.basis, again.subspace.basis)


def test_what_no_label_was_looked_at_for_has_no_shuffled_labels(planted):
    one = planted["one layer"]
    found = ri.gather_evidence(
        one.model, one.counterfactuals(48), one.site, one.on, method=ri.PCA(rank=2), resamples=0,
        progress=False,
    )  # fmt: skip
    assert "shuffled labels" not in set(found.to_frame()["method"]) | set(found.failing)
    assert "shuffled labels" not in set(found.selectivity["control"])
    assert "shuffled labels" not in found.summary()
    assert "PCA looks at no labels, so that no control has them shuffled" in found.flags


def tiny_pairs() -> ri.Counterfactuals:
    prompts = ("The key", "The doors"), ("A cat", "Two cats"), ("Mary", "Paris"), ("He", "They")
    rows = [
        {"base": base, "source": source, "base_answer": " is", "label": " are"}
        for base, source in prompts
    ]
    turned = [row | {"base_answer": row["label"], "label": row["base_answer"]} for row in rows]
    return ri.Counterfactuals.from_rows([rows[0], *turned[1:3]], rows[3:], "number")


def test_nothing_is_fitted_where_there_is_no_untrained_copy(tiny, monkeypatch):
    fitted = []

    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("reft_interp.causal.gathering.untrained_copy", no_room)
    monkeypatch.setattr(
        "reft_interp.causal.gathering.fit_das_each", lambda *_, **__: fitted.append(1)
    )
    with pytest.raises(torch.OutOfMemoryError):
        ri.gather_evidence(
            tiny("llama"), tiny_pairs(), ri.Site("resid_post", 0), "last", minimum_accuracy=0
        )
    assert not fitted


def test_a_site_that_the_untrained_model_lacks_is_told_of_at_once(tiny):
    with pytest.raises(ValueError, match=r"layer must be between 0 and 0 \(tiny-llama has 1"):
        ri.gather_evidence(
            tiny("llama"), tiny_pairs(), ri.Site("resid_post", 1), "last", method=Watched(),
            untrained=tiny("llama", num_hidden_layers=1), minimum_accuracy=0,
        )  # fmt: skip
    assert not Watched.seeds


@dataclasses.dataclass(frozen=True)
class Watched(ri.MaskSearch):
    """A search that chooses nothing, and says with which seeds it was asked to."""

    epochs: int = 1
    sparsity: float = 1e4
    learning_rate: float = 1.0
    seeds: ClassVar[list[int]] = []

    def fit(self, model, pairs, variable, site, on):
        self.seeds.append(self.seed)
        return super().fit(model, pairs, variable, site, on)


def test_a_mask_that_chooses_nothing_is_told_of_after_one_fit(tiny, monkeypatch):
    monkeypatch.setattr(Watched, "seeds", [])
    with pytest.raises(ValueError, match="swaps no coordinate"):
        ri.gather_evidence(
            tiny("llama"), tiny_pairs(), ri.Site("resid_post", 0), "last", method=Watched(),
            minimum_accuracy=0,
        )  # fmt: skip
    assert Watched.seeds == [0]


def test_another_seed_draws_other_pairs_again(tiny):
    rows = [
        {"base": f"The key {i}", "source": f"The doors {i}", "base_answer": " is", "label": " are"}
        for i in range(24)
    ]
    pairs = ri.Counterfactuals.from_rows(rows[:20], rows[20:], "number")
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    drawn = [
        ri.gather_evidence(
            model, pairs, site, "last", method=ri.PCA(), resamples=2, random_subspaces=1,
            minimum_accuracy=0, seed=seed,
        ).resampled
        for seed in (0, 0, 1)
    ]  # fmt: skip
    first, same, other = ([one.subspace.basis for one in of] for of in drawn)
    torch.testing.assert_close(first, same, atol=0, rtol=0)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert not torch.allclose(first[i], other[j])


@pytest.mark.parametrize(
    "method", [None, ri.BoundlessDAS(epochs=1, learning_rate=1e-12)], ids=["DAS", "boundless"]
)
def test_searches_on_resampled_pairs_begin_elsewhere(tiny, method):
    """Untrained searches are their starts: the same start would be the same subspace."""
    rows = [
        {"base": f"The {base} {i}", "source": f"The {source} {i}", "base_answer": of, "label": to}
        for i in range(4)
        for base, source, of, to in (
            ("key", "doors", " is", " are"),
            ("keys", "door", " are", " is"),
        )
    ]
    pairs = ri.Counterfactuals.from_rows(rows[:6], rows[6:], "number")
    settings = {} if method else {"rank": 2, "epochs": 1, "learning_rate": 1e-12}
    found = ri.gather_evidence(
        tiny("llama"), pairs, ri.Site("resid_post", 0), "last", method=method, seeds=1,
        resamples=2, random_subspaces=1, minimum_accuracy=0, progress=False, **settings,
    )  # fmt: skip
    first, one, other = found.found[0], *found.resampled
    for a, b in ((first, one), (first, other), (one, other)):
        assert a.subspace.overlap(b.subspace) < 0.9


def test_evidence_holds_the_split_where_weights_alone_read_the_site(true, tiny):
    assert true.split is None  # all that follows reads the residual stream
    model, site = tiny("llama"), ri.Site("mlp_post", 1)
    rows = [
        {"base": base, "source": source, "base_answer": " is", "label": " are"}
        for base, source in (
            ("The key", "The doors"), ("A cat", "Two cats"), ("Mary", "Paris"), ("He", "They"),
        )
    ]  # fmt: skip
    pairs = ri.Counterfactuals.from_rows(rows[:2], rows[2:], "number")
    found = ri.gather_evidence(
        model, pairs, site, "last", method=ri.PCA(), resamples=0, minimum_accuracy=0,
        progress=False,
    )  # fmt: skip
    expected = ri.readable_split(model, pairs.test, found.subspace, site, "last")
    assert found.split is not None and 0 < expected.set_index("part").loc["read", "share"] < 1
    pd.testing.assert_frame_equal(found.split, expected)
    assert not has_split(site, [{**row, "choices": None} for row in pairs.test.to_list()])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"method": ri.DAS}, TypeError, "method must be a method, as BoundlessDAS"),
        ({"method": ri.DAS(), "rank": 2}, ValueError, "rank: a method has its own settings"),
        ({"method": ri.FullVector()}, ValueError, "'whole vector' is a control"),
        ({"method": ri.PCA(name="no intervention")}, ValueError, "is a control"),
        ({"method": ri.NonlinearAlignment()}, ValueError, "alignment's map is free"),
        (
            {"method": ri.MaskSearch(epochs=1, sparsity=1e4, learning_rate=1.0)},
            ValueError,
            "swaps no coordinate",
        ),
    ],
)
def test_what_gives_no_evidence_is_refused(planted, arguments, error, match):
    one = planted["one layer"]
    with pytest.raises(error, match=match):
        ri.gather_evidence(
            one.model, one.counterfactuals(24), one.site, one.on, resamples=0, seeds=1, **arguments
        )


def test_a_model_that_does_not_do_the_task_is_flagged(true):
    assert true.task_accuracy == ri.Accuracy(80, 80)
    half = dataclasses.replace(true, task_accuracy=ri.Accuracy(40, 80))
    assert any("answers only 50.0% of the held-out bases right" in flag for flag in half.flags)


def test_bases_that_training_has_seen_are_flagged(true):
    assert true.seen == 0
    seen = dataclasses.replace(true, seen=0.25)
    assert any("in 25.0% of held-out pairs the base is a prompt" in flag for flag in seen.flags)
