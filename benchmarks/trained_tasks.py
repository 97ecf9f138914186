"""Tasks for small models: does a search find the variables of the right causal model?

For each task and seed a small llama is trained from its answers alone, and another one is taught
the variables too, after the word at which they can be known. The place is where swapping the whole
vector does most on training pairs, and the claim is `gather_evidence`'s there on held-out ones; of
a wrong hypothesis at the same place too. It takes about a minute and a half a model on one core.

    python benchmarks/trained_tasks.py [--seeds 0 1 2]

Progress goes to standard error. The last line of standard output is one JSON object: task →
variable → "alone" and "taught" → a list over seeds of {accuracy, place, whole, iia, interval,
holds}, and the same under the wrong hypothesis's name.
"""

import argparse
import itertools
import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import reft_interp as ri
from reft_interp import tasks
from reft_interp.tasks import CausalTask

RANK, EPOCHS, RATE, PAIRS = 8, 10, 1e-2, 300


@dataclass(frozen=True)
class Question:
    """A task with the variables that are looked for, and a hypothesis that should fail."""

    task: CausalTask
    taught: Mapping[str, int]
    """Variables, and the word after which each can be known."""
    wrong: CausalTask
    wrong_variable: str


QUESTIONS = {
    "price tagging": Question(
        tasks.price_tagging(),
        {"above_lower": 3, "below_upper": 5},
        tasks.price_midpoint_hypothesis(),
        "middle",
    ),
    "greater-than": Question(
        tasks.greater_than(),
        {"tens": 3, "ones": 4},
        tasks.kept_input_hypothesis(tasks.greater_than(), "a_ones"),
        "kept_a_ones",
    ),
    "two-digit addition": Question(
        tasks.two_digit_addition(),
        {"carry": 4},
        tasks.kept_input_hypothesis(tasks.two_digit_addition(), "a_ones"),
        "kept_a_ones",
    ),
    "multiple choice": Question(
        tasks.multiple_choice(),
        {"pointer": 7},
        tasks.kept_input_hypothesis(tasks.multiple_choice(), "symbols"),
        "kept_symbols",
    ),
}


def best_place(model, task: CausalTask, variable: str, words: int) -> tuple[ri.Site, int, float]:
    """Where swapping the whole vector moves most training pairs."""
    pairs = task.counterfactuals(model, variable, n=PAIRS, seed=0)
    places = list(itertools.product(range(model.cfg.n_layers), range(words)))
    swaps = [(ri.Interchange(), ri.Site("resid_post", layer), word) for layer, word in places]
    found = ri.interchange_accuracies(model, pairs.train, swaps)
    best = max(range(len(places)), key=lambda i: found[i].value)
    layer, word = places[best]
    return ri.Site("resid_post", layer), word, found[best].value


def claim(model, task: CausalTask, variable: str, site: ri.Site, on: int, seed: int) -> dict:
    """What the evidence at a place says."""
    pairs = task.counterfactuals(model, variable, n=PAIRS, seed=1)
    found = ri.gather_evidence(
        model, pairs, site, on, rank=RANK, epochs=EPOCHS, learning_rate=RATE, seed=seed,
        progress=False,
    )  # fmt: skip
    return {
        "accuracy": pairs.model_accuracy,
        "iia": found.iia.value,
        "interval": [round(x, 3) for x in found.iia.interval],
        "holds": found.holds,
    }


def measure(name: str, seed: int, *, taught: bool) -> dict[str, dict]:
    """One model: variable → what was found."""
    asked = QUESTIONS[name]
    model = tasks.train_small_model(
        asked.task, seed=seed, taught=asked.taught if taught else {}, progress=False
    )
    words = len(
        asked.task.counterfactuals(None, next(iter(asked.taught)), n=10).test[0]["base"].split()
    )
    found: dict[str, dict] = {}
    for variable in asked.taught:
        site, word, whole = best_place(model, asked.task, variable, words)
        place = {"place": f"{site} word {word}", "whole": round(whole, 3)}
        found[variable] = claim(model, asked.task, variable, site, word, seed) | place
        if len(found) == 1:
            wrong = claim(model, asked.wrong, asked.wrong_variable, site, word, seed)
            found[f"wrong: {asked.wrong_variable}"] = wrong | place
    return found


def main() -> None:
    """Run the measurement and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    line: dict[str, dict] = {}
    began = time.perf_counter()
    for name, seed, taught in itertools.product(given.tasks, given.seeds, (False, True)):
        for variable, one in measure(name, seed, taught=taught).items():
            kind = "taught" if taught else "alone"
            print(f"{name}, seed {seed}, {kind}, {variable}: {one}", file=sys.stderr, flush=True)
            line.setdefault(name, {}).setdefault(variable, {}).setdefault(kind, []).append(one)
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps(line | {"seconds": seconds}))


if __name__ == "__main__":
    main()
