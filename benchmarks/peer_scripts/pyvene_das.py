"""Runs in the peers' environment: steps of pyvene's DAS, as its tutorials write them.

Reads one JSON object a line: {"rows", "layer", "first", "count", "rank", "cached", "train"}:
`count` edited tokens from `first` on, `cached` gives pyvene the sources' activations
(`source_representations`), `train` is a step with the optimiser, else a forward pass. Answers
{"seconds", "loss", "peak_mb"}.

INPUTS is a safetensors file: base_ids and source_ids [n pos], labels [n].
"""
# pyright: reportMissingImports=false

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pyvene
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("inputs", type=Path)
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    inputs = load_file(arguments.inputs)
    placed: dict[tuple, tuple[Any, Any, dict]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        key = asked["layer"], asked["rank"], asked["count"]
        if key not in placed:
            placed.clear()
            placed[key] = intervenable(model, *key)
        answer = step(*placed[key], inputs, asked)
        print(json.dumps(answer), flush=True)


def intervenable(model, layer: int, rank: int, tokens: int):
    found = pyvene.IntervenableModel(
        pyvene.IntervenableConfig(
            [
                {
                    "layer": layer,
                    "component": "block_output",
                    # pyvene looks at several tokens as one long vector.
                    "max_number_of_units": tokens,
                    "low_rank_dimension": rank,
                    "intervention_type": pyvene.LowRankRotatedSpaceIntervention,
                }
            ]
        ),
        model,
    )
    found.disable_model_gradients()
    parameters = [p for v in found.interventions.values() for p in v.parameters()]
    return found, torch.optim.Adam(parameters, lr=5e-3), {}


def step(model, optimiser, cache, inputs, asked) -> dict:
    rows = slice(asked.get("start", 0), asked.get("start", 0) + asked["rows"])
    base, source = inputs["base_ids"][rows], inputs["source_ids"][rows]
    labels = inputs["labels"][rows]
    tokens = list(range(asked["first"], asked["first"] + asked["count"]))
    locations = [[tokens] * len(base)]
    sources = [{"input_ids": source}]
    kept = {}
    if asked["cached"]:
        key = (asked["layer"], rows.start, rows.stop, *tokens)
        if key not in cache:
            with torch.no_grad():
                hidden = model.model(source, output_hidden_states=True).hidden_states
            cache[key] = hidden[asked["layer"] + 1][:, tokens]
        sources = None
        kept = {"source_representations": {next(iter(model.interventions)): cache[key]}}
    began = time.perf_counter()
    with torch.set_grad_enabled(asked["train"]):
        _, output = model(
            {"input_ids": base}, sources, {"sources->base": (locations, locations)}, **kept
        )
        loss = torch.nn.functional.cross_entropy(output.logits[:, -1], labels)
    if asked["train"]:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "loss": float(loss), "peak_mb": peak()}


def peak() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
