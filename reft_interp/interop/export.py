"""Trained interventions in a folder that plain transformers runs, without this package.

The folder gets `edits.py`, a copy of `transformers_edits` beside this file, which says how it
is used. Next door: `fold` writes edits into the model's own weights, where that is exact.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.transformers_edits import FORMAT
from reft_interp.interventions import INTERVENTIONS, RED, Intervention, LinearCombination
from reft_interp.interventions.edits import Add, Set
from reft_interp.interventions.values import Affine, Constant
from reft_interp.models import identify
from reft_interp.positions import Every, FirstLast, Indices, PositionSelector
from reft_interp.runtime.trained import Trained, intervened_of
from reft_interp.saved_files import write_tensors
from reft_interp.sites import Site
from reft_interp.whole_files import replacing

_WRAPPED = "_original_component."


def export_to_transformers(intervened: Trained, folder: str | Path) -> None:
    """Write `edits.py`, `edits.json` and `edits.safetensors`, which edit a plain model alike.

    `edits.attach(model)` puts them on a model of transformers, with torch, safetensors and
    transformers alone: in plain calls and in `generate`, with padding on either side. (A plain call
    of gpt2 or another model with learned positions needs `position_ids` where the padding is on the
    left, edited or not: `edits.py` shows how.) The folder may be one that `IntervenedModel.save`
    wrote, whose files have other names.

    Args:
        intervened: what to write: the model, or a result that holds it.
        folder: made if it does not exist.

    Raises:
        TypeError: what is no intervened model, such as a classifier.
        ValueError: an intervention that reads a source or is none of this package, or positions
            that need more than token ids (spans, pieces of text, the answer).
    """
    intervened = intervened_of(intervened, "intervened")
    # Everything is known to be possible before anything is written.
    tensors: dict[str, Tensor] = {}
    entries: list[dict[str, Any]] = []
    modules = list(intervened.interventions)
    for placement in intervened.placements:
        number = modules.index(placement.intervention)
        described = describe(placement.intervention)
        for i, (_, own) in enumerate(described):
            tensors |= {f"{number}.{i}.{name}": tensor for name, tensor in own.items()}
        entries.append(
            {
                "intervention": type(placement.intervention).__name__,
                "tensors": str(number),
                "terms": [term for term, _ in described],
                **place(intervened.model, placement.site),
                "positions": _positions(placement.on),
            }
        )
    config = {"format": FORMAT, "model": asdict(identify(intervened.model)), "edits": entries}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # All is written before anything is moved, so that a full disk leaves what was there whole.
    with (
        replacing(folder / "edits.py") as code,
        replacing(folder / "edits.json") as described,
        replacing(folder / "edits.safetensors") as held,
    ):
        write_tensors(tensors, held)
        text = json.dumps(config, indent=2) + "\n"
        described.write_text(text, encoding="utf-8", newline="\n")
        code.write_text(_source(), encoding="utf-8", newline="\n")


def describe(
    intervention: Intervention, strength: int | float = 1
) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """The formula of an intervention in the terms of `transformers_edits.Edit`.

    Args:
        intervention: whose change of h is described.
        strength: what that is multiplied by.

    Returns:
        Of each change that is added up, its strength, verb and activation, and its tensors.

    Raises:
        ValueError: it reads a source, or computes something else than Set, Add, RED and sums of
            them do.
    """
    name = type(intervention).__name__
    if intervention.needs_source:
        raise ValueError(
            f"{name} cannot run without this package: it reads a source, another run of the "
            "model. What it does with a constant can: Clamp, ZeroAblation, MeanAblation."
        )
    known = INTERVENTIONS.get(name) is type(intervention)
    if known and isinstance(intervention, LinearCombination):
        parts = zip(intervention.parts, intervention.strengths, strict=True)
        return [term for part, a in parts if a for term in describe(part, strength * a)]
    if known and isinstance(intervention, RED):
        tensors = {"scale": intervention.scale, "bias": intervention.bias}
        return [({"strength": strength, "verb": "scale"}, _copies(tensors))]
    if not known or not isinstance(intervention, Set | Add):
        raise ValueError(f"{name} cannot run without this package: its formula is not known")
    term = {"strength": strength, "verb": "set" if isinstance(intervention, Set) else "add"}
    value = intervention.value
    tensors = {"rows": intervention.rows()}
    if isinstance(value, Affine):
        term["activation"] = value.activation
        tensors |= {"weight": value.weight, "bias": value.bias}
        if value.offset is not None:
            tensors["offset"] = value.offset
    elif isinstance(value, Constant):
        tensors["constant"] = value.coordinates
    else:
        raise ValueError(
            f"{name} cannot run without this package: the value is {type(value).__name__}"
        )
    return [(term, _copies(tensors))]


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory.
    return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}


def place(model: TransformerBridge, site: Site) -> dict[str, Any]:
    """The module of the plain model whose input or output a site is, and which of its components.

    Raises:
        ValueError: no module's input or output is the site.
    """
    point = model.hook_dict[site.hook_name]
    for path, component in model.original_model.named_modules():
        for at in ("in", "out"):
            if component._modules.get(f"hook_{at}") is point:
                module = {"module": _plain_path(path, component), "at": f"{at}put"}
                return module | _components(model, site)
    raise ValueError(f"{site} is neither input nor output of a module of {identify(model).name}")


def _plain_path(path: str, component: nn.Module) -> str:
    """A module's name before the bridge wrapped it."""
    parents, _, last = path.replace(_WRAPPED, "").rpartition(".")
    # The bridge may add a component under a name of its own, as `o` for gpt2's `c_proj`.
    name = str(getattr(component, "name", None) or last).rpartition(".")[2]
    return f"{parents}.{name}" if parents else name


def _components(model: TransformerBridge, site: Site) -> dict[str, list[int]]:
    if site.neurons is not None:
        return {"components": list(site.neurons)}
    if site.heads is not None:
        size = model.cfg.d_head
        return {"components": [head * size + i for head in site.heads for i in range(size)]}
    return {}


def _positions(on: PositionSelector) -> dict[str, Any]:
    if on.edit is not None:
        raise ValueError(
            f"positions {str(on)!r} cannot be exported: a plain model does not see which edits a "
            "row asks for. Export the placements of each name by themselves, without a name."
        )
    if on.of == "prompt":
        match on:
            case Every():
                return {"every": True}
            case Indices():
                return {"indices": list(on.at)}
            case FirstLast():
                return {"first": on.first, "last": on.last, "rounding": on.rounding}
    raise ValueError(
        f"positions {str(on)!r} cannot be exported: a plain model sees token ids, not spans, "
        "pieces of text or where an answer begins. Those that can: 'f3+l3' and its like, 'last', "
        "'every', indices."
    )


def _source() -> str:
    spec = find_spec("reft_interp.interop.transformers_edits")
    assert spec is not None and spec.origin is not None  # imported above
    return Path(spec.origin).read_text(encoding="utf-8")
