"""Write the folders that pyreft reads: `config.json` and one `intkey_*.bin` an intervention.

The opposite of `pyreft`, which reads them, and of `pyreft_classes`, which says what each class
computes.
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.pyvene_folder import CONFIG, key_of
from reft_interp.interop.pyvene_places import COMPONENTS, is_same_place
from reft_interp.interventions import (
    ConsReFT,
    DiReFT,
    Intervention,
    LobiReFT,
    LoReFT,
    NoReFT,
)
from reft_interp.interventions.rows import OrthonormalRows, PartOfRows
from reft_interp.interventions.values import Affine, Constant
from reft_interp.models import identify
from reft_interp.positions import FirstLast
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.trained import Trained, intervened_of
from reft_interp.sites import Site
from reft_interp.whole_files import replacing

# How far a float32 matrix may be from the rows that are used and still be what was meant.
_ROUNDING = 1e-6
_LATER_FIELDS = 9  # of pyvene's RepresentationConfig, none of which pyreft uses


def save_pyreft(intervened: Trained, folder: str | Path) -> None:
    """Write interventions as `ReftModel.save` does, for `ReftModel.load` and `load_pyreft`.

    The tensors of LoReFT, NoReFT and DiReFT are written as they are. The other classes save a
    rotation by the parameters behind it, of which many stand for the same one; what is written
    stands for ours to the last digit.

    Where each place has an intervention for first tokens and one for last ones (an untied ReFT),
    those for first tokens are written first, then the others: so pyreft's datasets tell them apart
    (`share_weights=False`), and so does `load_pyreft(..., on="f3+l3")`.

    pyreft records neither the positions nor the activation function: say them again there (a
    warning reminds of the latter). Its own `load` makes every learned source bfloat16 and
    linear, and fails on NoreftIntervention and NodireftIntervention, whose `add_bias` it does
    not record: build the ReftModel with the right options (`add_bias` is whether NoReFT has an
    `offset`, and False for DiReFT) and call its `load_intervention`.

    Args:
        intervened: LoReFT, NoReFT, ConsReFT, LobiReFT and DiReFT at `resid_pre`, `resid_post`,
            `attn_out`, `mlp_out` or `z` with all of its heads; or a result that holds them.
        folder: made if it does not exist.

    Raises:
        ValueError: an intervention or a site that pyreft does not have; nothing is written.
    """
    intervened = intervened_of(intervened, "intervened")
    seen: Counter[str] = Counter()
    config: dict[str, list[Any]] = {
        "intervention_constant_sources": [],
        "intervention_dimensions": [],
        "intervention_types": [],
        "representations": [],
        "sorted_keys": [],
    }
    files: dict[str, dict[str, Tensor]] = {}
    for placement in _halved(intervened.placements):
        if placement.name is not None:
            raise ValueError(
                f"{placement}: pyreft does not record which rows an intervention edits; save the "
                "placements of each name in a folder of their own, without a name"
            )
        component = _component(intervened.model, placement.site)
        kind, tensors = revert(placement.intervention)
        unit = {"layer": placement.site.layer, "component": component, "unit": "pos"}
        name = key_of(unit | {"max_number_of_units": 1}, "_")
        key = f"{name}#{seen[name]}"
        seen[name] += 1
        files[f"intkey_{key}.bin"] = tensors
        rank = placement.intervention.arguments()["rank"]
        config["intervention_constant_sources"].append(True)
        config["intervention_dimensions"].append(placement.intervention.width)
        config["intervention_types"].append(f"<class 'pyreft.interventions.{kind}'>")
        config["representations"].append([*unit.values(), 1, rank, *[None] * _LATER_FIELDS])
        config["sorted_keys"].append(key)
    _warn_of_activations(intervened)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # All is written before anything is moved, so that a full disk leaves what was there whole.
    with ExitStack() as moves:
        described = moves.enter_context(replacing(folder / CONFIG))
        text = json.dumps({**config, "mode": "parallel"}, indent=2) + "\n"
        described.write_text(text, encoding="utf-8", newline="\n")
        for name, tensors in files.items():
            torch.save(tensors, moves.enter_context(replacing(folder / name)))


def revert(intervention: Intervention) -> tuple[str, dict[str, Tensor]]:
    """pyreft's class that computes the same, by name, and its state dict.

    Raises:
        ValueError: pyreft has no such class.
    """
    name = type(intervention).__name__
    if type(intervention) not in (LoReFT, NoReFT, ConsReFT, LobiReFT, DiReFT):
        raise ValueError(
            f"pyreft has no class that computes what {name} does; those that it has are LoReFT, "
            "NoReFT, ConsReFT, LobiReFT, DiReFT"
        )
    assert isinstance(intervention, LoReFT | NoReFT | ConsReFT | LobiReFT | DiReFT)
    value, rows = intervention.value, _rows(intervention)
    width = torch.tensor(intervention.width)
    sizes = {"embed_dim": width, "interchange_dim": width.clone()}
    if isinstance(value, Constant):
        kind = "Consreft" if isinstance(intervention, ConsReFT) else "Lobireft"
        found = {"learned_source": value.coordinates, **sizes, **_rotation(rows)}
        return f"{kind}Intervention", _copied(found)
    assert isinstance(value, Affine)
    affine = {"weight": value.weight, "bias": value.bias}
    if isinstance(intervention, LoReFT):
        return "LoreftIntervention", _copied(affine | {"rotate_layer": rows.T})
    learned = {f"learned_source.{part}": tensor for part, tensor in affine.items()}
    if isinstance(intervention, DiReFT) and _is_orthonormal(intervention):
        return "DireftIntervention", _copied({**sizes, **_rotation(rows), **learned})
    free = {"proj_layer.weight": rows}
    if value.offset is not None:
        free["proj_layer.bias"] = value.offset
    kind = "Noreft" if isinstance(intervention, NoReFT) else "Nodireft"
    return f"{kind}Intervention", _copied({**sizes, **free, **learned})


def _halved(placements: Sequence[Placement]) -> list[Placement]:
    """All that edit first tokens, then all that edit last ones, where each place has both: pyreft
    gives the first tokens to the first half of a folder, and the last to the second."""
    firsts = [p for p in placements if isinstance(p.on, FirstLast) and not p.on.last]
    lasts = [p for p in placements if isinstance(p.on, FirstLast) and not p.on.first]
    # The second half in the layers' order of the first.
    order = {placement.site: number for number, placement in enumerate(firsts)}
    paired = {p.site for p in lasts} == order.keys() and len(lasts) == len(firsts) == len(order)
    if len(firsts) + len(lasts) < len(placements) or not paired:
        return list(placements)
    return [*firsts, *sorted(lasts, key=lambda placement: order[placement.site])]


def _component(model: TransformerBridge, site: Site) -> str:
    ours = {component: theirs for theirs, component in COMPONENTS.items()}
    if site.component not in ours or site.heads is not None:
        raise ValueError(f"pyreft has no place {site}; the known ones are {', '.join(ours)}")
    if not is_same_place(model, site):
        raise ValueError(
            f"pyreft has no place {site} of {identify(model).name}: it edits what the sublayer "
            "gives, which on this architecture is not what is added to the residual stream"
        )
    return ours[site.component]


def _is_orthonormal(intervention: LoReFT | NoReFT | ConsReFT | LobiReFT | DiReFT) -> bool:
    return isinstance(intervention.rows, OrthonormalRows | PartOfRows)


def _rows(intervention: LoReFT | NoReFT | ConsReFT | LobiReFT | DiReFT) -> Float[Tensor, "r d"]:
    """The rows; where the parameter is as good as they, it, without more rounding."""
    matrix = intervention.rows.matrix.detach()
    if _is_orthonormal(intervention):
        # Orthonormal alone would not do: rows that stay out of others are projected too.
        rows = intervention.rows().detach()
        if (matrix.double() - rows.double()).abs().max() > _ROUNDING:
            return rows
    return matrix


def _rotation(rows: Float[Tensor, "r d"]) -> dict[str, Tensor]:
    """What torch's `orthogonal` parametrization saves for these columns.

    They are the first columns of an orthogonal matrix, times a product of reflections that is
    the identity: reflections at the axes, each with its sign.
    """
    columns = rows.double().T
    base = torch.linalg.qr(columns, mode="complete").Q.to(rows)
    base[:, : len(rows)] = rows.T
    name = "rotate_layer.parametrizations.weight"
    return {f"{name}.original": -torch.eye(*columns.shape).to(rows), f"{name}.0.base": base}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # A view would be saved with all of what it is a view of.
    return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}


def _warn_of_activations(intervened: IntervenedModel) -> None:
    values = (getattr(module, "value", None) for module in intervened.interventions)
    used = {value.activation for value in values if isinstance(value, Affine)} - {"linear"}
    if used:
        warnings.warn(
            f"pyreft does not record activation functions: give act_fn={sorted(used)[0]!r} where "
            "you load the folder",
            stacklevel=3,
        )
