"""Training in two processes is the training of one, whatever the number of rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from in_two_processes import (
    CASES,
    CLASSIFIERS,
    ROWS,
    SHARDED_CASES,
    TOKENS,
    classified,
    evaluations,
    model,
    of_classifier,
    saved_options,
    trained,
    weights,
)
from torch import distributed
from transformers import BitsAndBytesConfig, TrainingArguments

import reft_interp
from reft_interp.interventions import LoReFT
from reft_interp.models import load_model
from reft_interp.models import weights as weights_of
from reft_interp.models.devices import find_device
from reft_interp.runtime import IntervenedModel, Placement, planning
from reft_interp.sites import Site
from reft_interp.training import fit_reft, train
from reft_interp.training.processes import check_processes

pytestmark = pytest.mark.no_cover

needs_gloo = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()),
    reason="two processes on a CPU need torch's gloo backend",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What each of two processes found, and the folder that they wrote into."""
    folder = tmp_path_factory.mktemp("processes")
    here = Path(__file__).parent
    paths = [Path(reft_interp.__file__).parents[1], here.parent, here]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", str(here / "in_two_processes.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@needs_gloo
@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does(both, case):
    _, found = both
    intervened, losses = trained(model(), **dict(CASES[case]))
    for of_process in found:
        assert of_process[case]["losses"] == pytest.approx(losses, abs=1e-4)
        assert of_process[case]["weights"] == pytest.approx(weights(intervened), abs=1e-5)
    assert found[0][case]["weights"] == found[1][case]["weights"]


@needs_gloo
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_a_classifier_of_two_processes_is_that_of_one(both, case):
    _, found = both
    alone = of_classifier(classified(model(), **CLASSIFIERS[case]))
    assert len(alone["losses"]) == 12  # of 21 rows, 4 a step
    for of_process in found:
        assert of_process[case]["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert of_process[case]["scores"] == pytest.approx(alone["scores"], abs=1e-4)
        assert of_process[case]["weights"] == pytest.approx(alone["weights"], abs=1e-5)


@needs_gloo
def test_what_is_compared_differs_where_the_steps_do():
    """Other steps end elsewhere by far more than what is allowed above."""
    one, _ = trained(model(), batch_size=8)
    other, _ = trained(model(), ROWS + ROWS[:3], batch_size=8)
    assert (torch.tensor(weights(one)) - torch.tensor(weights(other))).abs().max() > 1e-3


@needs_gloo
def test_two_processes_evaluate_and_go_back_to_the_best_as_one_does(both, tmp_path):
    _, found = both
    intervened, _ = trained(model(), **saved_options(tmp_path))
    alone = evaluations(tmp_path / "checkpoints")
    assert alone[-1] > min(alone) + 1e-3  # so that going back to the best is seen
    for of_process in found:
        assert of_process["evaluations"] == pytest.approx(alone, abs=1e-4)
        assert of_process["saved"]["weights"] == pytest.approx(weights(intervened), abs=1e-5)


@needs_gloo
def test_two_processes_resume_bit_for_bit(both):
    _, found = both
    for of_process in found:
        assert of_process["resumed"] == of_process["saved"]


@needs_gloo
def test_two_processes_write_one_checkpoint(both):
    folder, _ = both
    names = sorted(file.name for file in (folder / "checkpoints" / "checkpoint-6").iterdir())
    assert [name for name in names if not name.startswith("rng_state")] == [
        "config.json",
        "interventions.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "trainer_state.json",
    ]


@needs_gloo
def test_a_row_without_a_number_ends_both_processes(both):
    _, found = both
    assert found[0]["broken"] == found[1]["broken"]
    assert "the loss became nan at step 1, in row(s) 5 of the batch" in found[0]["broken"]
    assert found[0]["broken classifier"] == found[1]["broken classifier"]
    assert "nan at step 1, in row(s) 5 of the batch" in found[0]["broken classifier"]


@needs_gloo
def test_rows_of_a_step_are_shared_evenly(both):
    _, found = both
    assert all("multiple of their number, 2, got 7" in one["odd batch"] for one in found)


@needs_gloo
@pytest.mark.parametrize("case", SHARDED_CASES)
def test_two_processes_that_share_a_model_end_where_one_does(both, case):
    _, found = both
    intervened, losses = trained(model(), **dict(SHARDED_CASES[case]))
    for of_process in found:
        assert of_process["sharded"][case]["losses"] == pytest.approx(losses, abs=1e-4)
        assert of_process["sharded"][case]["weights"] == pytest.approx(
            weights(intervened), abs=1e-5
        )


@needs_gloo
def test_processes_hold_a_share_of_each_block_and_run_the_whole_of_it(both):
    _, found = both
    whole = model()
    size = sum(p.numel() for p in whole.blocks.parameters())
    intervened, _ = trained(whole, **SHARDED_CASES["plain"])
    logits = whole(TOKENS)[0, -1].tolist()
    words = intervened.generate(ROWS[:3], max_new_tokens=3)
    for of_process in found:
        sharded = of_process["sharded"]
        assert sharded["here"] == sharded["here after all"] == size // 2
        assert sharded["logits"] == pytest.approx(logits, abs=1e-5)
        assert sharded["words"] == words


@needs_gloo
def test_a_shared_model_says_what_it_cannot_do(both):
    _, found = both
    for of_process in found:
        sharded = of_process["sharded"]
        assert "loss became nan at step 1, in row(s) 5 of the batch" in sharded["broken"]
        assert (
            "no plain model of it here; load it without sharded=True" in sharded["no plain model"]
        )


def test_a_model_is_not_shared_by_one_process(monkeypatch, tmp_path):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="sharded=True needs several processes"):
        load_model(tmp_path, sharded=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(weights_of, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match="in a floating-point dtype, got quantization_config"):
        load_model(
            tmp_path, sharded=True, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
        )


def placed(bridge) -> IntervenedModel:
    return IntervenedModel(bridge, Placement(LoReFT(2), Site("resid_post", 1), "l1"))


@pytest.mark.parametrize("option", ["fsdp", "deepspeed"])
def test_what_would_cut_up_the_frozen_model_is_refused(tiny, tmp_path, option):
    settings = TrainingArguments(str(tmp_path), use_cpu=True)
    check_processes(tiny("llama"), settings)
    setattr(settings, option, "full_shard")
    with pytest.raises(ValueError, match=f"{option}: the base model is frozen"):
        check_processes(tiny("llama"), settings)


def test_weights_on_devices_that_nothing_moves_between_are_refused(make_tiny):
    bridge = make_tiny("llama")
    intervened = placed(bridge)
    bridge.unembed.original_component.to("meta")
    with pytest.raises(ValueError, match="weights are on cpu, meta, and nothing moves"):
        train(intervened, ROWS, progress=False)
    with pytest.raises(ValueError, match="weights are on cpu, meta, and nothing moves"):
        fit_reft(bridge, ROWS, LoReFT(2), Site("resid_post", 1), "l1")


def test_a_model_elsewhere_than_the_training_is_refused(tiny, tmp_path, monkeypatch):
    settings = TrainingArguments(str(tmp_path), use_cpu=True)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cuda", 1))
    with pytest.raises(ValueError, match="model is on cpu, but this process trains on cuda:1"):
        check_processes(tiny("llama"), settings)


def test_processes_on_a_machine_share_its_gpus_and_its_memory(tiny, monkeypatch):
    monkeypatch.setattr(planning, "free_memory", lambda device: 1000)
    alone = planning.granted(tiny("llama"), None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert planning.granted(tiny("llama"), None) == alone / 4 == 100
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device(None) == torch.device("cuda:3")
