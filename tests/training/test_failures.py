"""Steps that fail name their rows and leave the last good weights, or say what would fit."""

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from reft_interp.interventions import DiReFT, Intervention, LoReFT
from reft_interp.runtime import IntervenedModel, Placement, answer_loss
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import (
    Cell,
    Classifier,
    TrainingStopped,
    failures,
    fit_classifier,
    train,
    train_cells,
    trainer,
)

ROWS = [
    {"prompt": f"The {word} near the {other}", "answer": " are" if word.endswith("s") else " is"}
    for word in ("key", "keys", "door", "doors")
    for other in ("cars", "film", "store", "table")
]
BROKEN = [*ROWS[:9], {"prompt": "Tokyo", "answer": " is"}, *ROWS[9:]]


def placed(model, kind: Callable[..., Intervention] = LoReFT) -> IntervenedModel:
    start = Subspace.random(32, 2, seed=1)
    return IntervenedModel(model, Placement(kind(start=start), Site("resid_post", 0), "l1"))


def fit(intervened: IntervenedModel, rows=ROWS, engine: Engine = "auto", **options: Any):
    settings = {"learning_rate": 1e-2, "batch_size": 4, "progress": False} | options
    train(intervened, PreparedRows(intervened, rows, engine=engine), **settings)
    return weights(intervened)


def weights(intervened: IntervenedModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in intervened.parameters()])


@pytest.fixture
def without_tokyo(make_tiny):
    """A model that gives no number where the token of "Tokyo" is read."""
    model = make_tiny("llama")
    token = model.tokenizer("Tokyo")["input_ids"][1]
    with torch.no_grad():
        model.embed.weight[token] = float("nan")
    return model


@pytest.mark.parametrize("engine", ["auto", "full"])
def test_a_row_without_a_number_is_named_and_the_weights_before_it_stay(without_tokyo, engine):
    intervened = placed(without_tokyo)
    with pytest.raises(TrainingStopped, match=r"in row\(s\) 9 of the batch of rows") as caught:
        fit(intervened, BROKEN, engine, epochs=2, lr_scheduler_type="constant")
    stopped = caught.value
    assert stopped.rows == [9] and stopped.step > 1
    # A training that ends just before that step ends with these weights.
    before = fit(
        placed(without_tokyo), BROKEN, engine, max_steps=stopped.step - 1,
        lr_scheduler_type="constant",
    )  # fmt: skip
    assert stopped.intervened is intervened
    assert torch.equal(weights(intervened), before)


def test_a_batch_of_bad_rows_alone_is_no_ruin_of_the_weights(without_tokyo, tmp_path):
    intervened = placed(without_tokyo)
    told = r"in row\(s\) 9 of the batch of rows 9; those before them give numbers"
    with pytest.raises(TrainingStopped, match=told) as caught:
        fit(
            intervened, BROKEN, batch_size=1, lr_scheduler_type="constant", checkpoints=tmp_path,
            save_strategy="steps", save_steps=1,
        )  # fmt: skip
    stopped = caught.value
    assert stopped.rows == [9] and stopped.step > 1
    # The checkpoint of the step before it is good, and stays; so do its weights.
    newest = IntervenedModel.load(tmp_path / f"checkpoint-{stopped.step - 1}", without_tokyo)
    assert torch.equal(weights(intervened), weights(newest))


def test_of_a_first_batch_of_bad_rows_the_rows_are_named(without_tokyo):
    with pytest.raises(
        TrainingStopped, match=r"nan at step 1, in row\(s\) 0 .*no batch came before"
    ):
        fit(placed(without_tokyo), BROKEN[9:10])


def test_a_last_step_without_a_gradient_is_taken_back(tiny, tmp_path):
    intervened = placed(tiny("llama"))
    before = fit(placed(tiny("llama")), max_steps=1, lr_scheduler_type="constant")
    steps = []

    def second_is_nan(gradient):
        steps.append(1)
        return gradient * (float("nan") if len(steps) == 2 else 1.0)

    intervened.interventions[0].get_parameter("value.bias").register_hook(second_is_nan)
    told = r"weights became NaN or infinite at step 2: .* weights of step 1 again; .*checkpoint-1\."
    with pytest.raises(TrainingStopped, match=told) as caught:
        fit(
            intervened, max_steps=2, lr_scheduler_type="constant", checkpoints=tmp_path,
            save_strategy="steps", save_steps=1,
        )  # fmt: skip
    assert caught.value.step == 2
    assert torch.equal(weights(intervened), before)
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("kind", [LoReFT, DiReFT])
def test_a_last_step_that_goes_too_far_is_taken_back(tiny, kind):
    intervened = placed(tiny("llama"), kind)
    before = weights(intervened)
    with pytest.raises(TrainingStopped, match=r"at step 1: try a .* below 1e\+38"):
        fit(intervened, max_steps=1, learning_rate=1e38)
    assert torch.equal(weights(intervened), before)


class Explode(TrainerCallback):
    """The fourth step goes so far that the fifth has no loss."""

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step == 3 and optimizer is not None:
            optimizer.param_groups[0]["lr"] = 1e38


def test_weights_that_run_away_are_taken_back(tiny, tmp_path):
    intervened = placed(tiny("llama"), DiReFT)
    told = (
        r"the loss became nan at step 5: try a learning rate below 0.01. \(In the batch of rows "
        r".*hold the weights of step 3 again; the last good checkpoint is \S+checkpoint-3"
    )
    with pytest.raises(TrainingStopped, match=told) as caught:
        fit(
            intervened,
            epochs=3,
            checkpoints=tmp_path,
            save_strategy="steps",
            save_steps=1,
            callbacks=[Explode()],
        )
    assert len(caught.value.rows) == 4
    saved = IntervenedModel.load(tmp_path / "checkpoint-3", tiny("llama"))
    assert torch.equal(weights(intervened), weights(saved))
    # The fourth held the ruined weights; a training that resumes goes on from the third.
    assert sorted(one.name[-1] for one in tmp_path.iterdir()) == ["1", "2", "3"]
    resumed = fit(placed(tiny("llama"), DiReFT), epochs=3, checkpoints=tmp_path, resume=True)
    assert resumed.isfinite().all()
    assert torch.equal(resumed, fit(placed(tiny("llama"), DiReFT), epochs=3))


def classified(model, rows=ROWS, kind: Callable[..., Intervention] = LoReFT, **options: Any):
    labelled = [row | {"label": int(row["answer"] == " is")} for row in rows]
    settings = {"learning_rate": 1e-2, "batch_size": 4, "progress": False} | options
    return fit_classifier(model, labelled, kind(2), Site("resid_post", 0), "l1", **settings)


def test_a_classifier_keeps_the_weights_before_a_row_without_a_number(without_tokyo):
    options = {"lr_scheduler_type": "constant", "seed": 0}
    with pytest.raises(
        TrainingStopped, match=r"in row\(s\) 9 of .* The head and the int"
    ) as caught:
        classified(without_tokyo, BROKEN, epochs=2, **options)
    stopped = caught.value
    assert stopped.rows == [9] and stopped.step > 1
    before = classified(without_tokyo, BROKEN, max_steps=stopped.step - 1, **options).classifier
    assert isinstance(stopped.trained, Classifier)
    assert stopped.intervened is stopped.trained.intervened
    for name, held in before.state_dict().items():
        assert torch.equal(stopped.trained.state_dict()[name], held)


def test_a_classifier_whose_weights_run_away_goes_back(tiny):
    labelled = [row | {"label": i % 2} for i, row in enumerate(ROWS)]
    with pytest.raises(TrainingStopped, match=r"nan at step \d+: try .* weights of step") as caught:
        classified(tiny("llama"), kind=DiReFT, learning_rate=1e38, validation=labelled)
    # The folder for checkpoints was a temporary one.
    assert "checkpoint" not in str(caught.value)
    assert all(p.isfinite().all() for p in caught.value.trained.parameters())


@pytest.fixture
def small_gpu(monkeypatch):
    """Memory for five rows: a step takes 90 MB and 10 MB a row, and 150 MB are free."""
    plain = IntervenedModel.forward
    ran = []

    def forward(self, batch, **inputs):
        ran.append(len(batch))
        if len(batch) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return plain(self, batch, **inputs)

    def peak_memory(step):
        step()
        return [(90 + 10 * ran[-1]) * 10**6]

    monkeypatch.setattr(IntervenedModel, "forward", forward)
    monkeypatch.setattr(failures, "peak_memory", peak_memory)
    monkeypatch.setattr(failures, "available_memory", lambda: [int(145e6 / 0.9)])


def test_a_step_that_is_too_large_says_what_would_fit(tiny, small_gpu):
    told = (
        r"no memory for a step of 16 rows: one row of \d+ tokens takes 100 MB, so that 5 would fit."
        r".*per_device_train_batch_size=4, gradient_accumulation_steps=4. \(CUDA out of memory"
    )
    intervened = placed(tiny("llama"))
    before = weights(intervened)
    with pytest.raises(torch.OutOfMemoryError, match=told):
        fit(intervened, batch_size=16)
    assert torch.equal(weights(intervened), before)
    assert not intervened.training
    fit(intervened, per_device_train_batch_size=4, gradient_accumulation_steps=4)


def test_of_several_gpus_the_one_with_the_least_room_counts(tiny, small_gpu, monkeypatch):
    alone = failures.peak_memory
    monkeypatch.setattr(failures, "peak_memory", lambda step: [10**6, *alone(step), 0])
    monkeypatch.setattr(failures, "available_memory", lambda: [10**9, int(125e6 / 0.9), 10**9])
    with pytest.raises(torch.OutOfMemoryError, match="takes 101 MB, so that 3 would fit"):
        fit(placed(tiny("llama")), batch_size=16)


def test_where_not_even_one_row_fits_it_says_so(tiny, small_gpu, monkeypatch):
    def peak_memory(step):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(failures, "peak_memory", peak_memory)
    with pytest.raises(torch.OutOfMemoryError, match=r"not even one row of .* fits. Shorten"):
        fit(placed(tiny("llama")), batch_size=16)


@pytest.mark.parametrize("engine", ["full", "auto"])
def test_advice_is_measured_when_the_memory_of_the_failed_step_is_free(tiny, monkeypatch, engine):
    held: list[int] = []

    def count() -> int:
        gc.collect()
        every = (one for one in gc.get_objects() if type(one) is torch.Tensor)
        return sum(one.grad_fn is not None for one in every)

    def fail(*args, **options):
        held.append(count())
        raise torch.OutOfMemoryError("CUDA out of memory")

    def advice(*args, **options):
        held.append(count())
        return "advice"

    before = count()  # what other tests may have kept
    monkeypatch.setattr(answer_loss, "cross_entropy", fail)
    monkeypatch.setattr(trainer, "memory_advice", advice)
    with pytest.raises(torch.OutOfMemoryError, match=r"16 rows: advice. \(CUDA out of memory\)"):
        fit(placed(tiny("llama")), batch_size=16, engine=engine)
    failed, advised = held
    assert failed > before
    assert advised <= before


def test_mixed_precision_is_refused_and_a_bfloat16_model_trains(tiny, make_tiny):
    told = r'bf16: mixed precision.*dtype="bfloat16"'
    for train_one in (lambda: fit(placed(tiny("llama")), bf16=True),
                      lambda: classified(tiny("llama"), bf16=True)):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            train_one()
    intervened = placed(tiny("llama"))
    rows = PreparedRows(intervened, ROWS)
    for train_one in (lambda: train(intervened, rows, progress=False),
                      lambda: train_cells([Cell(intervened, rows)], progress=False)):  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(ValueError, match=r"torch.autocast: mixed precision"):
                train_one()
    half = copy.deepcopy(tiny("llama")).to(torch.bfloat16)
    intervened, full = placed(half), placed(tiny("llama"))
    before = intervened.loss(ROWS).item()
    found = fit(intervened, epochs=10)
    assert found.dtype == torch.float32
    assert intervened.loss(ROWS).item() < before - 0.3
    # The steps of Adam have the size of the learning rate whatever the gradients' rounding.
    assert (found - fit(full, epochs=10)).abs().mean() < 5e-3
