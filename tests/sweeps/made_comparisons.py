"""Comparisons of ReFTs whose subspaces are known, as `compare` leaves them."""

import pandas as pd
from datasets import Dataset

from reft_interp.evaluation import predict_choices
from reft_interp.evaluation.metrics import exact_match
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.sweeps import MethodComparison
from reft_interp.tasks.suites import Suite, paper_recipe

CHOICES = [" is", " was"]
NOUNS = ["key", "keys", "author", "cars", "door", "table", "film", "books", "city", "store"]
PLACES = [(Site("resid_post", 0), "last"), (Site("resid_post", 1), "last")]


def suite(model) -> Suite:
    """Every answer is the one that the model gives, so that it knows its task."""
    prompts = [f"The {a} near the {b}" for a in NOUNS for b in NOUNS]
    rows = [{"prompt": prompt, "choices": CHOICES, "gold": "x"} for prompt in prompts]
    said = predict_choices(model, rows)
    rows = [{**row, "answer": CHOICES[i]} for row, i in zip(rows, said, strict=True)]
    assert 0.3 < said.mean() < 0.7
    return Suite(
        name="own answers", train=Dataset.from_list(rows[::2]), development=None,
        tests={"own": Dataset.from_list(rows[1::2])}, template="{}", extract=str.strip,
        metric=exact_match(), max_new_tokens=1, recipe=paper_recipe("commonsense"),
    )  # fmt: skip


def placed(model, kind, subspaces, places=PLACES) -> IntervenedModel:
    return IntervenedModel(
        model,
        [
            Placement(kind(start=subspace), site, on)
            for subspace, (site, on) in zip(subspaces, places, strict=True)
        ],
    )


def comparison(model, folder, refts, adapters=(), name="own answers") -> MethodComparison:
    """As `compare` leaves it."""
    runs = []
    for i, (method, by_seed) in enumerate(refts.items()):
        for seed, intervened in by_seed.items():
            intervened.save(folder / "trained" / f"{i:02}-seed-{seed}")
        runs.append({"method": method, "runs": [{"seed": seed} for seed in by_seed]})
    for method, finetuned in adapters:
        finetuned.save(folder / "trained" / f"{len(runs):02}-seed-0")
        runs.append({"method": method, "runs": [{"seed": 0}]})
    return MethodComparison(folder, name, "accuracy", pd.DataFrame(), 0.0, runs)
