"""Runs in the peers' environment: training steps of pyreft's LoReFT.

Reads one JSON object a line: {"layers": "4,10", "rank", "first", "last"}; answers
{"seconds", "loss"}. INPUTS is a safetensors file: input_ids, labels [n pos] (-100 where there is
no loss), prompt_length [n].
"""
# pyright: reportMissingImports=false

import time
from functools import lru_cache

import pyreft
import torch
from answering import answer_questions


@lru_cache(maxsize=1)
def reft(model, layers: str, rank: int):
    chosen = [int(layer) for layer in layers.split(",")]
    config = pyreft.ReftConfig(
        representations=[
            {
                "layer": layer,
                "component": "block_output",
                "low_rank_dimension": rank,
                "intervention": pyreft.LoreftIntervention(
                    embed_dim=model.config.hidden_size,
                    low_rank_dimension=rank,
                    dtype=torch.float32,
                ),
            }
            for layer in chosen
        ]
    )
    found = pyreft.get_reft_model(model, config)
    parameters = [p for p in found.parameters() if p.requires_grad]
    return found, torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.0), len(chosen)


def step(plain, inputs, asked) -> dict:
    model, optimiser, places = reft(plain, asked["layers"], asked["rank"])
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
    answer_questions(__doc__, step)
