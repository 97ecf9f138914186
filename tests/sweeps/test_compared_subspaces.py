"""What the ReFTs of a comparison write, where it is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from made_comparisons import CHOICES, NOUNS, PLACES, comparison, placed, suite
from peft import PeftModel

from reft_interp.causal import Counterfactuals, DASCell, fit_das_each
from reft_interp.interop.adapted_states import adapted_states
from reft_interp.interop.peft_methods import lora, prompt_tuning
from reft_interp.interventions import DiReFT, LoReFT
from reft_interp.models.plain import plain_copy
from reft_interp.positions import parse_positions
from reft_interp.runtime import activations
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.sweeps import MethodComparison, compare_subspaces
from reft_interp.sweeps.label_subspaces import label_pairs
from reft_interp.sweeps.subspace_comparison import SubspaceComparison
from reft_interp.training.finetuning import Schedule
from reft_interp.training.reft_method import ReFT

pytestmark = pytest.mark.usefixtures("long_training")
LAST = parse_positions("last")


def test_overlaps_are_those_of_the_subspaces(tiny, tmp_path):
    model = tiny("llama")
    a, b = Subspace.random(32, 2, seed=0), Subspace.random(32, 2, seed=1)
    refts = {
        "LoReFT": {0: placed(model, LoReFT, (a, a)), 1: placed(model, LoReFT, (a, b))},
        "DiReFT": {0: placed(model, DiReFT, (b, b))},
    }
    made = comparison(model, tmp_path, refts)
    found: Any = compare_subspaces(made, model, suite(model), pairs=40, epochs=1, draws=1)
    seeds = found.overlaps[found.overlaps["question"] == "LoReFT: two seeds"]
    assert list(seeds["overlap"]) == pytest.approx([1.0, a.overlap(b)])
    # The same seed starts all methods in one subspace, which would count as agreement.
    both = found.overlaps[found.overlaps["question"] == "LoReFT and DiReFT"]
    assert set(both["first"]) == {"LoReFT 1"}
    assert list(both["overlap"]) == pytest.approx([a.overlap(b), 1.0])
    assert list(seeds["expected at random"]) == pytest.approx([2 / 32] * 2)
    summary = found.summary().set_index("question")
    assert summary.loc["LoReFT: two seeds", "high"] == pytest.approx(1.0)
    assert found.plot().get_xlabel().startswith("overlap")
    page = found.save(tmp_path / "tables")
    assert page.name == "report.html" and page.is_file()
    assert (tmp_path / "tables" / "tables" / "subspace-interchanges.csv").is_file()
    assert "LoReFT: two seeds" in str(found)


def test_the_subspace_that_das_finds_swaps_the_label_and_a_random_one_does_not(tiny, tmp_path):
    model = tiny("llama")
    a = Subspace.random(32, 2, seed=0)
    refts = {"LoReFT": {0: placed(model, LoReFT, (a, a))}}
    found: Any = compare_subspaces(
        comparison(model, tmp_path, refts), model, suite(model), epochs=20, learning_rate=3e-2
    )
    assert found.notes == ()
    last = found.interchanges[found.interchanges["site"] == str(PLACES[1][0])]
    iia = last.groupby("subspace")["iia"].mean()
    # What the last block leaves at the last token is all that the answer is read from.
    assert iia["whole vector"] == 1.0 and iia["DAS"] > 0.85
    assert iia["random subspace"] < 0.6 and iia["LoReFT"] < 0.6
    # A LoReFT that was not trained reads nothing: W is R there, and W - R is zero.
    assert {"LoReFT and DAS"} == set(found.overlaps["question"])
    (nothing,) = found.interchanges[found.interchanges["subspace"] == "no intervention"]["iia"]
    assert nothing == 0.5


def test_das_takes_the_counterfactuals_that_it_is_given(tiny, tmp_path):
    model = tiny("llama")
    known = suite(model)
    splits: list[Any] = [known.train, known.tests["own"]]
    train, test = (
        Dataset.from_list(
            [
                {**pair, "source_answer": pair["label"], "base_spans": {}, "source_spans": {}}
                for pair in label_pairs(model, list(rows), 50)
            ]
        )
        for rows in splits
    )
    count = len(train) + len(test)
    given = Counterfactuals(train, test, "answer", seed=0, generated=count, kept=count)
    few = replace(known, tests={"own": known.tests["own"].select(range(10))})
    a, b = Subspace.random(32, 2, seed=0), Subspace.random(32, 2, seed=1)
    edited = placed(model, LoReFT, (a, a))
    with torch.no_grad():  # it reads W - R, here the rows of b
        for placement in edited.placements:
            edit: Any = placement.intervention
            edit.value.weight.copy_(a.basis + b.basis)
    made = comparison(model, tmp_path, {"LoReFT": {0: edited}})
    assert compare_subspaces(made, model, few, draws=1).notes
    found: Any = compare_subspaces(
        made, model, few, pairs=given, epochs=20, learning_rate=3e-2, draws=1
    )
    assert not any("DAS" in note for note in found.notes)
    last = found.interchanges[found.interchanges["site"] == str(PLACES[1][0])]
    iia = last.groupby("subspace")["iia"].mean()
    assert iia["whole vector"] == 1.0 and iia["DAS"] > 0.85
    by_das = [DASCell(site, on, 2, 0, epochs=20, learning_rate=3e-2) for site, on in PLACES]
    bases = [one.subspace for one in fit_das_each(model, given.train, by_das, progress=False)]
    overlaps = found.overlaps.set_index("question")["overlap"]
    for question, own in (("LoReFT and DAS", a), ("LoReFT (read) and DAS", b)):
        assert list(overlaps[question]) == pytest.approx([own.overlap(x) for x in bases], abs=1e-5)


def test_an_effect_lies_in_the_subspace_that_holds_it(tiny, tmp_path):
    model = tiny("llama")
    rows = [{"prompt": f"The {noun}", "answer": " is"} for noun in NOUNS]
    adapted = lora(4).fit(model, rows, Schedule(20, 5, learning_rate=1e-2)).finetuned
    adapted.save(tmp_path / "lora")
    test: Any = list(suite(model).tests["own"])
    at = [(layer, LAST) for layer in (0, 1)]
    moved = adapted_states(model, tmp_path / "lora", test, at)
    still = adapted_states(model, None, test, at)
    axes = [torch.linalg.svd(moved[place] - still[place], full_matrices=False) for place in at]
    top = [Subspace(axis.Vh[:2]) for axis in axes]
    refts = {"LoReFT": {0: placed(model, LoReFT, top)}}
    made = comparison(model, tmp_path / "c", refts, [("LoRA", adapted)])
    found: Any = compare_subspaces(made, model, suite(model), pairs=1, draws=2).effects
    expected = [float((axis.S[:2] ** 2).sum() / (axis.S**2).sum()) for axis in axes]
    assert list(found["share"]) == pytest.approx(expected, abs=1e-4)
    assert all(found["random high"] < found["share"])


def test_an_effect_is_taken_where_the_reft_edits(tiny, tmp_path):
    model, known = tiny("llama"), suite(tiny("llama"))

    def spanned(row):
        return {"spans": {"subject": [4, row["prompt"].index(" near")]}}

    known = replace(known, tests={"own": known.tests["own"].map(spanned)})
    rows: Any = list(known.tests["own"])
    adapted = lora(4).fit(model, rows, Schedule(20, 5, learning_rate=1e-2)).finetuned
    a = Subspace.random(32, 2, seed=0)
    places = [(Site("resid_post", 1), on) for on in ("subject", "last")]
    refts = {"LoReFT": {0: placed(model, LoReFT, (a, a), places)}}
    made = comparison(model, tmp_path, refts, [("LoRA", adapted)])
    found: Any = compare_subspaces(made, model, known, pairs=1, draws=1).effects
    # By transformers' and peft's own runs, one prompt at a time.
    plain: Any = plain_copy(model)
    layer = plain.model.layers[1]  # peft leaves the blocks where they are, and puts itself inside
    changes: dict[str, list[torch.Tensor]] = {"subject": [], "last": []}
    states: list[list[torch.Tensor]] = []
    for folder in (None, made.trained_folder("LoRA", 0)):
        run = plain if folder is None else PeftModel.from_pretrained(plain, str(folder))
        held: list[Any] = []
        hook = layer.register_forward_hook(lambda module, given, out, to=held: to.append(out))
        for row in rows:
            with torch.no_grad():
                run(**model.tokenizer(row["prompt"], return_tensors="pt"))
        hook.remove()
        states.append([out[0][0] if isinstance(out, tuple) else out[0] for out in held])
    for row, before, after in zip(rows, *states, strict=True):
        subject = row["prompt"][: row["spans"]["subject"][1]]
        at = len(model.tokenizer(subject)["input_ids"]) - 1
        changes["subject"].append((after - before)[at])
        changes["last"].append((after - before)[-1])
    expected = {}
    for on, of_rows in changes.items():
        change = torch.stack(of_rows)
        expected[on] = float(((change @ a.basis.T) ** 2).sum() / (change**2).sum())
    assert abs(expected["subject"] - expected["last"]) > 1e-3
    shares = found.set_index("tokens")["share"]
    assert dict(shares) == pytest.approx(expected, abs=1e-4)


def test_effects_are_those_of_as_many_rows_as_labels_are_read_of(tiny, tmp_path, monkeypatch):
    model, known = tiny("llama"), suite(tiny("llama"))
    rows: Any = list(known.tests["own"])
    adapted = lora(2).fit(model, rows, Schedule(1, 2, learning_rate=1e-2)).finetuned
    a = Subspace.random(32, 2, seed=0)
    refts = {"LoReFT": {0: placed(model, LoReFT, (a, a))}}
    made = comparison(model, tmp_path, refts, [("LoRA", adapted)])
    asked: list[int] = []

    def counting(model, adapter, rows, *rest, **options):
        asked.append(len(rows))
        return adapted_states(model, adapter, rows, *rest, **options)

    monkeypatch.setattr("reft_interp.sweeps.encoded_label._MOST", 20)
    monkeypatch.setattr("reft_interp.sweeps.compared_subspaces.adapted_states", counting)
    compare_subspaces(made, model, known, pairs=1, draws=1)
    assert asked == [20, 20]


def test_what_may_fail_is_asked_before_das_is_trained(tiny, tmp_path, monkeypatch):
    model, known = tiny("llama"), suite(tiny("llama"))
    a = Subspace.random(32, 2, seed=0)
    made = comparison(model, tmp_path, {"LoReFT": {0: placed(model, LoReFT, (a, a))}})
    one_subject = known.tests["own"].map(lambda row: {"subject": "abstract_algebra"})
    found: Any = compare_subspaces(
        made, model, replace(known, tests={"own": one_subject}), pairs=40, epochs=1, draws=1
    )
    assert len(found.interchanges) and found.encoded["accuracy"].isna().all()
    (note,) = found.notes
    assert note.startswith("The label was not read") and note.endswith("and 1 groups")

    def fails(*given, **options):
        raise RuntimeError("peft is missing")

    def trains(*given, **options):
        raise AssertionError("DAS was trained before")

    monkeypatch.setattr("reft_interp.sweeps.compared_subspaces.find_label_subspaces", trains)
    for question in ("_effects", "hold_rows"):
        with monkeypatch.context() as patched:
            patched.setattr(f"reft_interp.sweeps.compared_subspaces.{question}", fails)
            with pytest.raises(RuntimeError, match="peft is missing"):
                compare_subspaces(made, model, known)


def test_an_effect_of_adapters_and_a_reft_is_that_of_both(tiny, tmp_path):
    model = tiny("llama")
    reft = ReFT(LoReFT(rank=2), (1,), "last")
    adapted = replace(lora(2), reft=reft, name="both").adapt(model)
    subspace = Subspace.random(32, 2, seed=3)
    (placed_beside,) = adapted.placements
    edit: Any = LoReFT(start=subspace)
    with torch.no_grad():  # the adapters begin at nothing, so that all of the effect is the edit's
        edit.value.weight.normal_()
        placed_beside.intervention.load_state_dict(edit.state_dict())
    refts = {"LoReFT": {0: placed(model, LoReFT, (subspace, subspace))}}
    made = comparison(model, tmp_path / "c", refts, [("both", adapted)])
    folder = made.trained_folder("both", 0)
    test: Any = list(suite(model).tests["own"])
    states = adapted_states(model, folder, test, [(1, LAST)])[1, LAST]
    with torch.no_grad():
        expected = edit(torch.cat(activations(model, test, PLACES[1][0], "last")))
    assert torch.allclose(states, expected, atol=1e-4)
    found: Any = compare_subspaces(made, model, suite(model), pairs=40, epochs=1, draws=1)
    effects = found.effects.set_index(["subspace", "site"])
    assert set(effects["effect of"]) == {"both"} and set(effects["seed"]) == {0}
    last = str(PLACES[1][0])
    # All that the edit changes lies in its subspace, which LoReFT of the other name has too.
    assert effects.loc[("both 0", last), "share"] == pytest.approx(1.0, abs=1e-4)
    assert effects.loc[("LoReFT 0", last), "share"] == pytest.approx(1.0, abs=1e-4)
    assert "both" in set(found.interchanges["subspace"])
    assert (
        "untouched model, without the adapters that the ReFT of both was trained with"
        in found.notes[-1]
    )
    with pytest.raises(ValueError, match=r"both was trained with adapters.*reft', model\) is its"):
        made.load("both", model)


def test_states_are_those_of_the_bridge_where_nothing_is_adapted(tiny, tmp_path):
    model = tiny("gpt2")
    rows = [{"prompt": "The key"}, {"prompt": "The keys near the old cabinet"}]
    states = adapted_states(model, None, rows, [(0, LAST), (1, LAST)], batch_size=2)
    for i, row in enumerate(rows):
        ids = torch.tensor([model.tokenizer(row["prompt"])["input_ids"]])
        _, cache = model.run_with_cache(ids)
        for layer in (0, 1):
            expected = cache[f"blocks.{layer}.hook_resid_post"][0, -1]
            assert torch.allclose(states[layer, LAST][i], expected, atol=1e-5)
    # Learned prompts stand before the tokens: the last token is still the prompt's.
    rows = [{**row, "answer": " is"} for row in rows]
    tuned = prompt_tuning(3).fit(model, rows, Schedule(1, 2, learning_rate=1e-6)).finetuned
    tuned.save(tmp_path)
    (moved,) = adapted_states(model, tmp_path, rows, [(1, LAST)]).values()
    assert torch.nn.functional.cosine_similarity(moved, states[1, LAST]).min() > 0.5


def test_pairs_have_one_set_of_choices_and_half_of_them_two_answers(tiny):
    model = tiny("llama")
    rows: list[Any] = list(suite(model).tests["own"])
    wrong = {**rows[0], "answer": CHOICES[CHOICES.index(rows[0]["answer"]) - 1]}
    pairs = label_pairs(
        model, [*rows, wrong, {"prompt": "No", "answer": " x", "choices": None}], 30
    )
    answers = {row["prompt"]: row["answer"] for row in rows}
    assert len(pairs) == 30
    for pair in pairs:
        assert answers[pair["base"]] == pair["base_answer"] and pair["base"] != pair["source"]
        assert answers[pair["source"]] == pair["label"]
    assert sum(pair["base_answer"] != pair["label"] for pair in pairs) == 15
    # As a formatted Dataset or a DataFrame gives them.
    arrays = [{**row, "choices": np.array(row["choices"])} for row in rows]
    assert label_pairs(model, arrays, 30) == label_pairs(model, rows, 30)
    with pytest.raises(TypeError, match="rows: row 1 must have a list of texts as its choices"):
        label_pairs(model, [rows[0], {**rows[1], "choices": " is are"}], 30)


def test_pairs_have_as_many_tokens_where_they_are_swapped(tiny):
    model = tiny("llama")
    rows: list[Any] = list(suite(model).tests["own"])
    last, every = ((Site("resid_post", 1), parse_positions(on)) for on in ("last", "every"))

    def lengths(pairs):
        texts = ([pair[side] for pair in pairs] for side in ("base", "source"))
        return list(zip(*([len(model.tokenizer(t).input_ids) for t in x] for x in texts),
                        strict=True))  # fmt: skip

    assert any(one != other for one, other in lengths(label_pairs(model, rows, 30)))
    assert label_pairs(model, rows, 30, places=[last]) == label_pairs(model, rows, 30)
    pairs = label_pairs(model, rows, 30, places=[last, every])
    assert len(pairs) >= 20
    assert all(one == other for one, other in lengths(pairs))
    assert 2 * sum(pair["base_answer"] != pair["label"] for pair in pairs) == len(pairs)
    # Too few of them: others do, and what is swapped at "last" is asked all the same.
    assert label_pairs(model, rows[:12], 30, places=[every]) == label_pairs(model, rows[:12], 30)


@pytest.mark.parametrize("on", ["every", "indices:2"])
def test_das_is_asked_where_whole_prompts_are_edited(tiny, tmp_path, on):
    model = tiny("llama")
    a = Subspace.random(32, 2, seed=0)
    places = [(Site("resid_post", 1), on)]
    made = comparison(model, tmp_path, {"LoReFT": {0: placed(model, LoReFT, (a,), places)}})
    found: Any = compare_subspaces(made, model, suite(model), pairs=40, epochs=1, draws=1)
    assert found.notes == () and "DAS" in set(found.interchanges["subspace"])


def test_where_tokens_cannot_be_swapped_das_is_left_out_and_nothing_else(tiny, tmp_path):
    model, known = tiny("llama"), suite(tiny("llama"))
    a = Subspace.random(32, 2, seed=0)
    site = Site("resid_post", 1)
    refts = {
        "LoReFT": {0: placed(model, LoReFT, (a,), [(site, "every")])},
        "DiReFT": {0: placed(model, DiReFT, (a,), [(site, "last")])},
    }
    made = comparison(model, tmp_path, refts)

    splits: list[Any] = [known.train, known.tests["own"]]
    train, test = (
        Dataset.from_list(
            [
                {**pair, "source_answer": pair["label"], "base_spans": {}, "source_spans": {}}
                for pair in label_pairs(model, list(split), 40)
            ]
        )
        for split in splits
    )
    given = Counterfactuals(train, test, "answer", seed=0, generated=80, kept=80)
    found: Any = compare_subspaces(made, model, known, pairs=given, epochs=1, draws=1)
    (note,) = (note for note in found.notes if note.startswith("DAS"))
    assert note.startswith(f"DAS was not asked at {site} on every, where the tokens of pairs cann")
    assert "\n" not in note
    assert set(found.interchanges["tokens"]) == {"", "last"}
    assert set(found.encoded["subspace"]) == {"LoReFT", "DiReFT", "DAS"}
    alone = comparison(model, tmp_path / "alone", {"LoReFT": refts["LoReFT"]})
    found = compare_subspaces(alone, model, known, pairs=given, epochs=1, draws=1)
    assert len(found.interchanges) == 0 and len(found.encoded) == 1


def test_the_table_of_swaps_keeps_tokens_and_ranks_apart():
    rows = [
        ("no intervention", None, "everywhere", "", 0.5),
        ("LoReFT", 2, "a", "first", 0.1),
        ("LoReFT", 2, "a", "last", 0.9),
        ("LoReFT", 2, "b", "last", 0.3),
        ("random subspace", 1, "a", "last", 0.2),
        ("random subspace", 2, "a", "last", 0.4),
        ("random subspace", 2, "a", "last", 0.6),
    ]
    frame = pd.DataFrame(rows, columns=["subspace", "rank", "site", "tokens", "iia"])
    nothing = pd.DataFrame()
    encoded = pd.DataFrame({"subspace": ["x"], "site": ["a"], "tokens": ["last"], "n": [1]})
    overlaps = pd.DataFrame({"question": []})
    found = SubspaceComparison(encoded, nothing, overlaps, nothing, frame)
    wide: Any = found.tables()[-1][1].set_index("subspace")
    assert list(wide.columns) == ["everywhere", "a, first", "a, last", "b"]
    assert wide.loc["LoReFT", ["a, first", "a, last", "b"]].tolist() == [0.1, 0.9, 0.3]
    assert wide.loc["random subspace, rank 1", "a, last"] == 0.2
    assert wide.loc["random subspace, rank 2", "a, last"] == 0.5


def test_random_subspaces_are_of_each_rank_that_is_swapped(tiny, tmp_path):
    model = tiny("llama")
    one, wide = Subspace.random(32, 1, seed=0), Subspace.random(32, 30, seed=1)
    refts = {
        "LoReFT": {0: placed(model, LoReFT, (one, one))},
        "wide": {0: placed(model, DiReFT, (wide, wide))},
    }
    made = comparison(model, tmp_path, refts)
    found: Any = compare_subspaces(made, model, suite(model), epochs=1, draws=2)
    frame = found.interchanges[found.interchanges["site"] == str(PLACES[1][0])]
    drawn = frame[frame["subspace"] == "random subspace"]
    assert sorted(drawn["rank"]) == [1, 1, 30, 30]
    # Nearly the whole vector is swapped in 30 of 32 random directions.
    of_rank = drawn.groupby("rank")["iia"].mean()
    assert of_rank[30] > of_rank[1] + 0.1
    shown = {text.get_text() for text in found.plot("interchanges").get_yticklabels()}
    assert {"random subspace, rank 1", "random subspace,\nrank 30"} & shown


def test_other_rows_than_those_of_the_comparison_are_said(tiny, tmp_path):
    model, known = tiny("llama"), suite(tiny("llama"))
    a = Subspace.random(32, 2, seed=0)
    made = comparison(model, tmp_path, {"LoReFT": {0: placed(model, LoReFT, (a, a))}})
    made = replace(made, suite_hash=known.hash)
    few = replace(known, tests={"own": known.tests["own"].select(range(10))})
    told = "are not those that the comparison was run on"
    assert any(told in note for note in compare_subspaces(made, model, few, draws=1).notes)
    found = compare_subspaces(made, model, known, pairs=20, epochs=1, draws=1)
    assert not any(told in note for note in found.notes)


def test_what_cannot_be_asked_is_said(tiny, tmp_path):
    model = tiny("llama")
    a = Subspace.random(32, 2, seed=0)
    refts = {"LoReFT": {s: placed(model, LoReFT, (a, a)) for s in (0, 1)}}
    made = comparison(model, tmp_path, refts)
    without = suite(model)
    without = replace(
        without, tests={"own": without.tests["own"].map(lambda row: {"choices": None})}
    )
    found: Any = compare_subspaces(made, model, without)
    assert len(found.interchanges) == 0 and len(found.overlaps) == 2
    assert found.notes[0].startswith("DAS was not asked: own answers has 0 pairs")
    assert found.notes[0] in str(found)
    alone = comparison(model, tmp_path / "alone", {"LoReFT": {0: placed(model, LoReFT, (a, a))}})
    found = compare_subspaces(alone, model, without)
    assert len(found.summary()) == 0 and found.notes[0] in str(found)
    empty = MethodComparison(tmp_path, "own answers", "accuracy", pd.DataFrame(), 0.0, [])
    with pytest.raises(ValueError, match="comparison holds no trained ReFT"):
        compare_subspaces(empty, model, without)
