"""Activation patching of the outputs of 30 layers at 40 positions of SmolLM2, against hooks.

16 prompts of 40 tokens; the metric is a logit difference at the last token. Ours runs once, in
full, freezing and recording included. The peer is a loop of `run_with_hooks` over the same batch,
timed on a random sample of cells and scaled, and the same with one prompt at a time. The last
line of standard output is one JSON object.

    python benchmarks/patching.py
"""

import argparse
import json
import logging
import random
import sys

import torch
from sides import peak_memory, seconds, texts

from reft_interp import Site, activation_patching, load_model

TOKENS, PROMPTS = 40, 16
CHOICES = [" is", " are"]


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sample", type=int, default=60, help="cells of the hooked loop")
    parser.add_argument("--single-sample", type=int, default=8, help="cells, one prompt at a time")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    model = load_model("smollm2")
    tokenizer = model.tokenizer
    base = texts(tokenizer, PROMPTS, TOKENS, seed=0)
    source = texts(tokenizer, PROMPTS, TOKENS, seed=1)
    pairs = [
        {"base": b, "source": s, "label": CHOICES[i % 2], "choices": CHOICES}
        for i, (b, s) in enumerate(zip(base, source, strict=True))
    ]
    sites = [Site("resid_post", layer) for layer in range(model.cfg.n_layers)]
    with peak_memory() as peak:
        found = []
        ours = seconds(
            lambda: found.append(activation_patching(model, pairs, sites, list(range(TOKENS))))
        )
        memory = peak()
    patched = found[0].patched

    ids = tokenizer(base, return_tensors="pt")["input_ids"]
    _, cache = model.run_with_cache(
        tokenizer(source, return_tensors="pt")["input_ids"],
        names_filter=lambda name: name.endswith("hook_resid_post"),
    )
    first, second = (tokenizer(c)["input_ids"][0] for c in CHOICES)
    signs = torch.tensor([1.0 if i % 2 == 0 else -1.0 for i in range(PROMPTS)])
    cells = [(layer, token) for layer in range(model.cfg.n_layers) for token in range(TOKENS)]
    largest = 0.0

    @torch.no_grad()
    def hooked(layer: int, token: int, rows: slice) -> torch.Tensor:
        name = sites[layer].hook_name

        def patch(activation, hook):
            activation[:, token] = cache[name][rows, token]
            return activation

        logits = model.run_with_hooks(ids[rows], fwd_hooks=[(name, patch)])[:, -1]
        return (logits[:, first] - logits[:, second]) * signs[rows]

    def loop(sample: list[tuple[int, int]], size: int) -> float:
        nonlocal largest
        spent = 0.0
        for layer, token in sample:
            for start in range(0, PROMPTS, size):
                rows, answer = slice(start, start + size), []
                spent += seconds(lambda at=(layer, token, rows), to=answer: to.append(hooked(*at)))
                expected = torch.from_numpy(patched[layer, token, rows])
                largest = max(largest, float((answer[0] - expected).abs().max()))
        return spent / len(sample) * len(cells)

    chosen = random.Random(0)
    hooked(0, 0, slice(None))  # warms up
    batch = loop(chosen.sample(cells, given.sample), PROMPTS)
    single = loop(chosen.sample(cells, given.single_sample), 1)
    print(f"largest difference from the hooked runs: {largest:.1e}", file=sys.stderr)
    print(
        json.dumps(
            {
                "hooks_over_ours": round(batch / ours, 2),
                "single_over_ours": round(single / ours, 2),
                "ours_seconds": round(ours, 1),
                "hooks_seconds_scaled": round(batch, 1),
                "single_seconds_scaled": round(single, 1),
                "sampled_cells": given.sample,
                "ours_peak_mb": round(memory),
                "largest_difference": largest,
            }
        )
    )


if __name__ == "__main__":
    main()
