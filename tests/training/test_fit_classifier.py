"""A head and interventions that are trained together, on labels that were planted."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from labelled_sentences import planted, sentences
from pandas.testing import assert_frame_equal
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import TrainerCallback

from reft_interp.evaluation.metrics import f1, label_accuracy, matthews
from reft_interp.interventions import DiReFT, LoReFT
from reft_interp.runtime import IntervenedModel
from reft_interp.sites import Site
from reft_interp.training import Classifier, ClassifierResult, fit_classifier
from reft_interp.training.checkpoints import FINGERPRINT
from reft_interp.training.labelled_rows import halve
from reft_interp.training.prepared_labels import PreparedLabels

SITES = [Site("resid_post", 0), Site("resid_post", 1)]


def fit(model, rows, edited: bool = True, **options: Any) -> ClassifierResult:
    settings = {"epochs": 1, "learning_rate": 1e-2, "progress": False} | options
    if edited:
        return fit_classifier(model, rows, LoReFT(rank=2), SITES, "f2+l2", **settings)
    return fit_classifier(model, rows, None, **settings)


def weights(result: ClassifierResult) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in result.classifier.parameters()])


@pytest.fixture(scope="module")
def hooked(make_encoder, tiny):
    made = {
        "bert": make_encoder("bert"),
        "roberta": make_encoder("roberta"),
        "llama": tiny("llama"),
    }
    return made.__getitem__


@pytest.mark.parametrize(
    ("architecture", "edited"),
    [("bert", True), ("bert", False), ("roberta", True), ("llama", True)],
)
def test_learns_labels_that_are_readable_from_the_frozen_states(hooked, architecture, edited):
    model = hooked(architecture)
    rows = planted(model, 200)
    train, held_out = rows[:120], rows[120:]
    found = fit(model, train, edited, validation=held_out, epochs=10, batch_size=16)
    assert found.score is not None and found.score.n == 40
    assert found.score.value >= 0.8 and found.score.interval[0] > 0.5
    untrained = Classifier(model, 2).predict(held_out)
    right = [said == row["label"] for said, row in zip(untrained, held_out, strict=True)]
    assert sum(right) / len(right) < 0.75
    counted = "260 parameters" if edited else "0 parameters"
    name = "LoReFT and head" if edited else "head alone"
    assert str(found).startswith(f"{name}: accuracy 0.") or found.score.value == 1
    assert f"({counted} without the head" in str(found)


def test_shuffled_labels_teach_nothing_about_held_out_rows(hooked):
    rows = planted(hooked("bert"), 240)
    options: dict[str, Any] = {"validation": rows[160:], "epochs": 8, "learning_rate": 0.02}
    control = fit(hooked("bert"), rows[:160], False, shuffled_labels=True, **options)
    assert control.score is not None and control.score.value < 0.75
    assert control.settings["shuffled_labels"] is True


def test_scores_are_fitted_by_squared_error_and_reported_by_correlation(hooked):
    rows = planted(hooked("bert"), 200, scores=True)
    found = fit(hooked("bert"), rows[:140], False, validation=rows[140:], epochs=25, batch_size=140)
    gold = torch.tensor([row["label"] for row in rows[:140]])
    # The head begins near zero.
    assert found.losses["loss"].tolist()[0] == pytest.approx((gold**2).mean().item(), rel=0.05)
    assert found.score is not None and found.score.metric == "Pearson correlation"
    assert found.score.interval[0] > 0.5 and found.classifier.classes is None


def test_takes_the_steps_of_adam_on_the_mean_loss_of_rows(hooked):
    """Against a loop by hand: one batch, so that the order of rows does not matter."""
    model, rows = hooked("bert"), planted(hooked("bert"), 24)
    options: dict[str, Any] = {
        "batch_size": 24,
        "head_dropout": 0,
        "max_grad_norm": 0.0,
        "weight_decay": 0.1,
    }
    start = fit(model, rows, max_steps=1, learning_rate=1e-30, **options)
    found = fit(model, rows, epochs=3, warmup_ratio=0.3, **options)
    by_hand, labels = start.classifier, torch.tensor([row["label"] for row in rows])
    decayed = [p for name, p in by_hand.named_parameters() if not name.endswith("bias")]
    others = [p for name, p in by_hand.named_parameters() if name.endswith("bias")]
    optimiser = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    optimiser.param_groups[0]["weight_decay"] = 0.1
    losses = found.losses["loss"].tolist()
    for step, rate in enumerate((0.0, 1e-2, 5e-3)):  # one step rises, two fall
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = cross_entropy(by_hand(rows), labels)
        assert losses[step] == pytest.approx(loss.item(), abs=1e-5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # Adam divides by the gradient's size: where that is near 0, rounding shows.
    by_hand_weights = torch.cat([p.detach().flatten() for p in by_hand.parameters()])
    assert_close(weights(found), by_hand_weights, atol=2e-4, rtol=0)


def test_accumulating_two_batches_is_one_large_batch(hooked):
    rows = planted(hooked("bert"), 32)
    whole = fit(hooked("bert"), rows, batch_size=32, head_dropout=0, epochs=3)
    parts = fit(
        hooked("bert"), rows, batch_size=16, head_dropout=0, epochs=3,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    assert_close(weights(parts), weights(whole), atol=2e-4, rtol=0)


def test_a_replay_trains_what_the_plain_run_trains(hooked):
    model, rows = hooked("llama"), planted(hooked("llama"), 32)
    settings: dict[str, Any] = {"epochs": 4, "learning_rate": 1e-2, "progress": False}
    results = [
        fit_classifier(model, rows, LoReFT(rank=2), SITES[1], "l2", engine=engine, **settings)
        for engine in ("auto", "full")
    ]
    assert_close(weights(results[0]), weights(results[1]), atol=1e-4, rtol=0)
    # It is a replay, and it moved the edit.
    plans = [
        PreparedLabels(result.classifier, rows, [0] * 32, engine=engine).plan
        for result, engine in zip(results, ("auto", "full"), strict=True)
    ]
    assert plans[0].startswith("replay") and plans[1].startswith("full run")
    edited = results[0].classifier.intervened
    assert edited is not None and edited.interventions[0].reads is not None


def test_the_best_epoch_is_chosen_on_one_half_and_reported_on_the_other(hooked):
    model, rows = hooked("bert"), planted(hooked("bert"), 120)
    before_the_last = []
    for seed in (0, 1):
        # Fast enough for some epochs to spoil what others had found.
        options: dict[str, Any] = {"epochs": 6, "learning_rate": 0.02, "seed": seed}
        options["batch_size"] = 8
        found = fit(model, rows[:60], False, validation=rows[60:], **options)
        chosen_on, reported_on = halve(rows[60:], seed)
        scores = found.epochs["score"].tolist()
        assert len(scores) == 6 and found.best_epoch == scores.index(max(scores)) + 1
        assert found.evaluate(chosen_on).value == max(scores) > min(scores)
        assert found.score == found.evaluate(reported_on)
        before_the_last.append(scores[-1] < max(scores))
    assert any(before_the_last)  # or the last weights would do as well
    # Without rows to choose on, the last epoch stays.
    last = fit(model, rows[:60], epochs=2)
    assert last.score is None and last.best_epoch is None and last.epochs.empty
    assert "not scored" in str(last)


@pytest.mark.parametrize(("n", "first"), [(2, 1), (7, 3), (277, 138), (5000, 2500), (5463, 1000)])
def test_validation_rows_are_halved_as_the_paper_does(n, first):
    rows = [{"prompt": str(i)} for i in range(n)]
    chosen_on, reported_on = halve(rows, seed=42)
    assert len(chosen_on) == first
    numbers = [[int(row["prompt"]) for row in part] for part in (chosen_on, reported_on)]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert sorted(numbers[0] + numbers[1]) == list(range(n))
    assert halve(rows, seed=42) == (chosen_on, reported_on)
    if n > 2:
        assert halve(rows, seed=43) != (chosen_on, reported_on)


def test_the_seed_decides_the_weights_and_the_head_begins_the_same_with_edits_and_without(hooked):
    model, rows = hooked("bert"), planted(hooked("bert"), 32)
    one, same, other = (fit(model, rows, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(weights(one), weights(same))
    assert not torch.allclose(weights(one), weights(other))
    still = {"learning_rate": 1e-30}
    heads = [fit(model, rows, edited, **still).classifier.head for edited in (True, False)]
    assert_close(heads[0].state_dict(), heads[1].state_dict())


def test_rows_a_step_are_those_that_are_trained_on(hooked, tmp_path):
    model, rows = hooked("bert"), planted(hooked("bert"), 8)
    options: dict[str, Any] = {"checkpoints": tmp_path, "epochs": 1, "batch_size": 4}
    fit(model, rows, False, gradient_accumulation_steps=2, **options)
    with pytest.raises(ValueError, match=r"other rows a step \(8, here 4\)"):
        fit(model, rows, False, resume=True, **options)


def test_a_full_disk_leaves_the_last_good_checkpoint(hooked, tmp_path, monkeypatch):
    def write(*args, **kwargs):
        raise OSError(28, "No space left on device")

    class Fill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                monkeypatch.setattr("torch.save", write)

    rows = planted(hooked("bert"), 8)
    told = r"checkpoint of step 2 could not be .* No space left .*\S+checkpoint-1 is whole: resume"
    with pytest.raises(OSError, match=told):
        fit(
            hooked("bert"), rows, False, checkpoints=tmp_path, epochs=2, batch_size=8,
            callbacks=[Fill()],
        )  # fmt: skip
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint-1"]


def test_checkpoints_are_classifiers_and_a_training_resumes_from_them(hooked, tmp_path):
    model, rows = hooked("bert"), planted(hooked("bert"), 80)
    options = {"validation": rows[40:], "epochs": 3, "batch_size": 20}
    whole = fit(model, rows[:40], **options)

    class Killed(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.epoch >= 2

    fit(model, rows[:40], checkpoints=tmp_path, callbacks=[Killed()], **options)
    (newest,) = tmp_path.glob("checkpoint-4")
    assert Classifier.load(newest, model).classes == 2
    resumed = fit(model, rows[:40], checkpoints=tmp_path, resume=True, **options)
    assert_close(weights(resumed), weights(whole), atol=0, rtol=0)
    assert resumed.epochs["score"].tolist() == whole.epochs["score"].tolist()


def test_pairs_of_texts_without_a_prompt_are_read_as_those_with_one(hooked, tmp_path):
    model, rows = hooked("bert"), planted(hooked("bert"), 40)
    raw = [
        {"text_a": row["prompt"], "text_b": other["prompt"], "label": row["label"]}
        for row, other in zip(rows, reversed(rows), strict=True)
    ]
    given = [
        {"prompt": row["text_a"], "text_pair": row["text_b"], "label": row["label"]} for row in raw
    ]
    options: Any = {"batch_size": 10, "epochs": 2}
    found, same = (fit(model, some[:20], validation=some[20:], **options) for some in (raw, given))
    assert_close(weights(found), weights(same), atol=0, rtol=0)
    assert found.epochs["score"].tolist() == same.epochs["score"].tolist()
    fit(model, raw[:20], checkpoints=tmp_path, **options)
    turned = [row | {"text_b": row["text_a"]} for row in raw[:20]]
    with pytest.raises(ValueError, match="a training with other rows "):
        fit(model, turned, checkpoints=tmp_path, resume=True, **options)


def test_only_the_same_training_goes_on_from_a_checkpoint(hooked, tmp_path):
    model, rows = hooked("bert"), planted(hooked("bert"), 80)
    options: Any = {"validation": rows[40:], "epochs": 2, "batch_size": 20, "seed": 1}
    options |= {"checkpoints": tmp_path, "progress": False}
    loreft = LoReFT(rank=2)
    whole = fit_classifier(model, rows[:40], loreft, SITES, **options)
    with pytest.raises(ValueError, match="holds checkpoint-4 of an earlier training"):
        fit_classifier(model, rows[:40], loreft, SITES, **options)
    options |= {"resume": True, "callbacks": [NoStep()]}
    with pytest.raises(ValueError, match="a training with other interventions"):
        fit_classifier(model, rows[:40], DiReFT(rank=2), SITES, **options)
    turned = [row | {"label": 1 - row["label"]} for row in rows[:40]]
    with pytest.raises(ValueError, match="a training with other rows "):
        fit_classifier(model, turned, loreft, SITES, **options)
    # A score of the epochs before, by another metric or of other tokens, is no better or worse.
    with pytest.raises(ValueError, match=r"a training with other metric \(accuracy, here Matthews"):
        fit_classifier(model, rows[:40], loreft, SITES, metric=matthews(["0", "1"]), **options)
    with pytest.raises(ValueError, match=r"a training with other max_length \(None, here 4\)"):
        fit_classifier(model, rows[:40], loreft, SITES, max_length=4, **options)
    # Another seed halves the validation rows in another way.
    with pytest.raises(ValueError, match="with other rows to choose an epoch on"):
        fit_classifier(model, rows[:40], loreft, SITES, **{**options, "seed": 2})
    (tmp_path / "checkpoint-4" / "head.safetensors").write_bytes(b"cut off")
    options["callbacks"] = []
    with pytest.warns(UserWarning, match=r"going on from .*checkpoint-2, as checkpoint-4 cannot"):
        again = fit_classifier(model, rows[:40], loreft, SITES, **options)
    assert_close(weights(again), weights(whole), atol=0, rtol=0)


def test_an_older_checkpoint_does_not_say_by_which_metric_it_was_chosen(hooked, tmp_path):
    """Its max_length has always been told, beside the notes."""
    model, rows = hooked("bert"), planted(hooked("bert"), 80)
    options: Any = {"validation": rows[40:], "epochs": 1, "batch_size": 20, "max_length": 20}
    options |= {"checkpoints": tmp_path}
    fit(model, rows[:40], **options)
    file = tmp_path / "checkpoint-2" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for name in ("metric", "max_length"):
        del config["notes"][FINGERPRINT][name]
    file.write_text(json.dumps(config), encoding="utf-8")
    options |= {"resume": True, "epochs": 2}
    with pytest.raises(ValueError, match=r"other max_length \(20, here 4\)"):
        fit(model, rows[:40], **options | {"max_length": 4})
    with pytest.warns(UserWarning, match="did not keep its metric: taken to be the same as here"):
        fit(model, rows[:40], **options)


def test_a_saved_result_predicts_the_same_and_says_how_it_was_trained(hooked, tmp_path):
    model, rows = hooked("roberta"), planted(hooked("roberta"), 60)
    found = fit(model, rows[:40], validation=rows[40:], max_length=20)
    found.save(tmp_path)
    again = Classifier.load(tmp_path, model)
    assert again.predict(rows) == found.classifier.predict(rows) and again.max_length == 20
    assert isinstance(again.intervened, IntervenedModel)
    result = ClassifierResult.load(tmp_path, model)
    assert str(result) == str(found) and result.best_epoch == found.best_epoch == 1
    assert result.settings == found.settings and result.evaluate(rows) == found.evaluate(rows)
    assert_frame_equal(result.losses, found.losses)
    with pytest.raises(ValueError, match=r"metric must be accuracy, .* got F1"):
        ClassifierResult.load(tmp_path, model, f1(("no", "yes")))
    found.classifier.save(tmp_path)
    with pytest.raises(ValueError, match=r"nothing of how it was trained: read it with Class"):
        ClassifierResult.load(tmp_path, model)
    assert found.settings["rows"] == [40, 10, 10] and found.settings["metric"] == "accuracy"
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pt"))


def test_classes_that_the_rows_do_not_have_and_another_metric(hooked):
    model, rows = hooked("bert"), planted(hooked("bert"), 40)
    found = fit(
        model, rows[:20], classes=3, validation=rows[20:], metric=label_accuracy(("no", "yes", "?"))
    )
    assert found.classifier.classes == 3
    assert found.score is not None and found.score.metric == "accuracy"


class NoStep(TrainerCallback):
    """Where training should not begin."""

    def on_step_begin(self, args, state, control, **kwargs):
        raise AssertionError("it trains")


@pytest.mark.usefixtures("no_type_checks")
def test_mistakes_are_told_before_the_first_step(hooked):
    model = hooked("bert")
    rows = [row | {"label": i % 2} for i, row in enumerate(sentences(8))]
    with pytest.raises(ValueError, match="rows: row 0 has no 'label'"):
        fit(model, sentences(3))
    with pytest.raises(ValueError, match="row 0 has the label -1; classes are numbered from 0"):
        fit(model, [rows[0] | {"label": -1}])
    with pytest.raises(TypeError, match="row 0 has the label 'yes'; it must be the number"):
        fit(model, [rows[0] | {"label": "yes"}])
    for label in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"row 8 has the label (nan|inf); it must be finite"):
            fit(model, [*rows, rows[0] | {"label": label}])
    floats = [row | {"label": float(row["label"])} for row in rows]
    for given, validation in (([*rows[:7], floats[7]], None), (rows, floats)):
        with pytest.raises(ValueError, match=r"some labels are integers.*the first is [01]\.0"):
            fit(model, given, validation=validation, callbacks=[NoStep()])
    with pytest.raises(ValueError, match="at least two classes, all of them are 0"):
        fit(model, rows[::2])
    with pytest.raises(ValueError, match="classes: 2 were given, but the rows have labels up to 3"):
        fit(model, [*rows, rows[0] | {"label": 3}], classes=2)
    with pytest.raises(ValueError, match="classes: 2 were given, but the rows have scores"):
        fit(model, [*rows, rows[0] | {"label": 0.5}], classes=2)
    with pytest.raises(ValueError, match="validation must hold at least two rows, got 1"):
        fit(model, rows, validation=rows[:1])
    long = {"text_a": "the key " * 30, "text_b": "is old", "label": 1}
    for last in ([long, rows[0]], [rows[0], long], [rows[0], {"label": 1}]):
        # One of them is chosen on, the other reported on; neither waits for the training.
        with pytest.raises(ValueError, match=r"can read 40|row 0 has no 'prompt'"):
            fit(model, rows, validation=last, callbacks=[NoStep()])
    with pytest.raises(ValueError, match="a label must be one of no, or its number, got 1"):
        fit(model, rows, validation=rows, metric=label_accuracy(("no",)), callbacks=[NoStep()])
    with pytest.raises(ValueError, match="intervention is None, the head alone, so site must be"):
        fit_classifier(model, rows, None, SITES, progress=False)
    with pytest.raises(ValueError, match="site must be at least one Site, got none"):
        fit_classifier(model, rows, LoReFT(rank=2), progress=False)
    with pytest.raises(ValueError, match="layer must be between 0 and 1"):
        fit_classifier(model, rows, LoReFT(rank=2), Site("resid_post", 2), progress=False)
    with pytest.raises(ValueError, match="warmup_ratio must be at least 0 and below 1, got 3"):
        fit(model, rows, warmup_ratio=3)
    with pytest.raises(ValueError, match="weight_decay must be at least 0 and finite, got -1"):
        fit(model, rows, weight_decay=-1)
    with pytest.raises(TypeError, match="'lr' is neither an argument here"):
        fit(model, rows, lr=1e-3)
    with pytest.raises(ValueError, match="resume=True needs checkpoints="):
        fit(model, rows, resume=True)
    with pytest.raises(TypeError, match="rows must be a list of rows, got one str"):
        fit(model, "the key")


@pytest.mark.usefixtures("no_type_checks")
def test_numbers_of_numpy_are_saved_as_pythons(hooked, tmp_path):
    model, rows = hooked("bert"), planted(hooked("bert"), 40)
    numbers: dict[str, Any] = {
        "seed": 1, "batch_size": 8, "epochs": 1, "classes": 2, "max_length": 20
    }  # fmt: skip
    given: dict[str, Any] = {name: np.int64(number) for name, number in numbers.items()}
    rates: dict[str, Any] = {"learning_rate": 0.25, "weight_decay": 0.5, "warmup_ratio": 0.25}
    given |= {name: np.float32(rate) for name, rate in rates.items()}
    options = {"checkpoints": tmp_path / "there", "save_strategy": "epoch"}
    found = fit(model, rows, **given, **options)
    assert_close(weights(found), weights(fit(model, rows, **numbers, **rates)), atol=0, rtol=0)
    found.save(tmp_path / "saved")
    saved = ClassifierResult.load(tmp_path / "saved", model)
    assert saved.settings == found.settings and saved.classifier.max_length == 20


def test_floats_without_a_fraction_alone_are_scores_and_few_of_them_are_warned_of(hooked):
    rows = [row | {"label": float(i % 2)} for i, row in enumerate(sentences(8))]
    with pytest.warns(
        UserWarning, match=r"2 of which differ \(0 to 1\): if they are classes"
    ) as of:
        found = fit(hooked("bert"), rows)
    assert found.classifier.classes is None and len(of) == 1
    # Warnings are errors here: of many, or of a fraction, there is none.
    fit(hooked("bert"), [*rows[1:], rows[0] | {"label": 0.5}])
    fit(hooked("bert"), [row | {"label": float(i)} for i, row in enumerate(sentences(21))])
