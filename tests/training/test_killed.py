"""Trainings that are killed, or that find the disk full, lose nothing but the last steps."""

import multiprocessing
import random
import time
import warnings
from pathlib import Path

import one_training
import torch
from safetensors.torch import load_file

from reft_interp.training.checkpoints import last_whole

NEWEST = f"checkpoint-{one_training.STEPS}"


def steps_begun(folder: Path) -> int:
    return max((int(one.name.split("-")[1]) for one in folder.glob("checkpoint-*")), default=0)


def killed(folder: Path, resume: bool, chosen: random.Random, *, in_writing: bool) -> bool:
    """Run the training in a process and kill it; whether it was killed before its end."""
    context = multiprocessing.get_context("forkserver")
    # Imported once for all processes; modules of the tests cannot be in Python 3.11.
    context.set_forkserver_preload(["transformer_lens.model_bridge", "transformers.trainer"])
    process = context.Process(target=one_training.run, args=(folder, resume))
    process.start()
    wanted = steps_begun(folder) + chosen.randrange(1, 5)
    while process.is_alive() and steps_begun(folder) < wanted:
        time.sleep(0.0005)
    if not in_writing:
        time.sleep(chosen.uniform(0, 0.1))
    process.kill()
    process.join()
    return process.exitcode == -9


def test_a_training_that_is_killed_three_times_ends_where_an_undisturbed_one_does(tmp_path):
    chosen = random.Random(0)
    folder, halved = tmp_path / "killed", []
    for attempt in range(3):
        resume = last_whole(folder) is not None
        assert killed(folder, resume, chosen, in_writing=attempt > 0)
        at_kill = last_whole(folder)
        halved.append(at_kill is None or steps_begun(folder) > int(at_kill.name.split("-")[1]))
    # The process was seen to begin a checkpoint and killed at once: so it was while it wrote.
    assert any(halved)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        one_training.run(folder, True)
    if halved[-1]:
        assert any("cannot be used: it lacks" in str(one.message) for one in told)
    undisturbed = tmp_path / "undisturbed"
    one_training.run(undisturbed, False)
    one, other = (
        load_file(f / NEWEST / "interventions.safetensors") for f in (folder, undisturbed)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
