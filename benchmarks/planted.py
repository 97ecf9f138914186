"""Does DAS find a variable where it was put, and claim nothing where it was not?

Models whose weights are set by hand (`reft_interp.tasks.plantings`): of each, a hypothesis that is
true or false of the tested place by construction. The last line of standard output is one JSON
object: for each planting the largest principal angle to the truth (degrees, null where there is
none), IIA on held-out pairs, whether the evidence claims it, and whether it is so.

    python benchmarks/planted.py
"""

import argparse
import json
import logging
import sys

import reft_interp as ri

BUDGET = {"epochs": 30, "learning_rate": 1e-2}


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
    found = {}
    for planting in ri.tasks.plantings(seed=given.seed):
        print(planting.name, file=sys.stderr)
        found[planting.name] = measure(planting, pairs=given.pairs, seed=given.seed)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
