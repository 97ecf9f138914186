"""Runs in the peers' environment: steps of pyvene's DAS, as its tutorials write them.

Reads one JSON object a line: {"rows", "layer", "first", "count", "rank", "cached", "train"}:
`count` edited tokens from `first` on, `cached` gives pyvene the sources' activations
(`source_representations`), `train` is a step with the optimiser, else a forward pass. Answers
{"seconds", "loss", "peak_mb"}.

INPUTS is a safetensors file: base_ids and source_ids [n pos], labels [n].
"""
# pyright: reportMissingImports=false

import time
from functools import lru_cache

import pyvene
import torch
from answering import answer_questions


@lru_cache(maxsize=1)
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


def step(plain, inputs, asked) -> dict:
    model, optimiser, cache = intervenable(plain, asked["layer"], asked["rank"], asked["count"])
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
    answer_questions(__doc__, step)
