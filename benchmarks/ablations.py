"""What the parts of LoReFT and DiReFT are worth on SST-2, on SmolLM2 (Q4_1 weights).

Rank, layers, tokens, and one intervention for the first and the last tokens or one for each, are
changed one at a time (Wu et al. 2024, arXiv:2404.03592), with three seeds each, at the better of
two learning rates on development rows. Needs GLUE's files.

    REFT_INTERP_DATA=... python benchmarks/ablations.py [--folder ablations]

With a folder it goes on where it was, several processes share it, and it keeps a table and figures.
The last line of standard output is one JSON object: method → score, interval, parameters,
learning_rate, ...; the setting, and all seconds.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from compare import BATCH, LAYERS, ON, RANK, SEEDS, Size, as_json, cut_down, start

import reft_interp as ri
from reft_interp import plotting
from reft_interp.sweeps import Budget, ablations, compare
from reft_interp.tasks.suites import glue
from reft_interp.training.prompting import MostFrequentAnswer

SIZE = Size(steps=48, test=200, tokens=60)
FIGURES = ("rank", "layers", "on")


def variants() -> list[ri.ReFT]:
    """The ReFT of `compare.py`, one setting changed at a time; and one on first and last tokens,
    so that they can be untied."""
    rates = (1e-2, 4e-3)
    base = ri.ReFT(ri.LoReFT(rank=RANK), LAYERS, ON, candidates=rates)
    ends = replace(base, on="f4+l4", name="LoReFT, on f4+l4")
    return [
        *ablations(
            base,
            interventions=[ri.DiReFT],
            ranks=(1, 2, 32),
            layers=((14,), (6, 10), (22, 26), "all"),
            on=("l1", "l2", "l15", "f4"),
        ),
        *ablations(ends, untied=True),
    ]


def main() -> None:
    """Run the ablations and print their table and line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where it is written, and goes on")
    given = parser.parse_args()
    data, model = start("glue/")
    suite = cut_down(glue("sst2", data / "glue"), SIZE, model.tokenizer)
    began = time.perf_counter()
    found = compare(
        model,
        suite,
        [MostFrequentAnswer(), *variants()],
        budget=Budget(SIZE.steps, BATCH, trials=2, seeds=SEEDS, warmup_ratio=0.1),
        folder=given.folder or Path(tempfile.mkdtemp(prefix="ablations-")),
    )
    found.save()
    for setting in FIGURES:
        plotting.save_figure(found.plot_setting(setting), found.folder / f"{setting}.png")
    print(f"\n{found}\n{found.folder}", flush=True)
    line = as_json(found, suite, SIZE) | {"seconds": round(time.perf_counter() - began, 1)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
