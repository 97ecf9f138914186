"""Does DAS find a variable where it was put, and claim nothing where it was not?

Models whose weights are set by hand (`reft_interp.tasks.plantings`): of each, a hypothesis that is
true or false of the tested place by construction. Every method is compared in a table; DAS is
then trained once more with all controls. The last line of standard output is one JSON object, of
DAS: for each planting the largest principal angle to the truth (degrees, null where there is none),
IIA on held-out pairs, whether the evidence claims it, and whether it is so.

    python benchmarks/planted.py
"""

import argparse
import json
import logging
import sys

import pandas as pd

import reft_interp as ri
from reft_interp.causal.method_comparison import with_untrained

BUDGET = {"epochs": 30, "learning_rate": 1e-2}


def methods(rank: int, seed: int) -> list[ri.Method]:
    """All of them, at the planted rank where they have one."""
    return [
        ri.FullVector(),
        ri.DAS(rank=rank, seed=seed, epochs=30, learning_rate=1e-2),
        ri.BoundlessDAS(epochs=60, seed=seed),
        ri.MaskSearch(name="mask over neurons", epochs=30, seed=seed),
        ri.MaskSearch(name="mask over principal components", components=16, epochs=30, seed=seed),
        ri.MaskSearch(name="mask over singular vectors", singular=16, epochs=30, seed=seed),
        ri.NonlinearAlignment(rank=rank, seed=seed, epochs=30, learning_rate=1e-2),
        ri.PCA(rank=rank),
        ri.DifferenceOfMeans(),
        ri.LinearDiscriminant(),
        ri.LogisticProbe(),
        ri.RandomSubspace(rank=rank, seed=seed),
    ]


def compare(planting, *, pairs: int, seed: int) -> list[dict]:
    """Of each method: IIA on held-out pairs, the rank it found, and how far that is from the truth.

    The largest angle between what was found and the truth (degrees), where the ranks agree. A free
    map finds no subspace: it has its IIA alone, and beside it that on an untrained copy.
    """
    data = planting.counterfactuals(pairs, seed)
    return [
        {"planting": planting.name, "method": name} | _score(planting, model, method, data)
        for model, named in with_untrained(planting.model, methods(planting.rank, seed))
        for name, method in named.items()
    ]


def _score(planting, model, method: ri.Method, data: ri.Counterfactuals) -> dict:
    try:
        edit = method.fit(model, data.train, data.variable, planting.site, planting.on)
        found = None if isinstance(edit, ri.NonlinearInterchange) else edit.subspace
    except ValueError as error:  # a reader of several variables, a mask that chose nothing
        return {"note": str(error)}
    score = ri.interchange_accuracy(model, data.test, edit, planting.site, planting.on)
    line = {"iia": score.value}
    if found is not None:
        line["rank"] = found.rank
        if planting.subspace is not None and found.rank == planting.subspace.rank:
            line["angle"] = float(found.principal_angles(planting.subspace).max())
    return line


def measure(planting, *, pairs: int, seed: int) -> dict:
    """DAS with its controls on one planting."""
    evidence = ri.gather_evidence(
        planting.model,
        planting.counterfactuals(pairs, seed),
        planting.site,
        planting.on,
        rank=planting.rank,
        seed=seed,
        progress=False,
        **BUDGET,
    )
    angle = None
    if planting.subspace is not None:
        angle = float(evidence.subspace.principal_angles(planting.subspace).max())
    print(
        f"\n{planting.name}: {planting.description}\n{evidence}\n{evidence.summary()}", flush=True
    )
    return {
        "angle_degrees": angle if angle is None else round(angle, 2),
        "iia": round(evidence.iia.value, 4),
        "claims": evidence.holds,
        "truth": planting.truth,
    }


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    found, lines = {}, []
    for planting in ri.tasks.plantings(seed=given.seed):
        print(planting.name, file=sys.stderr)
        lines += compare(planting, pairs=given.pairs, seed=given.seed)
        found[planting.name] = measure(planting, pairs=given.pairs, seed=given.seed)
    print(pd.DataFrame(lines).round(3).to_string(index=False, max_colwidth=60))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
