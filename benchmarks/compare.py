"""ReFT beside other ways to finetune SmolLM2 (Q4_1 weights), on the suites of the ReFT paper.

Each method trains for the same steps, with three seeds, at the one of its learning rates (as many
for each) that has the lowest loss on development rows; the untouched model is always there, and
what giving the most frequent answer scores. Test rows are few and prompts short, so that it fits
two cores. It needs the suites' files.

    REFT_INTERP_DATA=... python benchmarks/compare.py [--full] [--folder comparison]

`--full` adds RTE, ARC-Easy, OBQA and CoLA, and DoRA, prefix tuning and (IA)³. With a folder it goes
on where it was, and keeps tables, figures, outputs and what was trained.

Progress goes to standard error. The last line of standard output is one JSON object: suite →
method → score, interval, parameters, seconds_per_step, preparation_seconds, memory, learning_rate;
and the suite's metric, steps and rows; and all seconds.
"""

import argparse
import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data import data_folder
from datasets import Dataset, disable_progress_bars
from transformer_lens.model_bridge import TransformerBridge

import reft_interp as ri
from reft_interp.interop.peft_methods import dora, ia3, lora, prefix_tuning, prompt_tuning
from reft_interp.sweeps import Budget, MethodComparison, compare
from reft_interp.tasks.suites import Suite, commonsense, glue, mawps
from reft_interp.training.finetuning import FinetuningMethod
from reft_interp.training.prompting import MostFrequentAnswer
from reft_interp.training.reft_method import ReFT

LAYERS, ON, RANK = (6, 10, 14, 18, 22, 26), "l4", 8
BATCH = 8
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Size:
    """How much of a suite is used."""

    steps: int
    test: int
    tokens: int
    """Rows whose prompts have more are left out, of all splits."""
    development: int = 64


SIZES = {
    "SST-2": Size(steps=24, test=150, tokens=60),
    "BoolQ": Size(steps=24, test=150, tokens=60),
    "MAWPS": Size(steps=16, test=60, tokens=100),
    "RTE": Size(steps=24, test=120, tokens=80),
    "ARC-Easy": Size(steps=24, test=120, tokens=100),
    "OBQA": Size(steps=24, test=120, tokens=100),
    "CoLA": Size(steps=32, test=200, tokens=60),
}
DEFAULT = ("SST-2", "BoolQ", "MAWPS")
BY_DEFAULT = 5
"""How many of the methods run without `--full`."""


def methods() -> list[FinetuningMethod]:
    """What is compared: ReFTs on the last tokens of a fifth of the layers, and peft's."""
    rates = (1e-2, 4e-3)
    return [
        MostFrequentAnswer(),
        ReFT(ri.LoReFT(rank=RANK), LAYERS, ON, candidates=rates),
        ReFT(ri.DiReFT(rank=RANK), LAYERS, ON, candidates=rates),
        lora(8, candidates=(3e-3, 1e-3)),
        prompt_tuning(10, candidates=(3e-2, 1e-1)),
        dora(8, candidates=(3e-3, 1e-3)),
        prefix_tuning(10, candidates=(1e-2, 3e-2)),
        ia3(candidates=(1e-2, 3e-2)),
    ]


def one_of(folder: Path, name: str) -> Suite:
    """One data set of commonsense, with development rows of its own."""
    suite = commonsense(folder, n_development=1000)

    def own(split: Dataset | None) -> Dataset | None:
        return split and split.filter(lambda row: row["dataset"] == name)

    return replace(
        suite,
        name=name,
        train=own(suite.train),
        development=own(suite.development),
        tests={name: suite.tests[name]},
    )


def suites(data: Path) -> dict[str, Callable[[], Suite]]:
    """How each is read."""
    return {
        "SST-2": lambda: glue("sst2", data / "glue"),
        "BoolQ": lambda: one_of(data / "commonsense", "boolq"),
        "MAWPS": lambda: mawps(data / "arithmetic"),
        "RTE": lambda: glue("rte", data / "glue"),
        "ARC-Easy": lambda: one_of(data / "commonsense", "ARC-Easy"),
        "OBQA": lambda: one_of(data / "commonsense", "openbookqa"),
        "CoLA": lambda: glue("cola", data / "glue"),
    }


def cut_down(suite: Suite, size: Size, tokenizer) -> Suite:
    """The suite at this size: short prompts, of all splits alike, drawn by a fixed seed."""

    def short(split: Dataset | None) -> Dataset | None:
        return split and split.filter(
            lambda row: len(tokenizer(row["prompt"])["input_ids"]) <= size.tokens
        )

    tests = {name: kept for name, test in suite.tests.items() if (kept := short(test))}
    kept = replace(suite, train=short(suite.train), development=short(suite.development),
                   tests=tests)  # fmt: skip
    development = len(kept.development) if kept.development is not None else 0
    return kept.select(
        min(size.steps * BATCH, len(kept.train) if kept.train is not None else 0),
        size.test,
        n_development=min(size.development, development),
    )


def as_json(found: MethodComparison, suite: Suite, size: Size) -> dict:
    """What is reported of one suite."""
    lines = {}
    for row in found.frame.to_dict("records"):
        if isinstance(row["error"], str):
            lines[row["method"]] = {"error": row["error"]}
            continue
        lines[row["method"]] = {
            "score": round(row["score"], 4),
            "interval": [round(row["low"], 4), round(row["high"], 4)],
            "parameters": int(row["parameters"]),
            "seconds_per_step": _number(row["seconds_per_step"]),
            "preparation_seconds": _number(row["preparation_seconds"]),
            "seconds_to_target": _number(row["seconds_to_target"]),
            "memory": _number(row["memory"]),
            "file_bytes": _number(row["file_bytes"]),
            "learning_rate": _number(row["chosen"]),
            "seeds": int(row["seeds"]),
            "n": int(row["n"]),
        }
    lines["setting"] = {
        "metric": suite.metric.name,
        "steps": size.steps,
        "batch": BATCH,
        "rows": 0 if suite.train is None else len(suite.train),
        "longest prompt (tokens)": size.tokens,
        "hash": suite.hash,
    }
    return lines


def _number(value: float) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 4)


def start(folders: str) -> tuple[Path, TransformerBridge]:
    """The folder of data, and the model; nothing but the results is printed from here on.

    Args:
        folders: what the folder of data must hold, for who has none.
    """
    data = data_folder(folders)
    logging.disable(logging.WARNING)
    disable_progress_bars()
    return data, ri.load_model("smollm2")


def main() -> None:
    """Run the comparison and print its tables and its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--full", action="store_true", help="more suites and methods")
    parser.add_argument("--suites", nargs="+", choices=list(SIZES), help="only these")
    known = {method.name: method for method in methods()}
    parser.add_argument("--methods", nargs="+", choices=list(known), help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--folder", type=Path, help="where it is written, and goes on")
    given = parser.parse_args()
    data, model = start("glue/, commonsense/, arithmetic/")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="compare-"))
    chosen = given.methods or list(known)[: None if given.full else BY_DEFAULT]
    began, line = time.perf_counter(), {}
    for name in given.suites or (SIZES if given.full else DEFAULT):
        size = SIZES[name]
        suite = cut_down(suites(data)[name](), size, model.tokenizer)
        found = compare(
            model,
            suite,
            [known[one] for one in chosen],
            budget=Budget(size.steps, BATCH, trials=2, seeds=tuple(given.seeds), warmup_ratio=0.1),
            folder=folder / name,
        )
        print(f"\n{name}\n{found}\n{', '.join(map(str, found.save()))}", flush=True)
        line[name] = as_json(found, suite, size)
        print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    line["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
