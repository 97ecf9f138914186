"""Training: only interventions move, exactly as a loop by hand would move them."""

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import EarlyStoppingCallback, TrainerCallback

from reft_interp.interventions import (
    DiReFT,
    DistributedInterchange,
    Intervention,
    LoReFT,
    VectorAddition,
)
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import train

pytestmark = pytest.mark.no_cover

START = Subspace.random(32, 2, seed=7)
WORDS = ["key", "keys", "door", "doors", "film", "films", "car", "cars"]
# Answers of different lengths: a mean of means is not the mean.
ROWS = [
    {
        "prompt": f"The {word} near the {other}",
        "answer": " are here" if word.endswith("s") else " is",
    }
    for word in WORDS
    for other in WORDS[:4]
]


def placed(model, intervention: Intervention | None = None) -> IntervenedModel:
    chosen = intervention or LoReFT(start=START)
    return IntervenedModel(model, Placement(chosen, Site("resid_post", 0), "f1+l1"))


def fit(intervened: IntervenedModel, rows=ROWS, **options: Any) -> pd.DataFrame:
    engine = options.pop("engine", "auto")
    budget = options.pop("memory_budget", None)
    prepared = PreparedRows(intervened, rows, engine=engine, memory_budget=budget)
    return train(intervened, prepared, **({"progress": False, "learning_rate": 1e-2} | options))


def weights(intervened: IntervenedModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in intervened.parameters()])


def test_interventions_learn_and_the_model_stays(tiny):
    model = tiny("llama")
    before = copy.deepcopy(model.original_model.state_dict())
    intervened = placed(model)
    start, loss = weights(intervened), intervened.loss(ROWS).item()
    losses = fit(intervened, epochs=6, learning_rate=0.1)
    after = intervened.loss(ROWS).item()
    assert after < loss - 0.7  # two directions of a random model cannot do much more
    assert (weights(intervened) - start).abs().max() > 0.01
    for name, tensor in model.original_model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in intervened.parameters())
    assert not intervened.training
    # One line a step, the first of them the loss of the untrained model on some batch.
    assert list(losses.columns) == ["step", "epoch", "loss"]
    assert losses["step"].tolist() == list(range(1, 13))
    assert losses["loss"].iloc[-1] < losses["loss"].iloc[0]


def test_takes_the_steps_of_adam_on_the_mean_loss_of_answer_tokens(tiny):
    """Against a loop by hand: one batch, so that the order of rows does not matter."""
    intervened, by_hand = placed(tiny("llama")), placed(tiny("llama"))
    losses = fit(intervened, epochs=3, batch_size=len(ROWS), max_grad_norm=0.0)
    optimiser = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(3):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 3)
        loss = by_hand.loss(ROWS)
        assert losses["loss"].tolist()[step] == pytest.approx(loss.item(), abs=1e-4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # Adam divides by the gradient's size: where that is near 0, rounding shows.
    assert_close(weights(intervened), weights(by_hand), atol=1e-4, rtol=0)


def test_the_same_seed_gives_the_same_weights(tiny):
    runs = [placed(tiny("llama"), LoReFT(start=START, dropout=0.2)) for _ in range(3)]
    for intervened, seed in zip(runs, (3, 3, 4), strict=True):
        fit(intervened, epochs=2, seed=seed)
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert not torch.allclose(weights(runs[0]), weights(runs[2]))


def test_accumulating_two_batches_of_eight_is_one_of_sixteen(tiny):
    whole, parts = placed(tiny("llama")), placed(tiny("llama"))
    losses = fit(whole, epochs=2, batch_size=16)
    of_parts = fit(parts, epochs=2, batch_size=8, gradient_accumulation_steps=2)
    assert_close(weights(parts), weights(whole), atol=1e-6, rtol=0)
    assert of_parts["loss"].tolist() == pytest.approx(losses["loss"].tolist(), abs=1e-4)
    other = placed(tiny("llama"))
    fit(other, epochs=2, batch_size=8)
    assert (weights(other) - weights(whole)).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_a_replay_trains_what_the_plain_run_trains(tiny, architecture):
    on = Placement(LoReFT(start=START), Site("resid_post", 1), "l1")
    replayed, plain = (IntervenedModel(tiny(architecture), copy.deepcopy(on)) for _ in range(2))
    assert PreparedRows(replayed, ROWS).plan.replays
    auto = fit(replayed, max_steps=50, learning_rate=4e-3)
    full = fit(plain, max_steps=50, learning_rate=4e-3, engine="full")
    assert len(auto) == len(full) == 50
    assert auto["loss"].tolist() == pytest.approx(full["loss"].tolist(), abs=1e-4)
    assert_close(weights(replayed), weights(plain), atol=1e-4, rtol=0)
    assert full["loss"].iloc[-1] < full["loss"].iloc[0] - 0.1


def test_without_memory_it_trains_to_the_same(tiny):
    on = Placement(LoReFT(start=START), Site("resid_post", 1), "l1")
    without, plain = (IntervenedModel(tiny("llama"), copy.deepcopy(on)) for _ in range(2))
    fit(without, memory_budget=0)
    fit(plain, engine="full")
    assert_close(weights(without), weights(plain), atol=1e-5, rtol=0)


def test_encoders_train(tiny):
    intervened = placed(tiny("bert"))
    before = intervened.loss(ROWS).item()
    fit(intervened, epochs=6, learning_rate=0.1)
    assert intervened.loss(ROWS).item() < before - 0.3


class InterruptAtSave(TrainerCallback):
    """Stops a run where a machine would be taken away: after the first checkpoint."""

    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_a_run_that_goes_on_ends_where_an_undisturbed_one_does(tiny, tmp_path):
    def fresh(seed: int) -> IntervenedModel:
        torch.manual_seed(seed)
        return placed(tiny("llama"), LoReFT(2, dropout=0.2))

    undisturbed = fresh(0)
    losses = fit(undisturbed, epochs=2, checkpoints=tmp_path / "undisturbed")
    disturbed = fresh(0)
    with pytest.raises(KeyboardInterrupt):
        fit(
            disturbed,
            epochs=2,
            checkpoints=tmp_path / "disturbed",
            callbacks=[InterruptAtSave()],
        )
    assert not disturbed.training  # a run that ends in an error leaves it as it found it
    torch.rand(5)  # whatever happened in between
    resumed = fresh(1)  # other weights, which the checkpoint replaces
    assert not torch.allclose(weights(resumed), weights(disturbed))
    all_losses = fit(resumed, epochs=2, checkpoints=tmp_path / "disturbed", resume=True)
    assert torch.equal(weights(resumed), weights(undisturbed))
    pd.testing.assert_frame_equal(all_losses, losses)


def test_every_checkpoint_is_a_folder_that_loads(tiny, tmp_path):
    model = tiny("llama")
    seen = []

    class Remember(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append((state.global_step, weights(intervened)))

    intervened = placed(model)
    fit(intervened, epochs=3, checkpoints=tmp_path, callbacks=[Remember()])
    assert [step for step, _ in seen] == [2, 4, 6]
    for step, held in seen:
        loaded = IntervenedModel.load(tmp_path / f"checkpoint-{step}", model)
        assert torch.equal(weights(loaded), held)
    assert torch.equal(weights(intervened), seen[-1][1])
    # The model's own weights are in none of them.
    for file in tmp_path.rglob("*"):
        assert file.name not in ("model.safetensors", "pytorch_model.bin")
        assert not file.is_file() or file.stat().st_size < 50_000


def test_without_a_folder_nothing_is_written(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(placed(tiny("llama")))
    assert list(tmp_path.iterdir()) == []


def test_stops_early_and_goes_back_to_the_best(tiny, tmp_path):
    model = tiny("llama")
    intervened = placed(model)
    opposite = [row | {"answer": " no"} for row in ROWS]  # what is trained makes this worse
    losses = train(
        intervened,
        PreparedRows(intervened, ROWS),
        PreparedRows(intervened, opposite),
        epochs=20,
        learning_rate=3e-2,
        progress=False,
        checkpoints=tmp_path,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    history = json.loads(newest_state(tmp_path).read_text())["log_history"]
    evaluated = {e["step"]: e["eval_loss"] for e in history if "eval_loss" in e}
    best = min(evaluated, key=lambda step: evaluated[step])
    last = losses["step"].tolist()[-1]
    assert last == max(evaluated) == best + 2 * 2 < 2 * 20
    assert intervened.loss(opposite).item() == pytest.approx(evaluated[best], abs=1e-4)
    at_best = IntervenedModel.load(tmp_path / f"checkpoint-{best}", model)
    assert torch.equal(weights(intervened), weights(at_best))


def newest_state(folder: Path) -> Path:
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return newest / "trainer_state.json"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DiReFT, r"the loss became nan at step 2: try a learning rate below 1e\+38"),
        (LoReFT, r"no numbers at step 2: try a learning rate below 1e\+38"),
    ],
)
def test_a_training_that_explodes_says_so(tiny, kind, message):
    intervened = placed(tiny("llama"), kind(start=START))
    with pytest.raises(ValueError, match=message):
        fit(intervened, epochs=10, learning_rate=1e38)
    assert not intervened.training


def test_a_loss_that_is_no_number_ends_it(tiny):
    intervened = placed(tiny("llama"))
    nn.init.constant_(intervened.interventions[0].get_parameter("value.bias"), float("nan"))
    with pytest.raises(ValueError, match="the loss became nan at step 1"):
        fit(intervened)


def test_says_what_cannot_be_trained(tiny):
    model = tiny("llama")
    with pytest.raises(ValueError, match="nothing to train"):
        fit(placed(model, VectorAddition(torch.ones(32))))
    with pytest.raises(ValueError, match="resume=True needs checkpoints="):
        fit(placed(model), resume=True)
    swapped = placed(model, DistributedInterchange(START))
    sources = [row["prompt"] for row in ROWS]
    with pytest.raises(ValueError, match="DistributedInterchange needs trainable=True"):
        train(swapped, PreparedRows(swapped, ROWS, sources), progress=False)


def test_resuming_where_nothing_is_says_so(tiny, tmp_path):
    with pytest.raises(ValueError, match="No valid checkpoint"):
        fit(placed(tiny("llama")), checkpoints=tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused_by_name(tiny, tmp_path):
    fit(placed(tiny("llama")), checkpoints=tmp_path)
    tensors = tmp_path / "checkpoint-2" / "interventions.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"interventions.safetensors is damaged"):
        fit(placed(tiny("llama")), epochs=2, checkpoints=tmp_path, resume=True)


def test_shared_modules_train_and_are_saved_once(tiny, tmp_path):
    model = tiny("llama")
    shared = LoReFT(start=START)
    intervened = IntervenedModel(
        model, [Placement(shared, Site("resid_post", layer), "l1") for layer in (0, 1)]
    )
    before = intervened.loss(ROWS).item()
    fit(intervened, epochs=4, learning_rate=0.1, checkpoints=tmp_path)
    assert intervened.loss(ROWS).item() < before - 0.5
    loaded = IntervenedModel.load(tmp_path / "checkpoint-8", model)
    assert loaded.placements[0].intervention is loaded.placements[1].intervention
    assert len(list(loaded.parameters())) == len(list(shared.parameters()))


def test_a_progress_bar_shows_the_loss(tiny, capsys):
    fit(placed(tiny("llama")), progress=True)
    shown = capsys.readouterr()
    assert "loss=" in shown.err and "{'loss'" not in shown.out + shown.err
    fit(placed(tiny("llama")))
    assert capsys.readouterr() == ("", "")
