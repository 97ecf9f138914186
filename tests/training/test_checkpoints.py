"""Checkpoints: what is whole is gone on from, what is not is told of, and none are mixed."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from reft_interp.interventions import LoReFT
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import train
from reft_interp.training.checkpoints import last_whole

ROWS = [
    {"prompt": f"The {word} near the {other}", "answer": " are" if word.endswith("s") else " is"}
    for word in ("key", "keys", "door", "doors")
    for other in ("cars", "film")
]


def placed(model, rank: int = 2, layer: int = 0, on: str = "l1") -> IntervenedModel:
    start = Subspace.random(32, rank, seed=1)
    return IntervenedModel(model, Placement(LoReFT(start=start), Site("resid_post", layer), on))


def fit(intervened: IntervenedModel, folder: Path, **options: Any) -> IntervenedModel:
    settings = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "progress": False}
    train(intervened, ROWS, checkpoints=folder, **(settings | options))
    return intervened


def weights(intervened: IntervenedModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in intervened.parameters()])


@pytest.fixture
def saved(tiny, tmp_path) -> Path:
    """A training of three checkpoints: 2, 4, 6."""
    fit(placed(tiny("llama")), tmp_path)
    return tmp_path


def cut(file: Path) -> None:
    half = file.read_bytes()[: file.stat().st_size // 2]
    file.unlink()  # what was loaded from it is still mapped into memory
    file.write_bytes(half)


DAMAGE = {
    "it lacks trainer_state.json": lambda one: (one / "trainer_state.json").unlink(),
    "trainer_state.json is cut off": lambda one: cut(one / "trainer_state.json"),
    "it lacks optimizer.pt": lambda one: (one / "optimizer.pt").unlink(),
    "optimizer.pt is cut off": lambda one: cut(one / "optimizer.pt"),
    "scheduler.pt is cut off": lambda one: (one / "scheduler.pt").write_bytes(b""),
    "it lacks rng_state": lambda one: (one / "rng_state.pth").unlink(),
    "rng_state.pth is cut off": lambda one: cut(one / "rng_state.pth"),
    "interventions.safetensors is damaged": lambda one: cut(one / "interventions.safetensors"),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_checkpoint_that_is_not_whole_is_passed_over(tiny, saved, fault):
    finished = IntervenedModel.load(saved / "checkpoint-6", tiny("llama"))
    DAMAGE[fault](saved / "checkpoint-6")
    told = rf"going on from \S+checkpoint-4, as checkpoint-6 cannot be used: .*{fault}"
    with pytest.warns(UserWarning, match=told):
        resumed = fit(placed(tiny("llama")), saved, resume=True)
    assert torch.equal(weights(resumed), weights(finished))


def test_where_no_checkpoint_is_whole_each_fault_is_named(tiny, saved):
    for step, fault in zip((2, 4, 6), DAMAGE, strict=False):
        DAMAGE[fault](saved / f"checkpoint-{step}")
    with pytest.raises(ValueError, match=r"No valid checkpoint .*6 cannot .*; .*4 .*; .*2 cannot"):
        fit(placed(tiny("llama")), saved, resume=True)
    # Nothing there is worth keeping: a new training may use the folder.
    fit(placed(tiny("llama")), saved)


def test_a_new_training_does_not_mix_with_an_earlier_one(tiny, saved):
    with pytest.raises(ValueError, match=r"holds checkpoint-6 of an earlier training. resume=True"):
        fit(placed(tiny("llama")), saved)


def test_what_an_earlier_training_left_does_not_make_a_checkpoint_whole(tiny, saved, monkeypatch):
    for step in (2, 4):
        shutil.rmtree(saved / f"checkpoint-{step}")
    (saved / "checkpoint-6" / "scheduler.pt").unlink()  # else the folder would be refused

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    class KillInWriting(TrainerCallback):
        """After the optimiser's file, before the file of the random number generators."""

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 5:
                monkeypatch.setattr("transformers.Trainer._save_rng_state", killed)

    with pytest.raises(KeyboardInterrupt):
        fit(placed(tiny("llama")), saved, callbacks=[KillInWriting()])
    assert (saved / "checkpoint-6" / "scheduler.pt").exists()
    assert last_whole(saved) == saved / "checkpoint-4"


def test_a_checkpoint_of_other_interventions_is_refused(tiny, make_tiny, saved):
    model = tiny("llama")
    for other, named in (
        (placed(model, rank=3), r"interventions\[0\] is .*'rank': 2.* here it is .*'rank': 3"),
        (placed(model, layer=1), r"placements\[0\] is .*'layer': 0.* here it is .*'layer': 1"),
        (placed(model, on="f1"), r"placements\[0\] is .*'last'.* here it is .*'first'"),
    ):
        with pytest.raises(ValueError, match=named):
            fit(other, saved, resume=True)
    deeper = make_tiny("llama", num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"made for tiny-llama \(n_layers 2\), but .*n_layers 3"):
        fit(placed(deeper), saved, resume=True)


@pytest.mark.parametrize("writer", ["torch", "safetensors"])
def test_a_full_disk_leaves_the_last_good_checkpoint(tiny, tmp_path, monkeypatch, writer):
    full = OSError(errno.ENOSPC, "No space left on device")
    name = {"torch": "torch.save", "safetensors": "reft_interp.saved_files.save_file"}[writer]

    def write(*args, **kwargs):
        raise full

    class Fill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 4:
                monkeypatch.setattr(name, write)

    intervened = placed(tiny("llama"))
    told = (
        r"checkpoint of step 6 could not be written to \S+checkpoint-6: .*No space left on device"
        r".*\S+checkpoint-4 is whole: resume=True"
    )
    with pytest.raises(OSError, match=told) as caught:
        fit(intervened, tmp_path, callbacks=[Fill()])
    assert caught.value.errno == errno.ENOSPC
    assert sorted(one.name for one in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    monkeypatch.undo()
    resumed = fit(placed(tiny("llama")), tmp_path, resume=True)
    # Training had come to its end when the disk was full: the weights are in the model.
    assert torch.equal(weights(resumed), weights(intervened))


def test_the_state_is_written_last(tiny, tmp_path, monkeypatch):
    """What makes a checkpoint whole has to come after everything else."""
    seen = []

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            newest = tmp_path / f"checkpoint-{state.global_step}"
            times = {file.name: file.stat().st_mtime_ns for file in newest.iterdir()}
            seen.append(max(times, key=lambda name: times[name]))
            json.loads((newest / "trainer_state.json").read_text())

    fit(placed(tiny("llama")), tmp_path, callbacks=[Look()])
    assert seen == ["trainer_state.json"] * 3
