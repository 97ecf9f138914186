"""What a sweep loses by screening: number agreement on SmolLM2 (Q4_1 weights).

DAS is trained at every third of 30 layers x 3 selections of tokens. Then `screen_cells`, which runs
one backward pass a batch, keeps some of the places, from training pairs alone. Recall: of the good
places, where DAS's IIA on held-out pairs lies within the interval of the best one's, the share that
was kept; a screening that knows nothing keeps `keep` of them.

    python benchmarks/screening.py

The last line of standard output is one JSON object: keep → recall, best_iia (among the kept);
best_iia of all, the best place, how many places there are and are good, the seconds of both.
"""

import argparse
import json
import logging
import tempfile
import time
from typing import Any

import reft_interp as ri

TOKENS = ["subject", "attractor", "last"]
KEEP = (0.1, 0.2, 0.3, 0.5)


def place(cell: ri.DASCell) -> str:
    """Where a cell is."""
    return f"{cell.site} on {cell.on}"


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=180)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--every", type=int, default=3, help="of the layers, every so many")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    model = ri.load_model("smollm2")
    pairs = ri.tasks.NumberAgreement().counterfactuals(model, n=given.pairs)
    sites = [ri.Site("resid_post", layer) for layer in range(0, model.cfg.n_layers, given.every)]
    cells = ri.grid(sites, TOKENS, ranks=(given.rank,), epochs=3)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = ri.sweep(model, pairs, cells, folder)
    seconds = time.perf_counter() - began
    frame: Any = found.frame
    trained = frame[frame["method"] == "DAS"].sort_values("iia", ascending=False)
    iia = {place(cells[int(row["cell"])]): row["iia"] for row in trained.to_dict("records")}
    good = trained["iia"] >= trained["low"].iloc[0]
    line: dict = {
        "best_iia": max(iia.values()),
        "best": next(iter(iia)),
        "places": len(iia),
        "good": int(good.sum()),
        "sweep_seconds": seconds,
    }
    for keep in KEEP:
        began = time.perf_counter()
        kept = ri.screen_cells(model, pairs.train, cells, keep)
        line["screening_seconds"] = time.perf_counter() - began
        line[str(keep)] = {
            "recall": found.recall(kept),
            "best_iia": max(iia[place(cell)] for cell in kept),
        }
        print(f"keep {keep}: {line[str(keep)]}", flush=True)
    print(trained.head(10).to_string(index=False))
    print(json.dumps(line))


if __name__ == "__main__":
    main()
