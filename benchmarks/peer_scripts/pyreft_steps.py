"""Runs in the peers' environment: training steps of pyreft's LoReFT.

Reads one JSON object a line: {"layers": "4,10", "rank", "first", "last", "width"}; answers
{"seconds", "loss"}. INPUTS is a safetensors file: input_ids, labels [n pos] (-100 where there is
no loss), prompt_length [n].
"""
# pyright: reportMissingImports=false

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pyreft
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
    placed: dict[str, tuple[Any, Any, int]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["layers"] not in placed:
            placed.clear()
            placed[asked["layers"]] = reft(model, asked)
        print(json.dumps(step(*placed[asked["layers"]], inputs, asked)), flush=True)


def reft(model, asked):
    layers = [int(layer) for layer in asked["layers"].split(",")]
    config = pyreft.ReftConfig(
        representations=[
            {
                "layer": layer,
                "component": "block_output",
                "low_rank_dimension": asked["rank"],
                "intervention": pyreft.LoreftIntervention(
                    embed_dim=model.config.hidden_size,
                    low_rank_dimension=asked["rank"],
                    dtype=torch.float32,
                ),
            }
            for layer in layers
        ]
    )
    found = pyreft.get_reft_model(model, config)
    parameters = [p for p in found.parameters() if p.requires_grad]
    return found, torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.0), len(layers)


def step(model, optimiser, places: int, inputs, asked) -> dict:
    tokens = [
        [*range(asked["first"]), *range(length - asked["last"], length)]
        for length in inputs["prompt_length"].tolist()
    ]
    began = time.perf_counter()
    _, output = model(
        {
            "input_ids": inputs["input_ids"],
            "attention_mask": torch.ones_like(inputs["input_ids"]),
        },
        unit_locations={"sources->base": (None, [tokens] * places)},
        labels=inputs["labels"],
    )
    optimiser.zero_grad()
    output.loss.backward()
    optimiser.step()
    return {"seconds": time.perf_counter() - began, "loss": float(output.loss)}


if __name__ == "__main__":
    main()
