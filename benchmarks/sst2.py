"""SST-2 on SmolLM2 (Q4_1 weights): LoReFT and DiReFT beside LoRA, and the untouched model.

Every method trains one epoch on the same 2,000 rows, three seeds, at its own best of three
learning rates (chosen on one seed and 500 training rows, scored on 300 rows of the development
split). Test accuracy is on the whole test split.

    REFT_INTERP_DATA=... python benchmarks/sst2.py

Progress goes to standard error. The last line of standard output is one JSON object: method →
accuracy (mean of the seeds), interval, parameters, seconds_per_step, and what led to them.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from data import data_folder
from lora import LoRA
from scipy.stats import t as student

from reft_interp import DiReFT, IntervenedModel, LoReFT, Placement, Site, accuracy, load_model
from reft_interp.evaluation import Accuracy, prepared_accuracy
from reft_interp.interventions import Intervention
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.tasks import LabelledTask, sst2
from reft_interp.training import train

LAYERS = (8, 12, 16, 20, 24)
ON = "l4"
RANK = 8
BATCH = 16
SEEDS = (0, 1, 2)
RATES = {
    "LoReFT": (4e-3, 1e-2, 2e-2),
    "DiReFT": (1e-3, 4e-3, 1e-2),
    "LoRA": (3e-4, 1e-3, 3e-3),
}


@dataclass(frozen=True)
class Trained:
    """One training: what it scores, what it cost."""

    score: Accuracy
    parameters: int
    seconds_per_step: float
    freeze_seconds: float
    """Once before the first step: the constants below and before the edits (ReFT only)."""


Fit = Callable[..., Trained]


class InterventionFit:
    """Trains a ReFT at `LAYERS` on `ON`.

    What the model computes below and before the edits does not depend on the method, its
    learning rate or its seed: it is computed once for each set of rows.
    """

    def __init__(self, model):
        self.model = model
        self._prepared: dict[int, tuple[PreparedRows, float]] = {}

    def __call__(
        self, template: Intervention, rows, held_out, *, learning_rate: float, seed: int
    ) -> Trained:
        """Train on `rows`, score on `held_out`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            placements = [Placement(template, Site("resid_post", layer), ON) for layer in LAYERS]
            intervened = IntervenedModel(self.model, placements)
        prepared, freeze_seconds = self._prepare(intervened, rows)
        began = time.perf_counter()
        losses = train(
            intervened,
            prepared,
            epochs=1,
            learning_rate=learning_rate,
            batch_size=BATCH,
            seed=seed,
            progress=False,
        )
        seconds = time.perf_counter() - began
        scored, _ = self._prepare(intervened, held_out)
        return Trained(
            prepared_accuracy(intervened, scored),
            intervened.trained_parameters,
            seconds / len(losses),
            freeze_seconds,
        )

    def _prepare(self, intervened, rows) -> tuple[PreparedRows, float]:
        if id(rows) not in self._prepared:
            began = time.perf_counter()
            prepared = PreparedRows(intervened, rows)
            self._prepared[id(rows)] = prepared, time.perf_counter() - began
            print(f"{len(prepared)} rows, {prepared.plan}", file=sys.stderr)
        return self._prepared[id(rows)]


def fit_lora(model, rows, held_out, *, learning_rate: float, seed: int) -> Trained:
    """Train LoRA (peft, r=8, queries and values) on the same rows."""
    lora = LoRA(model, rank=8, seed=seed)
    began = time.perf_counter()
    steps = lora.train_on(rows, learning_rate=learning_rate, batch_size=BATCH, seed=seed)
    seconds = time.perf_counter() - began
    score = lora.accuracy(held_out)
    return Trained(score, lora.trained_parameters, seconds / steps, 0.0)


def summary(trained: list[Trained], rate: float, tuned: dict[float, float]) -> dict:
    """Mean over seeds, with an interval that covers both the test rows and the seeds."""
    values = np.array([one.score.value for one in trained])
    n = trained[0].score.n
    mean = float(values.mean())
    # Rows: binomial; seeds: Student's t over so few. The two are independent.
    rows = mean * (1 - mean) / n * 1.96**2
    seeds = values.var(ddof=1) / len(values) * student.ppf(0.975, len(values) - 1) ** 2
    half = float(np.sqrt(rows + seeds))
    return {
        "accuracy": round(mean, 4),
        "interval": [round(mean - half, 4), round(min(mean + half, 1.0), 4)],
        "parameters": trained[0].parameters,
        "seconds_per_step": round(float(np.mean([one.seconds_per_step for one in trained])), 4),
        "freeze_seconds": round(float(np.mean([one.freeze_seconds for one in trained])), 1),
        "seeds": [round(float(v), 4) for v in values],
        "learning_rate": rate,
        "tuning": {str(r): round(v, 4) for r, v in tuned.items()},
        "n": n,
    }


def main() -> None:
    """Run the benchmark and print its table and its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--train", type=int, default=2000, help="training rows")
    parser.add_argument("--test", type=int, default=None, help="test rows; all by default")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = data_folder("glue/sst2.train.tsv")
    task: LabelledTask = sst2(folder / "glue", n_train=given.train, n_test=given.test)
    if task.dev is None:
        sys.exit("the benchmark tunes on a development split, and this copy of SST-2 has none")
    model = load_model("smollm2")
    small = task.train.shuffle(seed=1).select(range(min(500, given.train)))
    tuning = task.dev.shuffle(seed=1).select(range(300))
    fit = InterventionFit(model)
    methods: dict[str, Fit] = {
        "LoReFT": partial(fit, LoReFT(rank=RANK)),
        "DiReFT": partial(fit, DiReFT(rank=RANK)),
        "LoRA": partial(fit_lora, model),
    }
    began = time.perf_counter()
    untouched = accuracy(model, task.test)
    print(f"untouched model: {untouched}", file=sys.stderr)
    result: dict = {
        "untouched": {
            "accuracy": round(untouched.value, 4),
            "interval": [round(x, 4) for x in untouched.interval],
            "parameters": 0,
            "seconds_per_step": 0.0,
            "n": untouched.n,
        }
    }
    for name, method in methods.items():
        tuned = {}
        for rate in RATES[name]:
            tuned[rate] = method(small, tuning, learning_rate=rate, seed=0).score.value
            print(f"{name} at {rate:g}: {tuned[rate]:.3f} on 300 tuning rows", file=sys.stderr)
        rate = max(tuned, key=lambda r: tuned[r])
        trained = []
        for seed in SEEDS:
            trained.append(method(task.train, task.test, learning_rate=rate, seed=seed))
            print(f"{name}, seed {seed}: {trained[-1]}", file=sys.stderr)
        result[name.lower()] = summary(trained, rate, tuned)
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["setting"] = {"layers": LAYERS, "on": ON, "rank": RANK, "train": len(task.train)}
    for name, row in result.items():
        if isinstance(row, dict) and "accuracy" in row:
            low, high = row["interval"]
            print(
                f"{name:10} {row['accuracy']:.3f} [{low:.3f}, {high:.3f}]  "
                f"{row['parameters']:>8,} parameters  {row['seconds_per_step']:.3f} s/step"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
