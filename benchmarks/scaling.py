"""How the time of a DAS step, and the memory of what is frozen, grow with the problem.

One thing at a time is varied around 16 rows of 40 tokens, layer 15, rank 8, one cell. The plot is
`benchmarks/scaling.png`; the last line of standard output is one JSON object.

    python benchmarks/scaling.py
"""

import json
import logging
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from sides import rounds_asked, seconds, texts
from torch.nn.functional import cross_entropy

from reft_interp import (
    DistributedInterchange,
    IntervenedModel,
    Placement,
    Site,
    Subspace,
    load_model,
    prepare_each,
)
from reft_interp.encoding import IGNORED
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.running import answer_positions

USUAL = {"layer": 15, "tokens": 40, "rows": 16, "cells": 1, "rank": 8}
VARIED = {
    "layer": (0, 5, 10, 15, 20, 25, 28),
    "tokens": (20, 40, 80, 160, 320),
    "rows": (4, 16, 64, 128, 256),
    "cells": (1, 2, 4, 8, 16),
    "rank": (1, 8, 64, 288),
}


def measure(
    model, *, layer: int, tokens: int, rows: int, cells: int, rank: int, rounds: int
) -> dict:
    """Median seconds of a step over all cells, and MB of constants."""
    base = texts(model.tokenizer, rows, tokens, seed=0)
    sources = texts(model.tokenizer, rows, tokens, seed=1)
    data = [{"prompt": prompt, "answer": " is"} for prompt in base]
    placed = []
    for seed in range(cells):
        start = Subspace.random(model.cfg.d_model, rank, seed=seed)
        edit = DistributedInterchange(start, trainable=True)
        placed.append(IntervenedModel(model, Placement(edit, Site("resid_post", layer), "last")))
    prepared = prepare_each([(one, data, sources) for one in placed])
    optimiser = torch.optim.AdamW([p for one in placed for p in one.parameters()], lr=5e-3)

    def step() -> None:
        shares = []
        for one, held in zip(placed, prepared, strict=True):
            inputs = held.inputs(range(rows))
            shares.append(Share(one, inputs, answer_positions(model, inputs["batch"])))
        losses = []
        for share, logits in zip(shares, joint_logits(shares), strict=True):
            labels = share.inputs["batch"].labels
            losses.append(cross_entropy(logits, labels[labels != IGNORED]))
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()

    step()
    taken = statistics.median(seconds(step) for _ in range(rounds))
    return {"seconds": taken, "megabytes": prepared[0].plan.nbytes / 1e6}


def draw(found: dict[str, dict[str, dict]]) -> Figure:
    """Seconds and megabytes against each thing that was varied, all on the same two scales."""
    figure, axes = plt.subplots(2, len(found), figsize=(13, 5), sharey="row", layout="constrained")
    for column, (name, values) in enumerate(found.items()):
        for row, key in enumerate(("seconds", "megabytes")):
            ax = axes[row, column]
            ax.plot([int(value) for value in values], [at[key] for at in values.values()], "o-")
            ax.set_xlabel(name)
            if name != "layer":
                ax.set_xscale("log", base=2)
                ax.xaxis.set_major_formatter("{x:g}")
            ax.spines[["top", "right"]].set_visible(False)
    for row, label in enumerate(("seconds a step", "MB of constants")):
        axes[row, 0].set_ylabel(label)
        axes[row, 0].set_ylim(bottom=0)  # once all have drawn: they share their scale
    figure.suptitle(
        "DAS on SmolLM2, two CPU cores: one thing varied around "
        + ", ".join(f"{name} {value}" for name, value in USUAL.items())
    )
    return figure


def main() -> None:
    """Run the benchmark, draw the plot and print its line of JSON."""
    rounds = rounds_asked(__doc__, usual=3)
    logging.disable(logging.WARNING)
    model = load_model("smollm2")
    found: dict[str, dict[str, dict]] = {}
    for name, values in VARIED.items():
        found[name] = {}
        for value in values:
            at = measure(model, **{**USUAL, name: value}, rounds=rounds)
            found[name][str(value)] = {key: round(number, 4) for key, number in at.items()}
            print(
                f"{name} {value}: {at['seconds']:.3f} s, {at['megabytes']:.1f} MB", file=sys.stderr
            )
    draw(found).savefig(Path(__file__).parent / "scaling.png", dpi=150)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
