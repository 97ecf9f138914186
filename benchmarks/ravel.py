"""RAVEL on SmolLM2 (Q4_1 weights): cause, isolate, disentangle, for every method.

The model is asked first what it knows; attributes that it does not know are left out, and what is
left is reported. Needs RAVEL's files.

    REFT_INTERP_DATA=... python benchmarks/ravel.py

Progress goes to standard error. The last line of standard output is one JSON object: entity type →
how much is known, and method → cause, isolate, disentangle, low, high (means over attributes); and
the seconds.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from data import data_folder

import reft_interp as ri
from reft_interp.plotting import save_figure

RANK = 32


def methods() -> list[ri.Method]:
    """All at one rank where they have one; those that read have the directions between values.

    Those that train do not train alike: of 320 pairs DAS has 300 steps, multi-task DAS 600 (it has
    pairs of kind "isolate", too), boundless DAS 200 and the masks 60, their own defaults.
    """
    return [
        ri.FullVector(),
        ri.DAS(rank=RANK, epochs=15, learning_rate=1e-2, isolate=True, name="multi-task DAS"),
        ri.DAS(rank=RANK, epochs=15, learning_rate=1e-2),
        ri.BoundlessDAS(),
        ri.MaskSearch(name="mask over neurons"),
        ri.MaskSearch(components=64, name="mask over principal components"),
        ri.PCA(rank=RANK),
        ri.DifferenceOfMeans(),
        ri.LinearDiscriminant(),
        ri.LogisticProbe(),
        ri.RandomSubspace(rank=RANK),
    ]


def measure(model, folder: Path, kind, given: argparse.Namespace) -> dict:
    """One entity type: what is known of it, and what methods make of that."""
    began = time.perf_counter()
    known = ri.tasks.ravel_knowledge(
        model, ri.tasks.ravel(folder, kind), entities=given.entities, seed=given.seed
    )
    asked = time.perf_counter()
    print(f"\n{known}\n{known.left.to_string(index=False)}", flush=True)
    found = {
        "known": {row["attribute"]: row for row in known.left.to_dict("records")},
        "knowledge_seconds": round(asked - began, 1),
    }
    pairs, left_out = [], {}
    for attribute in known.attributes:
        try:
            pairs.append(
                known.pairs(attribute, n_train=given.train, n_test=given.test, seed=given.seed)
            )
        except ValueError as error:
            left_out[attribute] = str(error)
            print(error, file=sys.stderr)
    found["left_out"] = left_out
    if not pairs:
        return found
    for layer in given.layers:
        began = time.perf_counter()
        result = ri.disentanglement(model, pairs, ri.Site("resid_post", layer), "entity", methods())
        print(f"\n{result}", flush=True)
        if given.figures:
            given.figures.mkdir(parents=True, exist_ok=True)
            save_figure(result.plot(), given.figures / f"ravel-{kind}-{layer}.png")
        means = result.frame.loc[result.frame["attribute"] == "mean"].set_index("method")
        columns = ["cause", "isolate", "disentangle", "low", "high", "n"]
        found[f"layer {layer}"] = {
            "methods": means[columns].round(4).T.to_dict(),
            "seconds": round(time.perf_counter() - began, 1),
        }
    return found


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--types", nargs="+", default=["city", "physical_object", "verb"])
    parser.add_argument("--layers", nargs="+", type=int, default=[10])
    parser.add_argument("--entities", type=int, default=200)
    parser.add_argument("--train", type=int, default=320)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, help="a folder for a figure of each type and layer")
    given = parser.parse_args()
    folder = data_folder("ravel/") / "ravel"
    logging.disable(logging.WARNING)
    model = ri.load_model("smollm2")
    print(json.dumps({kind: measure(model, folder, kind, given) for kind in given.types}))


if __name__ == "__main__":
    main()
