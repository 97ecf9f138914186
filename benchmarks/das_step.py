"""One step of DAS on SmolLM2: our engine against pyvene, TransformerLens and the arithmetic.

40 tokens, rank 8, the optimiser included; sides take turns, medians of five. Freezing is not
part of a step; its seconds stand beside it. The limit is the region's matrix products alone,
forward and backward, in plain torch. The last line of standard output is one JSON object.

    python benchmarks/das_step.py
"""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import peers
import torch
from safetensors.torch import save_file
from sides import Steps, in_turns, rounds_asked, seconds, texts
from torch import nn
from torch.nn.functional import cross_entropy
from transformer_lens.tools.analysis.interchange import (
    LearnedSubspace,
    SubspaceInterchange,
    run_with_intervention,
)

from reft_interp import (
    DistributedInterchange,
    Placement,
    Site,
    Subspace,
    indices,
    load_model,
)
from reft_interp.models.embedded import embedded_folder

TOKENS = 40
RANK = 8
MOST_ROWS = 128
# name: rows, layer, edited tokens
CASES = {
    "16": (16, 15, [39]),
    "128": (128, 15, [39]),
    "16_layer_5": (16, 5, [39]),
    "16_layer_25": (16, 25, [39]),
    "16_middle": (16, 15, [19, 20, 21]),
}


def transformer_lens_step(model, base, source_ids, labels, layer: int) -> Callable[[], None]:
    """The step of TransformerLens's own `fit_das`, the sources already recorded."""
    name = f"blocks.{layer}.hook_resid_post"
    with torch.no_grad():
        _, cache = model.run_with_cache(source_ids, names_filter=name)
    source = cache[name][:, -1]
    subspace = LearnedSubspace(model.cfg.d_model, RANK)
    edit = SubspaceInterchange(subspace, 1.0)
    optimiser = torch.optim.Adam(subspace.parameters(), lr=5e-3)
    positions = torch.full((len(base),), base.shape[1] - 1)

    def step() -> None:
        optimiser.zero_grad()
        logits = run_with_intervention(
            model, name, edit, base, source, lambda ids: model(ids)[:, -1], positions=positions
        )
        cross_entropy(logits, labels).backward()
        optimiser.step()

    return step


def limit(model, rows: int, blocks: int, tokens: int) -> Callable[[], None]:
    """The matrix products of a region, forward and backward: nothing else of the model."""
    cfg = model.original_model.config
    d, kv = cfg.hidden_size, cfg.num_key_value_heads * (cfg.hidden_size // cfg.num_attention_heads)

    def linear(wide: int, narrow: int) -> nn.Linear:
        return nn.Linear(wide, narrow, bias=False).requires_grad_(False)

    layers = [
        {
            "q": linear(d, d),
            "k": linear(d, kv),
            "v": linear(d, kv),
            "o": linear(d, d),
            "gate": linear(d, cfg.intermediate_size),
            "up": linear(d, cfg.intermediate_size),
            "down": linear(cfg.intermediate_size, d),
        }
        for _ in range(blocks)
    ]
    head = linear(d, cfg.vocab_size)
    start = torch.randn(rows * tokens, d, requires_grad=True)
    copies = d // kv

    def step() -> None:
        h = start
        for layer in layers:
            q, k, v = (layer[name](h) for name in "qkv")
            # The sum stands for attention, so that the gradient passes through all three.
            h = layer["o"](q + k.repeat(1, copies) + v.repeat(1, copies))
            h = layer["down"](layer["gate"](h) + layer["up"](h))
        head(h[-rows:]).sum().backward()

    return step


def main() -> None:
    """Run the benchmark and print its line of JSON."""
    rounds = rounds_asked(__doc__)
    logging.disable(logging.WARNING)
    model = load_model("smollm2")
    tokenizer = model.tokenizer
    base = texts(tokenizer, MOST_ROWS, TOKENS, seed=0)
    source = texts(tokenizer, MOST_ROWS, TOKENS, seed=1)
    answers = [" is" if i % 2 else " are" for i in range(MOST_ROWS)]
    rows = [{"prompt": p, "answer": a} for p, a in zip(base, answers, strict=True)]
    ids = {
        name: tokenizer(t, return_tensors="pt")["input_ids"]
        for name, t in (("base_ids", base), ("source_ids", source))
    }
    labels = torch.tensor([tokenizer(a)["input_ids"][0] for a in answers])
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.safetensors"
        save_file({**ids, "labels": labels}, inputs)
        worker = peers.Worker(
            "pyvene_das.py", peers.export(embedded_folder(), Path(folder) / "model"), inputs
        )
        try:
            for name, (count, layer, at) in CASES.items():
                start = Subspace.random(model.cfg.d_model, RANK, seed=0)
                edit = DistributedInterchange(start, trainable=True)
                ours = Steps(
                    model,
                    [Placement(edit, Site("resid_post", layer), indices(*at))],
                    rows[:count],
                    source[:count],
                    learning_rate=5e-3,
                )

                def pyvene(*, cached: bool, count=count, layer=layer, at=at) -> float:
                    return worker.ask(
                        rows=count, layer=layer, first=at[0], count=len(at), rank=RANK,
                        cached=cached, train=True,
                    )["seconds"]  # fmt: skip

                sides: dict[str, Callable[[], float]] = {
                    "ours": lambda ours=ours: seconds(ours.step),
                    "pyvene": lambda ask=pyvene: ask(cached=False),
                    "pyvene_cached": lambda ask=pyvene: ask(cached=True),
                }
                if name == "16":
                    peer = transformer_lens_step(
                        model,
                        ids["base_ids"][:count],
                        ids["source_ids"][:count],
                        labels[:count],
                        layer,
                    )
                    products = limit(model, count, model.cfg.n_layers - layer - 1, 1)
                    sides["transformer_lens"] = lambda peer=peer: seconds(peer)
                    sides["limit"] = lambda products=products: seconds(products)
                times = in_turns(sides, rounds)
                found[f"ours_seconds_{name}"] = times["ours"]
                found[f"freeze_seconds_{name}"] = ours.freeze_seconds
                for side, spent in times.items():
                    if side not in ("ours", "limit"):
                        found[f"{side}_over_ours_{name}"] = spent / times["ours"]
                if "limit" in times:
                    found[f"ours_over_limit_{name}"] = times["ours"] / times["limit"]
        finally:
            worker.close()
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
