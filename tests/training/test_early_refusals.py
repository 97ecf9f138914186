"""Mistakes that are told before anything runs, in the words of whoever made them."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from transformers import TrainingArguments

import reft_interp as ri
from reft_interp.runtime import prepared
from reft_interp.training import fit_classifier, prepared_labels

SITE = ri.Site("resid_post", 0)


class Splits(list):
    """Something with splits that a type checker takes for rows."""

    train = test = ()


def test_splits_are_no_rows(tiny):
    with pytest.raises(
        TypeError, match=r'list or a Dataset of rows, as .*"prompt".* got Splits: give its \.tr'
    ):
        ri.accuracy(tiny("llama"), Splits())


def test_an_argument_that_nobody_knows_is_named(tiny):
    rows = [{"prompt": "The key", "answer": " is"}]
    with pytest.raises(TypeError, match=r"'lr' is neither .*did you mean 'learning_rate'"):
        ri.fit_reft(tiny("llama"), rows, ri.LoReFT(1), SITE, "last", lr=1e-3)
    pairs = [{"base": "The key", "source": "The keys", "label": " are"}]
    with pytest.raises(TypeError, match=r"'ranks' is neither .*did you mean 'rank'"):
        ri.fit_das(tiny("llama"), pairs, SITE, "last", ranks=2)
    # What `train` calls otherwise, or has by itself, is no argument of whoever calls it.
    with pytest.raises(TypeError, match=r"'evaluation_rows' is neither .*mean 'evaluation'"):
        ri.fit_reft(tiny("llama"), rows, ri.LoReFT(1), SITE, "last", evaluation_rows=rows)
    with pytest.raises(TypeError, match="'rows' is neither an argument here"):
        ri.fit_das(tiny("llama"), pairs, SITE, "last", rows=rows)
    with pytest.raises(TypeError, match="'_n_gpu' is neither an argument here"):
        ri.fit_das(tiny("llama"), pairs, SITE, "last", _n_gpu=1)


def test_no_epochs_are_no_training(tiny):
    pairs = [{"base": "The key", "source": "The keys", "label": " are"}]
    with pytest.raises(ValueError, match="epochs must be above 0, got 0"):
        ri.fit_das(tiny("llama"), pairs, SITE, "last", epochs=0)


@pytest.mark.usefixtures("no_type_checks")
def test_a_layer_alone_is_no_site(tiny):
    rows = [{"prompt": "The key", "answer": " is"}]
    for site in (0, [0]):
        with pytest.raises(TypeError, match=r'site must be a Site, as Site\("resid_post", 8\)'):
            ri.fit_reft(tiny("llama"), rows, ri.LoReFT(1), site, "last")  # pyright: ignore


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("name", ["over", "engine"])
def test_a_misspelt_option_is_told_of_before_the_model_runs(tiny, monkeypatch, name):
    def run(*args, **options):
        raise AssertionError("the model ran")

    model = tiny("llama")
    pairs = [{"base": "The key", "source": "The keys", "label": " are"}]
    rows = [{"prompt": "The key", "answer": " is"}]
    monkeypatch.setattr(type(model), "forward", run)
    wrong: dict[str, Any] = {name: "choice"}
    for fit in (
        lambda: ri.fit_das(model, pairs, SITE, "last", **wrong),
        lambda: ri.fit_das_each(model, pairs, [ri.DASCell(SITE, "last")], **wrong),
        lambda: ri.fit_reft(model, rows, ri.LoReFT(1), SITE, "last", **wrong),
    ):
        with pytest.raises(ValueError, match=f"{name} must be \"[a-z]*\" or .*, got 'choice'"):
            fit()


def test_a_folder_that_cannot_be_used_is_told_of_before_rows_are_prepared(
    tiny, tmp_path, monkeypatch
):
    def prepare(*args, **options):
        raise AssertionError("rows were prepared")

    model, options = tiny("llama"), {"epochs": 1, "progress": False}
    rows = [{"prompt": "The key", "answer": " is", "label": i % 2} for i in range(2)]
    pairs = [{"base": "The key", "source": "The keys", "label": " are"}]
    begun: dict[str, Callable[..., Any]] = {
        "words": partial(ri.fit_reft, model, rows, ri.LoReFT(1), SITE, "last"),
        "classes": partial(fit_classifier, model, rows, ri.LoReFT(1), SITE, "last"),
        "pairs": partial(ri.fit_das, model, pairs, SITE, "last"),
    }
    fits = {
        kind: partial(fit, checkpoints=tmp_path / kind, **options) for kind, fit in begun.items()
    }
    for fit in fits.values():
        fit()
    monkeypatch.setattr(prepared, "_fill", prepare)
    monkeypatch.setattr(prepared_labels, "PreparedRows", prepare)
    for kind, fit in fits.items():
        with pytest.raises(ValueError, match="bf16: mixed precision"):
            fit(bf16=True)
        with pytest.raises(ValueError, match="holds checkpoint-1 of an earlier training"):
            fit()
        (tmp_path / kind / "checkpoint-1" / "optimizer.pt").unlink()
        with pytest.raises(ValueError, match=r"No valid checkpoint .* it lacks optimizer.pt"):
            fit(resume=True)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"lr_scheduler_type": "linaer"}, "linaer is not a valid SchedulerType"),
        ({"optim": "adamw_foo"}, "adamw_foo is not a valid OptimizerNames"),
        ({"warmup_steps": -3}, "warmup_steps = -3"),
        ({"save_strategy": "step"}, "step is not a valid IntervalStrategy|valid SaveStrategy"),
        ({"dataloader_num_workers": 1}, "dataloader_num_workers: batches are made of rows"),
        ({"eval_strategy": "epoch"}, "eval_strategy is 'epoch', but there are no rows"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: .* smooths no labels: leave it"),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha: the model is frozen"),
        ({"use_liger_kernel": True}, "use_liger_kernel: what is trained is no model of"),
        ({"train_sampling_strategy": "group_by_length"}, 'strategy="group_by_length": rows come'),
        ({"load_best_model_at_end": True}, "load_best_model_at_end: there are no rows to evaluate"),
        ({"fsdp": "full_shard"}, "fsdp: the base model is frozen"),
        ({"report_to": "odd"}, "odd is not supported, only azure_ml"),
    ],
)
def test_what_transformers_refuses_is_told_of_before_rows_are_prepared(
    tiny, monkeypatch, wrong, told
):
    def prepare(*args, **options):
        raise AssertionError("rows were prepared")

    monkeypatch.setattr(prepared, "_fill", prepare)
    monkeypatch.setattr(prepared_labels, "PreparedRows", prepare)
    model, given = tiny("llama"), {"epochs": 1, "progress": False, **wrong}
    rows = [{"prompt": "The key", "answer": " is", "label": i % 2} for i in range(2)]
    pairs = [{"base": "The key", "source": "The keys", "label": " are"}]
    with pytest.raises(ValueError, match=told):
        ri.fit_reft(model, rows, ri.LoReFT(1), SITE, "last", **given)
    with pytest.raises(ValueError, match=told):
        fit_classifier(model, rows, ri.LoReFT(1), SITE, "last", **given)
    with pytest.raises(ValueError, match=told):
        ri.fit_das(model, pairs, SITE, "last", **given)


@pytest.fixture
def unprepared_fits(tiny, monkeypatch):
    """Trainings that must not come as far as their rows."""

    def prepare(*args, **options):
        raise AssertionError("rows were prepared")

    monkeypatch.setattr(prepared, "_fill", prepare)
    monkeypatch.setattr(prepared_labels, "PreparedRows", prepare)
    rows = [{"prompt": "The key", "answer": " is", "label": i % 2} for i in range(2)]
    pairs = [{"base": "The key", "source": "The keys", "label": " are"}]
    loreft, model = ri.LoReFT(1), tiny("llama")
    return [
        partial(ri.fit_reft, model, rows, loreft, SITE, "last", progress=False),
        partial(fit_classifier, model, rows, loreft, SITE, "last", progress=False),
        partial(ri.fit_das, model, pairs, SITE, "last", progress=False),
    ]


def test_mixed_precision_of_the_launcher_is_told_of_before_rows_are_prepared(
    unprepared_fits, monkeypatch
):
    """As `accelerate config` sets it."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for fit in unprepared_fits:
        with pytest.raises(ValueError, match="bf16: mixed precision"):
            fit()


def test_rows_that_processes_cannot_share_are_told_of_before_rows_are_prepared(
    unprepared_fits, monkeypatch
):
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    for fit in unprepared_fits:
        with pytest.raises(ValueError, match="a multiple of their number, 2, got 3"):
            fit(batch_size=3)


def test_a_missing_package_is_told_of_before_rows_are_prepared(unprepared_fits):
    """Packages that nobody here has installed."""
    for fit in unprepared_fits:
        with pytest.raises(ImportError, match="install `lomo_optim`"):
            fit(optim="lomo")
        with pytest.raises(RuntimeError, match="requires dvclive to be installed"):
            fit(report_to="dvclive")


def test_what_cannot_train_is_told_of_before_rows_are_prepared(unprepared_fits, tiny):
    rows = [{"prompt": "The key", "answer": " is"}]
    fixed = ri.ZeroAblation(ri.Subspace.random(32, 1, seed=0))
    with pytest.raises(ValueError, match="nothing to train"):
        ri.fit_reft(tiny("llama"), rows, fixed, SITE, "last")
    _, of_classes, _ = unprepared_fits
    with pytest.raises(ValueError, match="gradient_checkpointing: blocks run again for interv"):
        of_classes(gradient_checkpointing=True)


def test_the_best_of_no_checkpoints_is_told_of_before_rows_are_prepared(tiny, monkeypatch):
    def prepare(*args, **options):
        raise AssertionError("rows were prepared")

    rows = [{"prompt": "The key", "answer": " is"}]
    monkeypatch.setattr(prepared, "_fill", prepare)
    given: dict[str, Any] = {"evaluation": rows, "load_best_model_at_end": True}
    with pytest.raises(ValueError, match="load_best_model_at_end requires the save and eval"):
        ri.fit_reft(tiny("llama"), rows, ri.LoReFT(1), SITE, "last", **given)


def test_two_spaces_between_prompt_and_answer_are_warned_of(tiny):
    rows = [{"prompt": "The key", "answer": " is"}, {"prompt": "The keys ", "answer": " are"}]
    with pytest.warns(UserWarning, match=r"rows: in row 1 the prompt ends .* 'The keys  are': tak"):
        ri.fit_reft(
            tiny("llama"), rows, ri.LoReFT(1), SITE, "last", epochs=1, batch_size=2, progress=False
        )


@pytest.mark.usefixtures("no_type_checks")
def test_pairs_are_told_from_rows_by_who_takes_them(tiny):
    model = tiny("llama")
    pair = {"base": "The key", "source": "The doors", "base_answer": " is", "label": " are"}
    made = ri.Counterfactuals.from_rows([pair], [pair | {"base": "The dog"}], "number")
    reft: Any = ri.fit_reft
    with pytest.raises(ValueError, match=r"row 0 has no 'prompt', .* pair: pairs are for fit_das"):
        reft(model, made.train, ri.LoReFT(1), SITE, "last")
    with pytest.raises(TypeError, match=r'"source": .* got Counterfactuals: .* are for fit_das'):
        ri.accuracy(model, cast("Any", made))
    with pytest.raises(ValueError, match=r"row 0 lacks .* rows with a prompt are for fit_reft"):
        ri.fit_das(model, [{"prompt": "The key", "answer": " is"}], SITE, "last")
