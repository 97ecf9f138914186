"""CausalGym on SmolLM2 (Q4_1 weights): log odds ratios of one-dimensional features.

As Arora et al. 2024 (arXiv:2402.12560) have it: 400 training pairs, one epoch of batches of four,
100 held-out pairs, the residual stream at the last token of each region. The score of a task is
the mean over layers of the best region's log odds ratio (nats); selectivity is the largest
difference, of any region, from what the same method reaches there on the control task, whose
answers no sentence implies (DAS is trained on it, the others' directions stay). As in the paper's
code both regions are chosen on the held-out pairs, each by itself, so that the one that is most
selective need not be the one that moves the answer furthest. Needs CausalGym's templates.

    REFT_INTERP_DATA=... python benchmarks/causalgym.py

Progress goes to standard error. The last line of standard output is one JSON object: method →
log_odds_ratio and selectivity, means over tasks; the tasks one by one; and the seconds.
"""

import argparse
import itertools
import json
import logging
import sys
import time

import pandas as pd
from data import data_folder

import reft_interp as ri
from reft_interp.causal.labelled_activations import labelled_activations_each
from reft_interp.causal.reading_methods import ReadingMethod

READING: dict[str, ReadingMethod] = {
    "difference of means": ri.DifferenceOfMeans(),
    "logistic probe": ri.LogisticProbe(),
    "LDA": ri.LinearDiscriminant(),
    "PCA": ri.PCA(),
}
CONTROL = "control"


def measure(model, task: ri.tasks.CausalGymTask, layers: list[int], seed: int) -> pd.DataFrame:
    """Log odds ratios on the task and on its control: method, layer, region, task, control."""
    pairs = task.counterfactuals(seed=seed)
    control = task.counterfactuals(seed=seed, control=True)
    places = [
        (ri.Site("resid_post", layer), ri.span(region))
        for layer, region in itertools.product(layers, task.regions)
    ]
    cells = [ri.DASCell(site, on, epochs=1, batch_size=4, seed=seed) for site, on in places]
    trained, on_control = (
        [found.subspace for found in ri.fit_das_each(model, of.train, cells, progress=False)]
        for of in (pairs, control)
    )
    held = labelled_activations_each(model, pairs.train, pairs.variable, places)
    edits: dict[str, list[ri.Intervention]] = {
        "whole vector": [ri.Interchange(site.width(model)) for site, _ in places],
        "DAS": [ri.DistributedInterchange(one) for one in trained],
        f"DAS {CONTROL}": [ri.DistributedInterchange(one) for one in on_control],
        **{
            name: [method.from_activations(*one) for one in held]
            for name, method in READING.items()
        },
        "random": [
            ri.DistributedInterchange(ri.Subspace.random(site.width(model), 1, seed=10**6 + i))
            for i, (site, _) in enumerate(places)
        ],
    }
    every = [
        (edit, site, on)
        for of in edits.values()
        for edit, (site, on) in zip(of, places, strict=True)
    ]
    names = [(name, site.layer, on.name) for name in edits for site, on in places]
    frame = pd.DataFrame(names, columns=["method", "layer", "region"])
    frame["task"] = ri.log_odds_ratios(model, pairs.test, every).mean(1)
    # The same sentences: what differs is which words are looked at.
    frame[CONTROL] = ri.log_odds_ratios(model, control.test, every).mean(1)
    # DAS is trained anew on the control task: that is what is scored there.
    is_control = frame["method"] == f"DAS {CONTROL}"
    frame.loc[frame["method"] == "DAS", CONTROL] = frame.loc[is_control, CONTROL].to_numpy()
    return frame.loc[~is_control].assign(name=task.name)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each task and method: the largest of either score over the regions of each layer, averaged
    over layers, as CausalGym's `plot.py` has it."""
    frame = frame.assign(selectivity=frame["task"] - frame[CONTROL])
    best = frame.pivot_table(
        index=["name", "method", "layer"], values=["task", "selectivity"], aggfunc="max", sort=False
    ).reset_index()
    means = best.pivot_table(index=["name", "method"], values=["task", "selectivity"], sort=False)
    return means.rename(columns={"task": "log_odds_ratio"}).reset_index()


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", help="names of tasks; default: all 29")
    parser.add_argument("--every", type=int, default=1, help="of the layers, every so many")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    templates = data_folder("causalgym/") / "causalgym" / "templates"
    logging.disable(logging.WARNING)
    model = ri.load_model("smollm2")
    tasks = ri.tasks.causalgym(templates / "syntaxgym.json")
    layers = list(range(given.every - 1, model.cfg.n_layers, given.every))
    began, frames = time.perf_counter(), []
    for name in given.tasks or tasks:
        frames.append(measure(model, tasks[name], layers, given.seed))
        seconds = time.perf_counter() - began
        print(f"{scores(frames[-1]).to_string(index=False)}\n{seconds:.0f} s", file=sys.stderr)
    found = scores(pd.concat(frames))
    means = found.pivot_table(index="method", values=["log_odds_ratio", "selectivity"], sort=False)
    print(found.pivot(index="name", columns="method", values="log_odds_ratio").round(2).to_string())
    print(f"\n{means.round(2).to_string()}")
    line = {
        "methods": means.round(4).T.to_dict(),
        "tasks": found.round(4).to_dict("records"),
        "layers": layers,
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
