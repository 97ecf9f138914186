"""A whole study: DAS at 30 layers of SmolLM2, last token, three seeds, trained and scored.

512 training pairs of 40 tokens, 2 epochs of batch 16, rank 8; 256 held-out pairs. Ours runs in
full, freezing and recording included. pyvene's time is that of some steps and forward passes at
three layers, scaled to the study (sources given once a layer would be faster: both are
measured). "One by one" is our engine on the same constants with one cell in each step; its steps
are timed at three layers and scaled. The last line of standard output is one JSON object.

    python benchmarks/das_study.py
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
from pathlib import Path

import peers
import torch
from safetensors.torch import save_file
from sides import peak_memory, seconds, texts

from reft_interp import (
    Cell,
    DASCell,
    DistributedInterchange,
    IntervenedModel,
    Placement,
    Site,
    Subspace,
    fit_das_each,
    interchange_accuracies,
    load_model,
    prepare_each,
    train_cells,
)
from reft_interp.causal import interchange_rows
from reft_interp.models.embedded import embedded_folder

TOKENS, RANK, BATCH, EPOCHS = 40, 8, 16, 2
TRAIN, TEST, SEEDS = 512, 256, (0, 1, 2)
MEASURED_LAYERS = (5, 15, 25)
CHOICES = [" is", " are"]


def pairs(tokenizer, count: int, seed: int) -> list[dict]:
    """Random counterfactual pairs: what is measured is time."""
    base = texts(tokenizer, count, TOKENS, seed=2 * seed)
    source = texts(tokenizer, count, TOKENS, seed=2 * seed + 1)
    return [
        {"base": b, "source": s, "label": CHOICES[i % 2], "choices": CHOICES}
        for i, (b, s) in enumerate(zip(base, source, strict=True))
    ]


def cells(layers) -> list[DASCell]:
    """One for each layer and seed."""
    return [
        DASCell(
            Site("resid_post", layer), "last", rank=RANK, seed=seed, epochs=EPOCHS, batch_size=BATCH
        )
        for layer in layers
        for seed in SEEDS
    ]


def ours(model, train, test, layers, rows_at_once: int, progress: bool) -> None:
    """Train every cell, then score every cell."""
    study = cells(layers)
    found = fit_das_each(model, train, study, rows_at_once=rows_at_once, progress=progress)
    interchange_accuracies(
        model,
        test,
        [
            (DistributedInterchange(one.subspace), cell.site, cell.on)
            for cell, one in zip(study, found, strict=True)
        ],
        progress=progress,
    )


def steps_together_and_alone(model, train, rows_at_once: int) -> tuple[float, float]:
    """Seconds that the study's training takes with shared steps and with one cell a step, from
    some of its rows at three layers; constants are not in it."""
    bases, sources = interchange_rows(train[: 4 * BATCH])
    spent = []
    for at_once in (rows_at_once, BATCH):
        placed = [
            IntervenedModel(
                model,
                Placement(
                    DistributedInterchange(
                        Subspace.random(model.cfg.d_model, RANK, seed=seed), trainable=True
                    ),
                    Site("resid_post", layer),
                    "last",
                ),
            )
            for layer in MEASURED_LAYERS
            for seed in range(rows_at_once // BATCH)
        ]
        prepared = prepare_each([(one, bases, sources) for one in placed])
        some = [
            Cell(one, rows, epochs=1, batch_size=BATCH)
            for one, rows in zip(placed, prepared, strict=True)
        ]
        taken = seconds(
            lambda some=some, n=at_once: train_cells(some, rows_at_once=n, progress=False)
        )
        study = model.cfg.n_layers * len(SEEDS) * (TRAIN // BATCH) * EPOCHS
        spent.append(taken / sum(cell.steps for cell in some) * study)
    return spent[0], spent[1]


def pyvene_seconds(model, train, steps: int) -> dict[str, float]:
    """What the study would take pyvene, from some steps at three layers, and its memory."""
    tokenizer = model.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.safetensors"
        some = train[: BATCH * (steps + 1)]
        save_file(
            {
                "base_ids": tokenizer([p["base"] for p in some], return_tensors="pt")["input_ids"],
                "source_ids": tokenizer([p["source"] for p in some], return_tensors="pt")[
                    "input_ids"
                ],
                "labels": torch.tensor([tokenizer(p["label"])["input_ids"][0] for p in some]),
            },
            inputs,
        )
        worker = peers.Worker(
            "pyvene_das.py", peers.export(embedded_folder(), Path(folder) / "model"), inputs
        )
        taken: dict[tuple[bool, bool], list[float]] = {}
        peak = 0.0
        try:
            for layer in MEASURED_LAYERS:
                for cached in (False, True):
                    for train_ in (True, False):
                        for step in range(steps + 1):
                            answer = worker.ask(
                                rows=BATCH, start=step * BATCH, layer=layer, first=TOKENS - 1,
                                count=1, rank=RANK, cached=cached, train=train_,
                            )  # fmt: skip
                            if step:  # the first warms up
                                taken.setdefault((cached, train_), []).append(answer["seconds"])
                            peak = max(peak, answer["peak_mb"])
        finally:
            worker.close()
    mean = {key: statistics.fmean(times) for key, times in taken.items()}
    count = model.cfg.n_layers * len(SEEDS)
    return {
        "plain": count
        * (TRAIN // BATCH * EPOCHS * mean[False, True] + TEST // BATCH * mean[False, False]),
        "cached": count
        * (TRAIN // BATCH * EPOCHS * mean[True, True] + TEST // BATCH * mean[True, False]),
        "peak_mb": peak,
    }


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows-at-once", type=int, default=128)
    parser.add_argument("--pyvene-steps", type=int, default=4)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    model = load_model("smollm2")
    train, test = pairs(model.tokenizer, TRAIN, 0), pairs(model.tokenizer, TEST, 1)
    peer = pyvene_seconds(model, train, given.pyvene_steps)
    print(f"pyvene, scaled: {peer}", file=sys.stderr)
    layers = range(model.cfg.n_layers)
    with peak_memory() as peak:
        whole = seconds(lambda: ours(model, train, test, layers, given.rows_at_once, True))
        memory = peak()
    print(f"ours: {whole:.0f} s, {memory:.0f} MB", file=sys.stderr)
    together, single = steps_together_and_alone(model, train, given.rows_at_once)
    found = {
        "pyvene_over_ours": peer["plain"] / whole,
        "pyvene_cached_over_ours": peer["cached"] / whole,
        "one_by_one_over_ours": (whole + (single - together)) / whole,
        "one_by_one_training_over_ours": single / together,
        "ours_seconds": whole,
        "pyvene_seconds_scaled": peer["plain"],
        "ours_peak_mb": memory,
        "pyvene_peak_mb": peer["peak_mb"],
    }
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


if __name__ == "__main__":
    main()
