"""Do our interventions compute what pyreft's and pyvene's do?

On the same weights (SmolLM2-135M, Q4_1, float32, CPU) and the same prompts: random pyreft models
of all six classes, saved by pyreft and read by `load_pyreft`, and a distributed interchange by
pyvene's two classes and ours. Compared are the logits of the whole model, and each edit alone on
random activations of standard deviation 1: in float64, where only the formulas can differ (these
have the limit), and in float32, where a d×d rotation alone loses several 1e-6. Beside the
differences stands the edit's effect, which shows that there was something to differ in.

The peers run in an environment of their own (`peers`), under another version of transformers. How
far the untouched logits differ between the two stands first: with eager attention, which hooked
models have and the rest is compared with, and with sdpa, the peers' default. The last line is one
JSON object with the largest absolute differences; the exit status says whether all are within
limits.
"""

import copy
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import peers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import tokenize
from reft_interp.interop import load_pyreft
from reft_interp.interventions import DistributedInterchange, Intervention
from reft_interp.models import identify, load_model
from reft_interp.models.embedded import embedded_folder
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.running import run
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

# The second has 5 tokens: fewer than f3+l3 asks for, so pyreft's rounding shows.
BASES = [
    "The capital of France is Paris and the capital of Spain is",
    "The keys near the door",
    "One day a small dog went to the market with its owner to buy some food and",
]
SOURCES = ["The key near the doors of the house", BASES[2], "Tokyo is a city in the country of"]
LAYERS = (4, 10, 16, 22)
POSITIONS = "f3+l3"
DII_LAYER, DII_RANK = 15, 8
LOGITS_LIMIT, EDIT_LIMIT = 1e-4, 1e-6
# Rows of the result, and the cases that they are the largest difference of.
FAMILIES = {
    "loreft": ("loreft",),
    "noreft": ("noreft",),
    "consreft": ("consreft",),
    "lobireft": ("lobireft",),
    "direft": ("direft", "nodireft"),
}


def main() -> int:
    model = load_model("smollm2", device="cpu")
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        weights = peers.export(embedded_folder(), home / "model")
        rows = [*pyreft_rows(model, weights, home), *dii_rows(model, weights, home)]
    table = pd.DataFrame(rows)
    print(f"{identify(model)}, {torch.get_num_threads()} threads; largest absolute differences")
    print(table.to_string(index=False, float_format="{:.1e}".format, na_rep=""))

    families = {"dii": ("dii",), **FAMILIES}
    result: dict[str, Any] = {
        "untouched": largest(table, ["untouched"], "logits"),
        "untouched_sdpa": largest(table, ["sdpa untouched"], "logits"),
        **{name: largest(table, starts, "logits") for name, starts in families.items()},
    }
    for key, dtype in (("edit_alone", "float64"), ("edit_alone_float32", "float32")):
        result[key] = {
            name: largest(table, starts, f"edit {dtype}") for name, starts in families.items()
        }
    worst = max(result[name] for name in families)
    passed = worst <= LOGITS_LIMIT and max(result["edit_alone"].values()) <= EDIT_LIMIT
    result |= {"logits_limit": LOGITS_LIMIT, "edit_limit": EDIT_LIMIT, "passed": passed}
    print(json.dumps(result))
    return 0 if passed else 1


def pyreft_rows(model: TransformerBridge, weights: Path, home: Path) -> Iterable[dict]:
    """The untouched model, then each folder that pyreft made."""
    batch = tokenize(model.tokenizer, BASES)
    h = torch.randn(64, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "prompt_length": batch.prompt_end - batch.prompt_start,
        "h": h,
    }
    save_file(inputs, home / "inputs.safetensors")
    out = home / "pyreft"
    out.mkdir()
    peers.run(
        "make_pyreft_folder.py",
        *(weights, home / "inputs.safetensors", out),
        *("--positions", POSITIONS, "--layers", *LAYERS),
    )

    tokens = batch.attention_mask.bool()
    untouched = load_file(out / "untouched.safetensors")
    with torch.no_grad():
        ours = run(model, batch)
    for attention, case in (("eager", "untouched"), ("sdpa", "sdpa untouched")):
        yield {"case": case, "logits": distance(ours[tokens], untouched[attention][tokens])}
    theirs = untouched["eager"]
    for case in json.loads((out / "cases.json").read_text()):
        results = load_file(out / f"{case['name']}.safetensors")
        reft = load_pyreft(out / case["name"], model, on=POSITIONS, act_fn=case["act_fn"])
        yield {
            "case": case["name"],
            "logits": distance(reft.logits(BASES)[tokens], results["logits"][tokens]),
            "effect": distance(theirs[tokens], results["logits"][tokens]),
        } | {
            f"edit {dtype}": max(
                distance(alone(placement.intervention, dtype, h), results[f"edit.{number}.{dtype}"])
                for number, placement in enumerate(reft.placements)
            )
            for dtype in ("float32", "float64")
        }


def dii_rows(model: TransformerBridge, weights: Path, home: Path) -> Iterable[dict]:
    """The interchange by pyvene's two classes, each against ours in the same subspace."""
    base, source = (tokenize(model.tokenizer, prompts) for prompts in (BASES, SOURCES))
    generator = torch.Generator().manual_seed(1)
    h, s = torch.randn(2, 64, model.cfg.d_model, generator=generator)
    subspace = Subspace.random(model.cfg.d_model, DII_RANK, seed=0)
    inputs = {
        "base_ids": base.input_ids,
        "base_mask": base.attention_mask,
        "base_position": base.prompt_end - 1,
        "source_ids": source.input_ids,
        "source_mask": source.attention_mask,
        "source_position": source.prompt_end - 1,
        "R": subspace.basis,
        "h": h.clone(),
        "s": s.clone(),
    }
    save_file(inputs, home / "dii.safetensors")
    out = home / "dii_results.safetensors"
    peers.run("pyvene_dii.py", weights, home / "dii.safetensors", out, "--layer", DII_LAYER)

    results = load_file(out)
    tokens = base.attention_mask.bool()
    edit = DistributedInterchange(subspace)
    intervened = IntervenedModel(model, Placement(edit, Site("resid_post", DII_LAYER), "last"))
    ours = intervened.logits(BASES, SOURCES)
    with torch.no_grad():
        untouched = run(model, base)
    for name in ("low_rank", "rotated"):
        yield {
            "case": f"dii_{name}",
            "logits": distance(ours[tokens], results[f"{name}.logits"][tokens]),
            "effect": distance(untouched[tokens], results[f"{name}.logits"][tokens]),
        } | {
            f"edit {dtype}": distance(alone(edit, dtype, h, s), results[f"{name}.edit.{dtype}"])
            for dtype in ("float32", "float64")
        }


@torch.no_grad()
def alone(intervention: Intervention, dtype: str, *activations: Tensor) -> Tensor:
    """What an intervention makes of activations, computed in a given precision."""
    kind = getattr(torch, dtype)
    return copy.deepcopy(intervention).to(kind)(*(a.to(kind) for a in activations))


def distance(ours: Tensor, theirs: Tensor) -> float:
    return (ours - theirs).abs().max().item()


def largest(table: pd.DataFrame, starts: Iterable[str], column: str) -> float:
    """The largest value of a column over the cases of a family: "loreft", "loreft_split", ..."""
    family = table["case"].str.partition("_")[0].isin(list(starts))
    return float(table.loc[family, column].max())


if __name__ == "__main__":
    sys.exit(main())
