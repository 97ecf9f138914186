"""Hierarchical equality: DAS on each variable, on both at once, and on a wrong hypothesis.

A llama of three layers is trained on the task. DAS of rank 8 looks for each variable at every
layer and at the second, the fourth and the last token; the best place on training pairs is scored
on held-out pairs, with its controls. "both" swaps the two variables at once, each from a source of
its own, as pyvene's tutorial does (which reports 100 % there, on a multilayer perceptron). The last
line of standard output is one JSON object: variable → iia, low, high, holds, where.

    python benchmarks/hierarchical_equality.py
"""

import argparse
import json
import logging
import time
from typing import Any

import reft_interp as ri

TOKENS = ["b", "d", "last"]
RANK = 8
BUDGET = {"epochs": 10, "learning_rate": 1e-2}


def best_place(model, pairs, seed: int) -> tuple[ri.Site, str]:
    """Where DAS scores best on the pairs that it was trained on."""
    sites = [ri.Site("resid_post", layer) for layer in range(model.cfg.n_layers)]
    cells = ri.grid(sites, TOKENS, ranks=[RANK], seeds=[seed], **BUDGET)
    found = ri.fit_das_each(model, pairs.train, cells, progress=False)
    scores = ri.interchange_accuracies(
        model,
        pairs.train,
        [(ri.DistributedInterchange(one.subspace), one.site, one.on) for one in found],
    )
    values = [score.value for score in scores]
    best = cells[values.index(max(values))]
    return best.site, str(best.on)


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    model = ri.tasks.train_equality_model(progress=False)
    found: dict[str, Any] = {"training_seconds": round(time.perf_counter() - began, 1)}
    task, wrong = ri.tasks.hierarchical_equality(), ri.tasks.first_object_hypothesis()
    places: dict[str, tuple[ri.Site, str]] = {}
    for of, variable in ((task, "left"), (task, "right"), (wrong, "first")):
        pairs = of.counterfactuals(model, variable, n=given.pairs, seed=given.seed)
        # The wrong hypothesis is tested where the right one is found.
        site, on = places["left"] if of is wrong else best_place(model, pairs, given.seed)
        places[variable] = site, on
        evidence = ri.gather_evidence(
            model, pairs, site, on, rank=RANK, seed=given.seed, progress=False, **BUDGET
        )
        print(f"\n{variable}\n{evidence}\n{evidence.summary()}", flush=True)
        low, high = evidence.iia.interval
        found[variable] = {
            "iia": round(evidence.iia.value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "holds": evidence.holds,
            "where": f"{site} on {on}",
        }
    both = task.counterfactuals(
        model, ["left", "right"], n=given.pairs, seed=given.seed, own_sources=True
    )
    joint = ri.fit_das_jointly(
        model,
        both.train,
        {name: (*places[name], RANK) for name in ("left", "right")},
        seed=given.seed,
        progress=False,
        **BUDGET,
    )
    score = joint.score(both.test)
    low, high = score.interval
    found["both"] = {"iia": round(score.value, 4), "low": round(low, 4), "high": round(high, 4)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
