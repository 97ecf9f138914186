"""A sweep that is killed three times gives the table of one that is not.

SmolLM2, number agreement, 30 layers x 3 selections of tokens x ranks 1 and 8. A process runs the
sweep and is killed (SIGKILL) at three random moments; each time another goes on. Then the same
sweep runs undisturbed in a new folder. The last line of standard output is one JSON object.

    python benchmarks/killed_sweep.py
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

import pandas as pd

import reft_interp as ri

TOKENS = ["subject", "attractor", "last"]
RANKS = (1, 8)
KILLS = 3


def run(folder: Path, pairs: int, layers: int) -> ri.Sweep:
    """The sweep, or what is left of it."""
    logging.disable(logging.WARNING)
    model = ri.load_model("smollm2")
    sites = [ri.Site("resid_post", layer) for layer in range(layers)]
    data = ri.tasks.NumberAgreement().counterfactuals(model, n=pairs)
    return ri.sweep(model, data, ri.grid(sites, TOKENS, ranks=RANKS, epochs=2), folder)


def finished(folder: Path) -> int:
    """How many cells are on disk."""
    return len(list((folder / "cells").glob("*.json")))


def killed(folder: Path, pairs: int, layers: int, chosen: random.Random) -> list[int]:
    """Run the sweep in processes of which three are killed.

    Each is killed once a random number of cells has been finished since it began, and then a
    random time later. Returns how many cells were on disk at each kill.

    Raises:
        RuntimeError: a process ended before it was killed.
    """
    total, at = layers * len(TOKENS) * len(RANKS), []
    for _ in range(KILLS):
        process = multiprocessing.get_context("spawn").Process(
            target=run, args=(folder, pairs, layers)
        )
        process.start()
        wanted = finished(folder) + chosen.randrange(1, total // (KILLS + 1))
        while process.is_alive() and finished(folder) < wanted:
            time.sleep(0.2)
        time.sleep(chosen.uniform(0, 3))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"a sweep ended by itself, with {process.exitcode}: nothing to kill")
        at.append(finished(folder))
        print(f"killed with {at[-1]} of {total} cells on disk", file=sys.stderr)
    return at


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        at = killed(Path(place) / "killed", given.pairs, given.layers, random.Random(given.seed))
        resumed = run(Path(place) / "killed", given.pairs, given.layers)
        began = time.perf_counter()
        undisturbed = run(Path(place) / "undisturbed", given.pairs, given.layers)
        taken = time.perf_counter() - began
        try:
            pd.testing.assert_frame_equal(resumed.frame, undisturbed.frame, check_exact=True)
            same = True
        except AssertionError as error:
            print(error, file=sys.stderr)
            same = False
        angles = [
            resumed.subspace(i).principal_angles(undisturbed.subspace(i)).max()
            for i in range(given.layers * len(TOKENS) * len(RANKS))
        ]
    print(undisturbed)
    line = {
        "same_table": same,
        "largest_angle_degrees": round(float(max(angles)), 6),
        "cells": len(angles),
        "kills": len(at),
        "cells_on_disk_at_each_kill": at,
        "undisturbed_seconds": round(taken, 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
