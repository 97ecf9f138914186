"""A training that is killed ten times ends with the weights of one that is not, bit for bit.

SmolLM2 learns to name a subject's number: LoReFT of rank 4 with dropout, a checkpoint at each step.
A process runs the training and is killed (SIGKILL), five times at a random moment, and five times
as soon as a new checkpoint's folder is seen, so while it is written; each time another goes on.
Then the same training runs undisturbed in a new folder. The last line of standard output is one
JSON object.

    python benchmarks/killed_training.py
"""

import argparse
import json
import logging
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

import reft_interp as ri
from reft_interp.training.checkpoints import last_whole

KILLS = 10


def run(folder: Path, steps: int, resume: bool) -> None:
    """The training, or what is left of it."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    ri.fit_reft(
        ri.load_model("smollm2", device="cpu"),
        ri.tasks.number_naming().train.select(range(64)),
        ri.LoReFT(rank=4, dropout=0.1),
        ri.Site("resid_post", 12),
        on="subject",
        batch_size=4,
        max_steps=steps,
        checkpoints=folder,
        save_strategy="steps",
        save_steps=1,
        resume=resume,
        progress=False,
    )


def number(checkpoint: Path | None) -> int:
    """The step of a checkpoint; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.split("-")[1])


def begun(folder: Path) -> int:
    """The newest checkpoint of which there is a folder, whole or not."""
    return max(map(number, folder.glob("checkpoint-*")), default=0)


def killed(folder: Path, steps: int, chosen: random.Random) -> tuple[list[int], int]:
    """Run the training in processes that are killed.

    Returns the step of the newest whole checkpoint at each kill, and at how many kills there was a
    newer one that is not whole.

    Raises:
        RuntimeError: a process ended before it was killed.
    """
    at, halved = [], 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reft_interp.training", "reft_interp.models"])
    for kill in range(KILLS):
        process = context.Process(target=run, args=(folder, steps, last_whole(folder) is not None))
        process.start()
        wanted = begun(folder) + chosen.randrange(1, max(2, steps // (KILLS + 1)))
        while process.is_alive() and begun(folder) < wanted:
            time.sleep(0.0005)
        if kill % 2 == 0:
            time.sleep(chosen.uniform(0, 1))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(
                f"a training ended by itself, with {process.exitcode}: nothing to kill"
            )
        at.append(number(last_whole(folder)))
        halved += begun(folder) > at[-1]
        print(f"killed; {at[-1]} of {steps} steps are on disk", file=sys.stderr)
    return at, halved


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, undisturbed = Path(place) / "killed", Path(place) / "undisturbed"
        at, halved = killed(folder, given.steps, random.Random(given.seed))
        run(folder, given.steps, resume=last_whole(folder) is not None)
        began = time.perf_counter()
        run(undisturbed, given.steps, resume=False)
        taken = time.perf_counter() - began
        name = f"checkpoint-{given.steps}/interventions.safetensors"
        one, other = load_file(folder / name), load_file(undisturbed / name)
        same = one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    line = {
        "same_weights_bit_for_bit": same,
        "kills": len(at),
        "steps": given.steps,
        "steps_on_disk_at_each_kill": at,
        "kills_that_left_half_a_checkpoint": halved,
        "undisturbed_seconds": round(taken, 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
