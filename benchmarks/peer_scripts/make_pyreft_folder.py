"""Runs in the peers' environment: real pyreft folders, and what pyreft computes with them.

For each case below, a pyreft model with random weights on a given language model is saved by
pyreft's own `save` into OUT/<case>/; OUT/<case>.safetensors holds its logits on the given inputs
and what each of its interventions does to given activations, computed in float32 and in
float64; OUT/cases.json says what a folder does not record. OUT/untouched.safetensors holds the
logits without any intervention, with eager attention (as everywhere else) and with sdpa.

INPUTS is a safetensors file: input_ids and attention_mask [batch pos] (right padding),
prompt_length [batch], h [n d] (activations for the edits alone).
"""
# pyright: reportMissingImports=false

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyreft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Case:
    """One folder: a class of pyreft and how it is used."""

    name: str
    intervention: str
    act_fn: str | None = None
    split: bool = False
    """Whether prefix and suffix have interventions of their own (pyreft's share_weights off)."""
    component: str = "block_output"


CASES = (
    Case("loreft", "LoreftIntervention"),
    Case("loreft_split", "LoreftIntervention", split=True),
    Case("loreft_gelu", "LoreftIntervention", act_fn="gelu"),
    Case("loreft_block_input", "LoreftIntervention", component="block_input"),
    Case("loreft_attention_output", "LoreftIntervention", component="attention_output"),
    Case("loreft_mlp_output", "LoreftIntervention", component="mlp_output"),
    Case("loreft_heads", "LoreftIntervention", component="attention_value_output"),
    Case("noreft", "NoreftIntervention"),
    Case("noreft_gelu", "NoreftIntervention", act_fn="gelu"),
    Case("consreft", "ConsreftIntervention"),
    Case("consreft_split", "ConsreftIntervention", split=True),
    Case("lobireft", "LobireftIntervention"),
    Case("direft", "DireftIntervention"),
    Case("direft_relu", "DireftIntervention", act_fn="relu"),
    Case("nodireft", "NodireftIntervention"),
    Case("nodireft_relu", "NodireftIntervention", act_fn="relu"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a transformers model")
    parser.add_argument("inputs", type=Path, help="safetensors file, see above")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", required=True)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--positions", default="f3+l3", help="as in pyreft: f3+l3, l1, ...")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    # pyreft's default dtype of the learned source is bfloat16, which a float32 model cannot use.
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    inputs = load_file(arguments.inputs)
    untouched = {}
    # Eager last: the rest of the script runs with it, as hooked models do.
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            untouched[attention] = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).logits
    save_file(untouched, arguments.out / "untouched.safetensors")

    for case in CASES:
        layers = arguments.layers * (2 if case.split else 1)
        reft = make(model, case, layers, arguments.rank)
        reft.save(str(arguments.out / case.name))
        results = {"logits": logits(reft, inputs, case, arguments.positions)}
        for number, intervention in enumerate(reft.interventions.values()):
            with torch.no_grad():
                results[f"edit.{number}.float32"] = intervention(inputs["h"])
                # In float64 what is left is a difference of formulas, not of rounding; from what
                # was saved, since a rotation is saved in float32.
                intervention.load_state_dict(intervention.state_dict())
                results[f"edit.{number}.float64"] = intervention.double()(inputs["h"].double())
        save_file(results, arguments.out / f"{case.name}.safetensors")
    index = json.dumps([asdict(case) for case in CASES], indent=1)
    (arguments.out / "cases.json").write_text(index)


def make(model, case: Case, layers: list[int], rank: int) -> pyreft.ReftModel:
    """A pyreft model whose weights are nowhere near their start, so that nothing cancels."""
    kind = getattr(pyreft, case.intervention)
    width = model.config.hidden_size
    representations = []
    for layer in layers:
        intervention = kind(
            embed_dim=width,
            low_rank_dimension=rank,
            act_fn=case.act_fn,
            dtype=torch.float32,
            add_bias=True,
            dropout=0.0,
        )
        with torch.no_grad():
            for name, parameter in intervention.named_parameters():
                if name.startswith("rotate_layer"):
                    # Householder vectors below the diagonal; its ones must stay (pyreft casts
                    # them to integers), the rest torch ignores.
                    parameter.add_(0.1 * torch.randn_like(parameter).tril(-1))
                elif name.endswith("bias") or name == "learned_source":
                    parameter.add_(torch.randn_like(parameter))
        representations.append(
            {
                "layer": layer,
                "component": case.component,
                "low_rank_dimension": rank,
                "intervention": intervention,
            }
        )
    reft = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=representations))
    reft.eval()  # returns nothing, unlike torch's
    return reft


def logits(reft, inputs: dict[str, torch.Tensor], case: Case, positions: str) -> torch.Tensor:
    """The logits, each row edited where pyreft's own datasets would edit it.

    Those point the positions that a short prompt lacks at a padding token, which they put in
    front of every row. Here only rows that need one get it, because it shifts the others'
    position embeddings by one, and with them every rounding. The logits there are left out.
    """
    first, last = pyreft.parse_positions(positions)
    locations = torch.tensor(
        [
            pyreft.get_intervention_locations(
                last_position=length,
                first_n=first,
                last_n=last,
                num_interventions=len(reft.interventions),
                share_weights=not case.split,
                pad_mode="first",
            )
            for length in inputs["prompt_length"].tolist()
        ]
    )
    short = (locations < 0).flatten(1).any(dim=1)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    results = torch.zeros(*ids.shape, reft.model.config.vocab_size)
    for rows, shift in ((~short, 0), (short, 1)):
        if not rows.any():
            continue
        front = torch.zeros(int(rows.sum()), shift, dtype=ids.dtype)
        with torch.no_grad():
            _, output = reft(
                {
                    "input_ids": torch.cat([front, ids[rows]], dim=1),
                    "attention_mask": torch.cat([front, mask[rows]], dim=1),
                },
                unit_locations={
                    "sources->base": (None, (locations[rows] + shift).transpose(0, 1).tolist())
                },
            )
        results[rows] = output.logits[:, shift:]
    return results


if __name__ == "__main__":
    main()
