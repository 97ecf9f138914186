"""Methods on encoders: a head beside each, and the answers that its classes are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from labelled_sentences import planted
from peft import PeftModel
from safetensors.torch import load_file
from typer.testing import CliRunner

from reft_interp.causal import Counterfactuals
from reft_interp.cli import app
from reft_interp.evaluation.metrics import exact_match
from reft_interp.interop.peft_methods import lora
from reft_interp.interventions import LoReFT
from reft_interp.models.plain import plain_copy
from reft_interp.sites import Site
from reft_interp.sweeps import Budget, ablations, compare, compare_subspaces
from reft_interp.sweeps.named_methods import named_method
from reft_interp.tasks.suites import Suite, glue, paper_recipe
from reft_interp.training import (
    Classifier,
    HeadAlone,
    LinearHead,
    ReFT,
    class_finetuning,
    fit_classifier,
)

pytestmark = pytest.mark.usefixtures("long_training")

WORDS = [" no", " yes"]
ONE = Budget(4, 8, trials=1, seeds=(0,))


@pytest.fixture(scope="module")
def bert(make_encoder):
    return make_encoder("bert")


def answered(rows) -> list[dict[str, Any]]:
    said = [WORDS[row["label"]] for row in rows]
    return [
        {**row, "answer": word, "choices": WORDS, "gold": word.strip()}
        for row, word in zip(rows, said, strict=True)
    ]


def suite(rows, *, train: int = 120, **changes) -> Suite:
    given = {
        "name": "planted",
        "train": Dataset.from_list(rows[:train]),
        "development": Dataset.from_list(rows[train : train + 30]),
        "tests": {"p": Dataset.from_list(rows[train + 30 :])},
        "template": "{}",
        "extract": lambda said: said.strip() if said in WORDS else None,
        "metric": exact_match(),
        "max_new_tokens": 3,
        "recipe": paper_recipe("glue/sst2"),
    }
    return Suite(**(given | changes))


@pytest.fixture(scope="module")
def small(bert):
    return suite(answered(planted(bert, 70)), train=24)


def test_methods_learn_what_is_readable_and_only_the_head_is_not_counted(bert, tmp_path):
    readable = suite(answered(planted(bert, 200)))
    reft = ReFT(LoReFT(rank=1), on="f3", candidates=(3e-3,))
    found: Any = compare(
        bert, readable, [reft, lora(8, candidates=(3e-3,)), HeadAlone((3e-3,))],
        budget=Budget(60, 32, trials=1, seeds=(0,)), folder=tmp_path, progress=False,
    )  # fmt: skip
    frame = found.frame.set_index("method")
    assert list(frame.index) == ["most frequent answer", "LoReFT", "LoRA", "head alone"]
    assert frame["error"].isna().all() and (frame["unparsed"] == 0).all()
    guessed = frame.loc["most frequent answer", "score"]
    for method in ("LoReFT", "LoRA", "head alone"):
        assert frame.loc[method, "score"] >= 0.8 > guessed + 0.2, method
    # The two rows of rank 1 and a bias in each layer; queries and values of rank 8.
    counted = [0, 2 * (32 + 32 + 1), 2 * 2 * 8 * (32 + 32), 0]
    assert frame["parameters"].tolist() == counted
    head = (32 * 32 + 32) + (32 * 2 + 2)
    assert frame["head_parameters"].tolist() == [0, head, head, head]
    assert frame.loc["LoReFT", "share"] == 130 / sum(
        p.numel() for p in bert.original_model.parameters()
    )
    assert not np.isnan(frame.loc["head alone", "memory"])
    assert str(found).startswith("planted: accuracy of what is predicted [95 %")
    assert "1,122" in str(found) and "head_parameters" in found._repr_html_()
    # What is on disk says what was tested.
    with pytest.raises(ValueError, match=r"LoReFT was trained with the head .*Classifier\.load"):
        found.load("LoReFT", bert)
    loaded: Any = Classifier.load(found.trained_folder("LoReFT", 0), bert)
    outputs = found.runs[1]["runs"][0]["outputs"]["p"]
    assert outputs == [WORDS[int(i)] for i in loaded.predict(readable.tests["p"])]
    assert found.save()[1].stat().st_size > 1000
    asked = found.probe(bert, readable)
    assert set(asked.encoded["subspace"]) >= {"LoReFT", "LoReFT (read)"}
    assert (asked.encoded["whole vector"] > 0.65).all() and asked.interchanges.empty
    assert asked.promoted.empty and "an encoder gives no answers in words" in asked.notes[0]
    # What LoRA does to [CLS], by peft's and transformers' own run, in the subspace of layer 0.
    plain = plain_copy(bert).base_model
    pairs: list[Any] = [list(readable.tests["p"][text]) for text in ("text_a", "text_b")]
    texts = bert.tokenizer(*pairs, padding=True, return_tensors="pt")
    before = plain(**texts, output_hidden_states=True).hidden_states[1][:, 0]
    adapted = PeftModel.from_pretrained(plain, str(found.trained_folder("LoRA", 0)))
    after = adapted(**texts, output_hidden_states=True).hidden_states[1][:, 0]
    (row,) = asked.effects.query("subspace == 'LoReFT 0' and site.str.contains('0')").to_dict(
        "records"
    )
    basis = loaded.intervened.placements[0].intervention.subspace.basis
    inside = ((after - before) @ basis.T).square().sum() / (after - before).square().sum()
    assert row["share"] == pytest.approx(float(inside), abs=1e-4)
    rows = [{"base": b, "source": s, "base_answer": " a", "label": " b"} for b, s in ("xy", "zw")]
    given = Counterfactuals.from_rows(rows[:1], rows[1:], "own")
    with pytest.raises(ValueError, match=r"pairs must be a number, .* counterfactuals for tiny-b"):
        compare_subspaces(found, bert, readable, pairs=given)


def test_the_label_is_read_from_the_texts_that_were_trained_on(bert, tmp_path):
    # What is asked of a decoder says nothing of the label here; the texts say it.
    rows = [{**row, "prompt": f"are they ? {i}"} for i, row in enumerate(planted(bert, 70))]
    told = suite(answered(rows), train=24)
    reft = ReFT(LoReFT(rank=2), on="f1", candidates=(1e-3,))
    found = compare(bert, told, [reft], budget=ONE, folder=tmp_path, progress=False)
    encoded: Any = found.probe(bert, told).encoded.query("subspace == 'LoReFT'")
    texts = [list(told.tests["p"][text]) for text in ("text_a", "text_b")]
    given: Any = bert.tokenizer(*texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = plain_copy(bert).base_model(**given, output_hidden_states=True).hidden_states
    loaded: Any = Classifier.load(found.trained_folder("LoReFT", 0), bert)
    for placement in loaded.intervened.placements:
        h = hidden[placement.site.layer + 1][:, 0]
        inside = placement.intervention.subspace.coordinates(h).var(0).sum() / h.var(0).sum()
        (at,) = encoded[encoded["site"] == str(placement.site)]["variance"]
        assert at == pytest.approx(float(inside), abs=1e-4)


@pytest.mark.parametrize("edited", [True, False])
def test_it_trains_what_fit_classifier_trains_in_as_many_steps(bert, small, tmp_path, edited):
    method = ReFT(LoReFT(rank=2), on="f2+l2") if edited else HeadAlone()
    method = replace(method, candidates=(3e-3,))
    found: Any = compare(
        bert, small, [method], budget=Budget(5, 8, trials=1, seeds=(3,)), folder=tmp_path,
        progress=False,
    )  # fmt: skip
    sites = [Site("resid_post", layer) for layer in (0, 1)]
    assert small.train is not None
    by_itself = fit_classifier(
        bert, small.train, LoReFT(rank=2) if edited else None, sites if edited else None, "f2+l2",
        learning_rate=3e-3, batch_size=8, seed=3, max_steps=5, progress=False,
    ).classifier  # fmt: skip
    trained = Classifier.load(found.trained_folder(method.name, 3), bert)
    expected = by_itself.state_dict()
    assert trained.state_dict().keys() == expected.keys()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    (run,) = [run for one in found.runs if one["method"] == method.name for run in one["runs"]]
    assert run["outputs"]["p"] == [WORDS[int(i)] for i in by_itself.predict(small.tests["p"])]
    # The curve's last point is the cross-entropy of the classes, in nats a row.
    rows = small.development
    assert rows is not None
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(by_itself(rows), torch.tensor(rows["label"]))
    assert run["curve"][-1][2] == pytest.approx(loss.item(), abs=1e-5)


def test_all_heads_of_a_seed_begin_the_same(bert, small, tmp_path):
    still: Any = {"candidates": (1e-12,)}
    methods = [ReFT(LoReFT(rank=1), on="f3", **still), lora(2, **still), HeadAlone(**still)]
    budget = Budget(1, 8, trials=1, seeds=(0, 1))
    found = compare(bert, small, methods, budget=budget, folder=tmp_path, progress=False)
    heads = [
        load_file(found.trained_folder(method.name, seed) / "head.safetensors")["dense.weight"]
        for seed in (0, 1)
        for method in methods
    ]
    for head in heads[1:3]:
        torch.testing.assert_close(head, heads[0], atol=1e-9, rtol=0)
    assert (heads[3] - heads[0]).abs().max() > 0.01


@pytest.fixture
def stsb(tmp_path):
    words = ("key", "door", "film", "table")
    header = "sentence1\tsentence2\tscore\n"
    lines = [f"the {a}\tthe {b}\t{5.0 * (a == b):.1f}\n" for a in words for b in words]
    (tmp_path / "stsb.train.tsv").write_text(header + "".join(lines[2:]))
    (tmp_path / "stsb.dev.tsv").write_text(
        header + "".join(lines[:8]).replace("key", "old key").replace("door", "new door")
    )
    return glue("stsb", tmp_path)


def test_scores_are_fitted_by_squared_error_and_correlated(bert, stsb, tmp_path):
    found: Any = compare(
        bert, stsb, [replace(HeadAlone(), candidates=(1e-2,))],
        budget=Budget(10, 8, trials=1, seeds=(0,)), folder=tmp_path / "c", progress=False,
    )  # fmt: skip
    frame = found.frame.set_index("method")
    assert (frame["unparsed"] == 0).all() and frame.loc["most frequent answer", "score"] == 0
    head = Classifier.load(found.trained_folder("head alone", 0), bert)
    test = stsb.tests["stsb"]
    predicted = np.clip(head.predict(test), 0, 5)
    expected = np.corrcoef(predicted, test["label"])[0, 1]
    assert frame.loc["head alone", "score"] == pytest.approx(expected, abs=1e-4)
    assert frame.loc["head alone", "head_parameters"] == (32 * 32 + 32) + 33
    errors = np.square(np.array(head.predict(stsb.development)) - stsb.development["label"])
    assert found.target == pytest.approx(errors.mean(), rel=1e-4)


def test_a_finished_comparison_is_read_back_and_a_killed_one_goes_on(
    bert, small, tmp_path, monkeypatch
):
    trained: list[int] = []
    real = class_finetuning._train

    def counting(classifier, rows, schedule, curve):
        trained.append(schedule.seed)
        real(classifier, rows, schedule, curve)

    monkeypatch.setattr(class_finetuning, "_train", counting)

    def go():
        budget = Budget(2, 8, trials=2, seeds=(0, 1))
        return compare(bert, small, [], budget=budget, folder=tmp_path, progress=False)

    whole = str(go())
    assert trained == [0, 0, 1]  # two rates, and the other seed
    assert str(go()) == whole and len(trained) == 3
    (tmp_path / "runs" / "01.json").unlink()
    (tmp_path / "runs" / "01-seed-1.json").unlink()
    killed: Any = go()
    assert trained == [0, 0, 1, 1] and killed.frame["error"].isna().all()
    with pytest.raises(ValueError, match="holds another comparison: max_length differ"):
        compare(
            bert, small, [], budget=Budget(2, 8, trials=2, seeds=(0, 1)), folder=tmp_path,
            max_length=20, progress=False,
        )  # fmt: skip


def test_texts_are_cut_where_that_is_asked_for_and_refused_where_not(bert, small, tmp_path):
    long = [{**row, "text_a": f"{row['text_a']} {'the key ' * 30}"} for row in small.train]
    longer = replace(small, train=Dataset.from_list(long))
    with pytest.raises(
        ValueError, match=r"suite: train: row 0 has \d+ tokens, and tiny-bert can read 40: give max"
    ):
        compare(bert, longer, [], budget=ONE, progress=False)
    found = compare(
        bert, longer, [replace(HeadAlone(), candidates=(1e-2,))], budget=ONE, folder=tmp_path,
        max_length=12, progress=False,
    )  # fmt: skip
    expected = fit_classifier(
        bert, longer.train, None, learning_rate=1e-2, batch_size=8, seed=0, max_steps=4,
        max_length=12, progress=False,
    ).classifier  # fmt: skip
    cut = Classifier.load(found.trained_folder("head alone", 0), bert)
    assert cut.max_length == 12
    assert torch.equal(cut.head.out_proj.weight, expected.head.out_proj.weight)
    with pytest.raises(ValueError, match="max_length must be between 1 and the 40 tokens that t"):
        compare(bert, longer, [], budget=ONE, max_length=41, progress=False)


def test_a_probe_cuts_texts_where_the_comparison_did(bert, small, tmp_path):
    long = [{**row, "text_a": f"{row['text_a']} {'the key ' * 30}"} for row in small.tests["p"]]
    told = replace(small, tests={"p": Dataset.from_list(long)})
    methods = [ReFT(LoReFT(rank=2), on="last", candidates=(1e-3,)), lora(2, candidates=(1e-3,))]
    found = compare(bert, told, methods, budget=ONE, folder=tmp_path, max_length=12, progress=False)
    asked: Any = found.probe(bert, told)
    given: Any = bert.tokenizer(
        [row["text_a"] for row in long], [row["text_b"] for row in long], truncation=True,
        max_length=12, padding=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        hidden = plain_copy(bert).base_model(**given, output_hidden_states=True).hidden_states
    ends = given["attention_mask"].sum(1) - 1
    loaded: Any = Classifier.load(found.trained_folder("LoReFT", 0), bert)
    encoded = asked.encoded.query("subspace == 'LoReFT'").set_index("site")["variance"]
    for placement in loaded.intervened.placements:
        h = hidden[placement.site.layer + 1][torch.arange(len(ends)), ends]
        inside = placement.intervention.subspace.coordinates(h).var(0).sum() / h.var(0).sum()
        assert encoded[str(placement.site)] == pytest.approx(float(inside), abs=1e-4)
    assert set(asked.effects["effect of"]) == {"LoRA"}


def test_what_is_for_decoders_is_refused_on_encoders_and_the_reverse(bert, small, tiny):
    for method in ("untouched", "few-shot prompt", LinearHead()):
        with pytest.raises(ValueError, match=r"is for decoders, and tiny-bert is an .*'head alon"):
            compare(bert, small, ["LoReFT", method], progress=False)
    with pytest.raises(ValueError, match="'head alone' is for encoders, and tiny-llama is a dec"):
        compare(tiny("llama"), small, ["head alone"], progress=False)
    with pytest.raises(ValueError, match="max_length cuts an encoder's texts, and tiny-llama is"):
        compare(tiny("llama"), small, [], max_length=20, progress=False)


def test_answers_that_are_no_classes_are_refused_before_anything_is_trained(bert, small):
    said = [{**row, "choices": None} for row in small.train]
    with pytest.raises(ValueError, match=r"suite: train: the answers are no classes .*row 0 has n"):
        compare(bert, replace(small, train=Dataset.from_list(said)), progress=False)
    other = [{**row, "choices": WORDS[::-1]} for row in small.tests["p"]]
    with pytest.raises(ValueError, match=r"suite: test p: the answers are no classes"):
        compare(bert, replace(small, tests={"p": Dataset.from_list(other)}), progress=False)


def test_names_have_the_recipe_of_glue_on_an_encoder(bert, tiny):
    recipe = paper_recipe("glue/sst2")
    reft, decoders = (named_method("LoReFT", recipe, model) for model in (bert, tiny("llama")))
    assert isinstance(reft, ReFT) and isinstance(decoders, ReFT)
    assert (str(reft.on), str(decoders.on)) == ("f3", "f3+l3")
    assert reft.candidates[0] == recipe.learning_rate == decoders.candidates[-1]
    assert (reft.warmup_ratio, decoders.warmup_ratio) == (recipe.warmup_ratio, None)
    assert isinstance(named_method("linear head", recipe, bert), HeadAlone)
    assert isinstance(named_method("linear head", recipe, tiny("llama")), LinearHead)


def test_a_figure_of_settings_shows_the_head_alone(bert, small, tmp_path):
    refts = ablations(ReFT(LoReFT(rank=1), on="f1", candidates=(1e-3,)), ranks=(2,))
    found = compare(bert, small, refts, budget=ONE, folder=tmp_path, progress=False)
    axes = found.plot_setting("rank")
    assert any("head alone" in text.get_text() for text in axes.texts)


def test_the_command_compares_on_an_encoder(make_encoder, tmp_path: Path, monkeypatch):
    model = make_encoder("roberta")
    monkeypatch.setattr("reft_interp.finetuning_jobs.load_model", lambda name, **_: model)
    for split, what in (("train", "film"), ("dev", "play")):
        lines = (f"a {'fine' if i % 2 else 'bad'} {what} {i}\t{i % 2}\n" for i in range(24))
        (tmp_path / f"sst2.{split}.tsv").write_text("".join(lines))
    words = ["compare", "glue/sst2", "--data", tmp_path, "--out", tmp_path / "c", "--steps", 1]
    words += ["--seeds", 1, "--trials", 1, "--methods", "LoReFT", "--max-length", 20]
    words = [str(word) for word in words]
    said = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    assert said.exit_code == 0, said.output
    table = pd.read_csv(tmp_path / "c" / "table.csv")
    assert list(table["method"]) == ["most frequent answer", "head alone", "LoReFT"]
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["max_length"] == 20
    said = CliRunner().invoke(app, [*words, "--probe"], env={"COLUMNS": "120"})
    assert said.exit_code == 0 and "an encoder gives no answers in words" in said.output
    assert (tmp_path / "c" / "probe" / "report.html").is_file()


@pytest.mark.usefixtures("no_type_checks")
def test_what_is_no_method_or_no_budget_is_told_of(bert, small):
    wrong: Any = LoReFT(rank=2)
    with pytest.raises(TypeError, match=r"methods must be names or methods, as ReFT\(LoReFT"):
        compare(bert, small, [wrong], progress=False)
    wrong = 2
    with pytest.raises(TypeError, match=r"budget must be a Budget, as .* got 2"):
        compare(bert, small, ["LoReFT"], budget=wrong, progress=False)


def test_a_folder_of_texts_that_were_cut_is_not_read_for_whole_ones(bert, small, tmp_path):
    methods = [replace(HeadAlone(), candidates=(1e-2,))]
    compare(bert, small, methods, budget=ONE, folder=tmp_path, max_length=6, progress=False)
    for other in (None, 7):
        with pytest.raises(ValueError, match="holds another comparison: max_length differ"):
            compare(
                bert, small, methods, budget=ONE, folder=tmp_path, max_length=other, progress=False
            )
    compare(bert, small, methods, budget=ONE, folder=tmp_path, max_length=6, progress=False)
