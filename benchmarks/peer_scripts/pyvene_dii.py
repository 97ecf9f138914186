"""Runs in the peers' environment: distributed interchange interventions as pyvene does them.

Twice, with pyvene's two classes: the low-rank rotation, and the full rotation of which the first
r coordinates are swapped. OUT receives, for `low_rank` and `rotated`: the logits of the edited
base run, and the edit alone of given activations, in float32 and in float64.

INPUTS is a safetensors file: base_ids, base_mask, source_ids, source_mask [batch pos] (right
padding), base_position, source_position [batch] (the token that is edited, and read), R [r d]
(orthonormal rows), h and s [n d] (activations for the edit alone).
"""
# pyright: reportMissingImports=false

import argparse
from pathlib import Path

import pyvene
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a transformers model")
    parser.add_argument("inputs", type=Path, help="safetensors file, see above")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--layer", type=int, required=True)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    inputs = load_file(arguments.inputs)
    results = {}
    R = inputs["R"].double()
    for name, edit in (("low_rank", low_rank(R)), ("rotated", rotated(R))):
        with torch.no_grad():
            for dtype in ("float64", "float32"):
                kind = getattr(torch, dtype)
                # A copy, since pyvene writes into what it is given.
                h, s = (inputs[letter].to(kind, copy=True) for letter in "hs")
                results[f"{name}.edit.{dtype}"] = edit.to(kind)(h, s)
            results[f"{name}.logits"] = logits(model, edit, arguments.layer, inputs)
    save_file({key: value.contiguous() for key, value in results.items()}, arguments.out)


def low_rank(R: torch.Tensor):
    """h + Rᵀ(Rs − Rh)."""
    rank, width = R.shape
    edit = pyvene.LowRankRotatedSpaceIntervention(embed_dim=width, low_rank_dimension=rank)
    edit.to(R.dtype).rotate_layer.weight = R.T
    return edit.eval()


def rotated(R: torch.Tensor):
    """Rotate by an orthogonal matrix that begins with R, swap r coordinates, rotate back."""
    rank, width = R.shape
    rest = torch.randn(width, width - rank, dtype=R.dtype)
    full, upper = torch.linalg.qr(torch.cat([R.T, rest], dim=1))
    edit = pyvene.RotatedSpaceIntervention(embed_dim=width)
    # QR may turn directions around; R itself has to come first.
    edit.to(R.dtype).rotate_layer.weight = full * torch.sign(torch.diagonal(upper))
    edit.set_interchange_dim(rank)
    return edit.eval()


def logits(model, edit, layer: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    intervenable = pyvene.IntervenableModel(
        pyvene.IntervenableConfig(
            [{"layer": layer, "component": "block_output", "intervention": edit}]
        ),
        model,
    )
    read = [[[position] for position in inputs["source_position"].tolist()]]
    written = [[[position] for position in inputs["base_position"].tolist()]]
    _, output = intervenable(
        {"input_ids": inputs["base_ids"], "attention_mask": inputs["base_mask"]},
        [{"input_ids": inputs["source_ids"], "attention_mask": inputs["source_mask"]}],
        {"sources->base": (read, written)},
    )
    return output.logits


if __name__ == "__main__":
    main()
