"""Read the folders that pyreft saves: `config.json` and one `intkey_*.bin` an intervention.

Next door: `pyreft_saving` writes them, `pyreft_config` reads `config.json`, `pyreft_classes`
knows what the tensors mean. Here: which place in the model, which tokens. pyreft itself is not
needed. `benchmarks/parity.py` compares with it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.pyreft_classes import convert
from reft_interp.interop.pyreft_config import SavedIntervention, read_config
from reft_interp.interventions import Intervention
from reft_interp.models import identify
from reft_interp.positions import FirstLast, PositionSelector, parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site

_MODEL_WEIGHTS = "pytorch_model.bin"
# pyvene's names for places in a model, and the hook at which our site has to be the very same.
COMPONENTS = {
    "block_input": "resid_pre",
    "block_output": "resid_post",
    "attention_output": "attn_out",
    "mlp_output": "mlp_out",
    "attention_value_output": "z",
}
_SAME_HOOK = {"attn_out": "attn.hook_out", "mlp_out": "mlp.hook_out"}
# A module's path instead of a name, as in "model.layers[8].output".
_PATH = re.compile(r"(?:\w+\.)*(?:layers?|h|blocks)\[(\d+)\]\.([\w.]+)")
_INSIDE = {
    "input": "block_input",
    "output": "block_output",
    "self_attn.output": "attention_output",
    "attn.output": "attention_output",
    "attention.output": "attention_output",
    "mlp.output": "mlp_output",
    "self_attn.o_proj.input": "attention_value_output",
}


def load_pyreft(
    folder: str | Path,
    model: TransformerBridge,
    *,
    on: str | PositionSelector | Sequence[str | PositionSelector],
    act_fn: str | None = None,
    ignore_model_weights: bool = False,
) -> IntervenedModel:
    """The interventions in a folder that `ReftModel.save` wrote, placed in `model`.

    Nothing in the folder is executed: the tensors are read with `weights_only=True`. pyreft
    records neither the positions nor the activation function, so both are arguments.

    Args:
        folder: with `config.json` and the `intkey_*.bin` files.
        model: the model that they were trained on.
        on: the tokens, as they were in training. "f3+l3" and its like are rounded as pyreft
            does: ⌊n/2⌋ tokens of a prompt at most on either side. In a folder with two
            interventions at each place (prefix and suffix, `share_weights=False`), the first half
            of them gets the f, the second the l. A list says it outright: one for each
            intervention in the folder's order, or two, for the two halves.
        act_fn: what was given to pyreft under that name.
        ignore_model_weights: load also where the folder holds trained weights of the base model
            (`include_model=True`), which stay unread.

    Raises:
        FileNotFoundError: `config.json` or the file of an intervention is missing.
        ValueError: the folder is not pyreft's, is damaged or tries to execute something; a class
            or component that cannot be read (the message lists those that can); it was trained
            on a model of another depth or width; `on` or `act_fn` does not fit it.
    """
    folder = Path(folder)
    saved = read_config(folder)
    _check_model_weights(folder, ignore_model_weights)
    sites = [_site(entry, model) for entry in saved]
    positions = _positions(on, sites)
    placements = []
    for entry, site, where in zip(saved, sites, positions, strict=True):
        file = _file(folder, entry.files)
        intervention = _read_intervention(file, entry.kind, act_fn)
        width = site.width(model)
        if intervention.width != width:
            raise ValueError(
                f"{file} holds an intervention {intervention.width} wide, but {site} of "
                f"{identify(model).name} is {width} wide. Was it trained on another model?"
            )
        placements.append(Placement(intervention, site, where))
    return IntervenedModel(model, placements)


def _site(entry: SavedIntervention, model: TransformerBridge) -> Site:
    layer, component = entry.layer, entry.component
    if path := _PATH.fullmatch(component):
        layer, component = int(path[1]), _INSIDE.get(path[2], component)
    if component not in COMPONENTS:
        raise ValueError(
            f"cannot place an intervention at {entry.component!r}; the known components are "
            f"{', '.join(COMPONENTS)}, and paths of the same modules, as in "
            "'model.layers[8].output'"
        )
    site = Site(COMPONENTS[component], layer)
    try:
        site.check(model)
    except ValueError as error:
        raise ValueError(f"the folder was made for another model: {error}") from None
    if not is_same_place(model, site):
        raise ValueError(
            f"cannot place an intervention at {entry.component!r} of {identify(model).name}: "
            f"pyreft edits what the sublayer gives, but {site} is what is added to the "
            "residual stream, and on this architecture the two differ"
        )
    return site


def is_same_place(model: TransformerBridge, site: Site) -> bool:
    """Whether what is added to the residual stream at a site is what the sublayer itself gives.

    Gemma 2 norms that before it is added, and others scale it.
    """
    same = _SAME_HOOK.get(site.component)
    hooks = model.hook_dict
    return same is None or hooks[site.hook_name] is hooks.get(f"blocks.{site.layer}.{same}")


def _positions(
    on: str | PositionSelector | Sequence[str | PositionSelector], sites: Sequence[Site]
) -> list[PositionSelector]:
    count, half = len(sites), len(sites) // 2
    if not isinstance(on, str | PositionSelector):
        each = [_as_pyreft(selector) for selector in on]
        if len(each) == count:
            return each
        if len(each) == 2 and count % 2 == 0:
            return each[:1] * half + each[1:] * half
        raise ValueError(
            f"on must be one selector, two (for the halves of an even number of interventions) "
            f"or {count} (one for each intervention of the folder), got {len(each)}"
        )
    selector = _as_pyreft(on)
    if len(set(sites)) == count:
        return [selector] * count
    # pyreft lists the prefix's interventions, then the suffix's at the same places.
    paired = count % 2 == 0 and set(sites[:half]) == set(sites[half:]) and len(set(sites)) == half
    if not (paired and isinstance(selector, FirstLast) and selector.first and selector.last):
        raise ValueError(
            f"on={str(selector)!r} does not say which tokens each intervention edits: the folder "
            "has several at one place. Give 'f3+l3' and its like for prefix and suffix, or a "
            f"list with a selector for each: {', '.join(map(str, sites))}"
        )
    prefix, suffix = replace(selector, last=0), replace(selector, first=0)
    return [*[prefix] * half, *[suffix] * half]


def _as_pyreft(on: str | PositionSelector) -> PositionSelector:
    selector = parse_positions(on)
    return replace(selector, rounding="pyreft") if isinstance(selector, FirstLast) else selector


def _file(folder: Path, names: tuple[str, str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(path.name for path in folder.glob("intkey_*.bin"))) or "none"
    raise FileNotFoundError(f"there is no {names[0]} in {folder} (there are: {found})")


def _read_intervention(file: Path, kind: str, act_fn: str | None) -> Intervention:
    try:
        return convert(kind, _read_tensors(file), act_fn)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            "refused: it holds more than tensors, and to read that would execute it"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"cannot be read, it may be cut short: {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError("holds something else than named tensors")
    return dict(tensors)


def _check_model_weights(folder: Path, ignore: bool) -> None:
    file = folder / _MODEL_WEIGHTS
    if ignore or not file.is_file():
        return
    try:
        weights = _read_tensors(file)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if weights:
        raise ValueError(
            f"{file} holds weights of the base model that were trained too: "
            f"{', '.join(list(weights)[:3])}{', ...' if len(weights) > 3 else ''}. Without them "
            "the interventions do not compute what they did. Put them into the model before it "
            "is hooked, and say ignore_model_weights=True."
        )
