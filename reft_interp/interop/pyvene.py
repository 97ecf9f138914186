"""Read the interventions that pyvene saves: DAS, boundless DAS, masks, and constants.

By pyvene 0.1.8, `models/interventions.py`; with R a rotation and m a mask they compute

    VanillaIntervention                    s, or its first coordinates
    RotatedSpaceIntervention               h + Rᵀ(Rs − Rh), the first k rows of a full R
    LowRankRotatedSpaceIntervention        the same with an R of r rows
    BoundlessRotatedSpaceIntervention      h + Rᵀ(m ⊙ (Rs − Rh)), m a soft boundary
    SigmoidMaskRotatedSpaceIntervention    the same, m = σ(logits / temperature)
    SigmoidMaskIntervention                the same with R = I
    AdditionIntervention                   h + s, s saved with it
    SubtractionIntervention                h − s, s saved with it
    ZeroIntervention                       0

each, where some coordinates are chosen, in those alone; s of VanillaIntervention may be saved too.

Next door: `pyvene_folder` reads files and configuration, `pyvene_places` knows the places in the
model, `pyreft_classes` how a rotation is saved. pyvene itself is not needed.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from numbers import Integral
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interop.pyreft_classes import checked_coordinates, orthonormal_columns
from reft_interp.interop.pyvene_folder import (
    SavedIntervention,
    find_file,
    local_folder,
    read_config,
    read_tensors,
)
from reft_interp.interop.pyvene_places import site_of
from reft_interp.interventions import (
    BoundlessInterchange,
    Clamp,
    DistributedInterchange,
    Interchange,
    Intervention,
    MaskedInterchange,
    VectorAddition,
    ZeroAblation,
)
from reft_interp.models import identify
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.placement import SOURCE
from reft_interp.subspace import Subspace

_ROTATION = "rotate_layer.parametrizations.weight"
_ROTATED = {f"{_ROTATION}.original", f"{_ROTATION}.0.base"}
_CONSTANT = frozenset({"source_representation"})
_SIZES = {"embed_dim", "interchange_dim"}  # not saved by early versions
# A mask that is further than this from 0 and 1 computes something else once it is hard.
_SOFT = 0.01


def load_pyvene(
    folder: str | Path,
    model: TransformerBridge,
    *,
    on: str | PositionSelector | Sequence[str | PositionSelector],
    subspaces: Sequence[int] | Sequence[Sequence[int] | None] | None = None,
    sources: Sequence[str] | None = None,
) -> IntervenedModel:
    """The interventions in a folder that pyvene's `IntervenableModel.save` wrote, in `model`.

    Nothing in the folder is executed. pyvene records neither the positions nor which subspaces
    were swapped, so both are arguments. Its masks stay soft after training, ours do not: a
    warning says how far a mask is from zeros and ones. (The boundary's first coordinate always
    is: pyvene swaps at most half of it, σ(0), and here it is swapped.)

    Args:
        folder: with `config.json` and the `intkey_*.bin` files; or "name/repository" on the Hugging
            Face hub, where there is no such folder.
        model: the model that they were trained on.
        on: the tokens, for all interventions or for each in the folder's order.
        subspaces: what was given to pyvene under that name: numbers of parts of the
            `subspace_partition`, or of coordinates where there is none. `[0, 1]` is for all
            interventions, `[[0], [1]]` has a list for each in the folder's order (None: all).
            All by default. (pyvene takes such a list for every intervention and example.)
        sources: which source each intervention reads, by name; by default all read the same. What
            is named for one whose source is a constant is not used.

    Raises:
        FileNotFoundError: `config.json` or the file of an intervention is missing.
        ValueError: the folder is not pyvene's, is damaged or tries to execute something; a class
            or component that cannot be read; another model's width or depth; `on`, `subspaces`
            or `sources` do not fit it; the hub has no such repository.
        ConnectionError: the hub cannot be reached, and its local cache has no copy.
        PermissionError: the hub does not let this account read it.
    """
    folder = local_folder(folder)
    saved = read_config(folder, "pyvene", CLASSES)
    one = isinstance(on, str | PositionSelector)
    selectors = [parse_positions(s) for s in ([on] * len(saved) if one else on)]
    names = [SOURCE] * len(saved) if sources is None else list(sources)
    parts = _each_subspaces(subspaces, len(saved))
    for argument, given in (("on", selectors), ("sources", names), ("subspaces", parts)):
        if len(given) != len(saved):
            raise ValueError(
                f"{argument} must hold one for each of the folder's {len(saved)} interventions, "
                f"got {len(given)}"
            )
    _check_links(folder, saved, selectors)
    placements = []
    for entry, where, source, swapped in zip(saved, selectors, names, parts, strict=True):
        site = site_of(entry, model)
        width = site.width(model)
        _check_reads(f"{folder}, {entry.kind} at {site}", entry)
        tensors: dict[str, Tensor] = {}
        names_saved = _tensors_of(entry)
        file = find_file(folder, entry.files) if names_saved else folder
        if names_saved:
            tensors = read_tensors(file)
            _check(file, entry, tensors)
            rotations = [t for name, t in tensors.items() if name.startswith(_ROTATION)]
            if rotations and len(rotations[0]) != width:
                raise ValueError(
                    f"{file} holds an intervention of another width than {site} of "
                    f"{identify(model).name}, which is {width} wide. Was it trained on another "
                    "model?"
                )
        try:
            edit = CLASSES[entry.kind].build(_Given(tensors, width, entry, swapped))
        except ValueError as error:
            raise ValueError(f"{file}, {entry.kind}: {error}") from error
        read = source if edit.needs_source else SOURCE
        placements.append(Placement(edit, site, where, source=read))
    return IntervenedModel(model, placements)


def _each_subspaces(
    subspaces: Sequence[int] | Sequence[Sequence[int] | None] | None, count: int
) -> list[Sequence[int] | None]:
    if subspaces is None:
        return [None] * count
    numbers = [int(one) for one in subspaces if isinstance(one, Integral)]
    if len(numbers) == len(subspaces):
        return [numbers] * count
    if numbers:
        raise ValueError(
            "subspaces must be numbers for all interventions, as [0, 1], or such a list (or None) "
            f"for each, as [[0], [1]], got {list(subspaces)}"
        )
    return cast("list[Sequence[int] | None]", list(subspaces))


def _check_links(
    folder: Path, saved: Sequence[SavedIntervention], selectors: Sequence[PositionSelector]
) -> None:
    # pyvene hands what the first of them wrote to the next one, wherever that is.
    places: dict[int | str, set[object]] = defaultdict(set)
    for entry, selector in zip(saved, selectors, strict=True):
        if entry.link is not None:
            places[entry.link].add((entry.layer, entry.component, selector))
    for link, different in places.items():
        if len(different) > 1:
            raise ValueError(
                f"{folder}: the interventions of intervention_link_key {link!r} are at "
                f"{len(different)} places. pyvene has each of them edit what the one before it "
                "wrote, from another place, which cannot be read"
            )


def _check_reads(where: str, entry: SavedIntervention) -> None:
    if entry.units != 1:
        raise ValueError(f"{where}: several tokens as one activation cannot be read")
    constant = CLASSES[entry.kind].constant
    if constant is not None and constant != entry.source_is_constant:
        reads = "a constant" if entry.source_is_constant else "another run"
        raise ValueError(f"{where}: with {reads} as its source it cannot be read")


def _tensors_of(entry: SavedIntervention) -> frozenset[str]:
    saved = CLASSES[entry.kind]
    return _CONSTANT if saved.constant is None and entry.source_is_constant else saved.tensors


def _check(file: Path, entry: SavedIntervention, tensors: Mapping[str, Tensor]) -> None:
    kind, expected = entry.kind, _tensors_of(entry)
    missing = sorted(expected - tensors.keys())
    unknown = sorted(tensors.keys() - expected - _SIZES)
    if missing or unknown:
        raise ValueError(
            f"{file}: these are not the tensors that pyvene's {kind} saves: missing "
            f"{missing or 'none'}, unknown {unknown or 'none'}"
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{file}: {name} has values that are not finite")


@dataclass(frozen=True, eq=False)
class _Given:
    """An intervention as it was saved, and what the caller says of it."""

    tensors: Mapping[str, Tensor]
    width: int
    entry: SavedIntervention
    subspaces: Sequence[int] | None


def _source(given: _Given) -> Float[Tensor, "d"]:
    """The constant that is saved as a source."""
    saved = given.tensors["source_representation"].float().flatten()
    if len(saved) != given.width:
        raise ValueError(f"its source holds {len(saved)} numbers, the site {given.width}")
    return saved


def _vanilla(given: _Given) -> Intervention:
    chosen = _chosen(given.width, given.entry.interchange_dim, given)
    if given.entry.source_is_constant:
        return Clamp(Subspace(torch.eye(given.width)[chosen]), _source(given)[chosen])
    if sorted(chosen) == list(range(given.width)):
        return Interchange(given.width)
    return DistributedInterchange(Subspace(torch.eye(given.width)[chosen]))


def _zero(given: _Given) -> Intervention:
    chosen = _chosen(given.width, given.entry.interchange_dim, given)
    return ZeroAblation(Subspace(torch.eye(given.width)[chosen]))


def _added(given: _Given) -> Intervention:
    chosen = _chosen(given.width, given.entry.interchange_dim, given)
    source = _source(given)
    vector = torch.zeros_like(source)
    vector[chosen] = source[chosen]
    strength = 1.0 if given.entry.kind == "AdditionIntervention" else -1.0
    return VectorAddition(vector, strength=strength)


def _rotated(given: _Given) -> Intervention:
    chosen = _chosen(given.width, given.entry.interchange_dim, given)
    return DistributedInterchange(Subspace(_rows(given.tensors)[chosen]), trainable=True)


def _low_rank(given: _Given) -> Intervention:
    # This class swaps all of its rows, whatever its interchange_dim is.
    rows = _rows(given.tensors)
    chosen = _chosen(len(rows), len(rows), given)
    return DistributedInterchange(Subspace(rows[chosen]), trainable=True)


def _boundless(given: _Given) -> Intervention:
    _refuse(given.subspaces)
    saved, width = given.tensors, given.width
    boundary = width * saved["intervention_boundaries"].float().clamp(1e-3, 1).item()
    places, temperature = torch.arange(width), saved["temperature"].float()
    mask = torch.sigmoid(places / temperature) * torch.sigmoid((boundary - places) / temperature)
    swapped = ceil(boundary)  # the coordinates i < boundary
    _warn_if_soft(given.entry.kind, mask, places < boundary)
    edit = BoundlessInterchange(Subspace(_rows(saved)))
    # A logit that gives the whole space would be infinite; half a coordinate less is as good.
    share = torch.tensor(min(swapped, width - 0.25) / width)
    edit.load_state_dict(edit.state_dict() | {"value.mask.logit": torch.logit(share)})
    return edit


def _masked(given: _Given) -> Intervention:
    _refuse(given.subspaces)
    saved, width = given.tensors, given.width
    rows = _rows(saved) if f"{_ROTATION}.original" in saved else torch.eye(width)
    mask = saved["masks" if "masks" in saved else "mask"].float()
    if mask.shape != (width,):
        raise ValueError(f"its mask has shape {tuple(mask.shape)}, but the site is {width} wide")
    # pyvene trains the temperature too, which may end below zero and turn the mask around.
    logits = mask / saved["temperature"].float()
    if not torch.isfinite(logits).all():
        raise ValueError(f"its temperature is too near zero: {saved['temperature'].item()}")
    _warn_if_soft(given.entry.kind, torch.sigmoid(logits), logits > 0)
    edit = MaskedInterchange(Subspace(rows))
    edit.load_state_dict(edit.state_dict() | {"value.mask.logits": logits})
    return edit


@dataclass(frozen=True)
class _Class:
    build: Callable[[_Given], Intervention]
    tensors: frozenset[str]
    """What it saves; there is no file for a class that saves nothing."""
    constant: bool | None = False
    """Whether its source is a constant; None where it may be, and is then what is saved."""


CLASSES: Mapping[str, _Class] = {
    "VanillaIntervention": _Class(_vanilla, frozenset(), constant=None),
    "RotatedSpaceIntervention": _Class(_rotated, frozenset(_ROTATED)),
    "LowRankRotatedSpaceIntervention": _Class(_low_rank, frozenset(_ROTATED)),
    "BoundlessRotatedSpaceIntervention": _Class(
        _boundless,
        frozenset(_ROTATED | {"intervention_boundaries", "temperature", "intervention_population"}),
    ),
    "SigmoidMaskIntervention": _Class(_masked, frozenset({"mask", "temperature"})),
    "SigmoidMaskRotatedSpaceIntervention": _Class(
        _masked, frozenset(_ROTATED | {"masks", "temperature"})
    ),
    "AdditionIntervention": _Class(_added, _CONSTANT, constant=True),
    "SubtractionIntervention": _Class(_added, _CONSTANT, constant=True),
    "ZeroIntervention": _Class(_zero, frozenset(), constant=True),
}
"""The classes that can be read, by name."""


def _rows(saved: Mapping[str, Tensor]) -> Float[Tensor, "r d"]:
    original, base = (saved[f"{_ROTATION}.{part}"].float() for part in ("original", "0.base"))
    if original.ndim != 2 or base.shape != (len(original), len(original)):
        raise ValueError(
            f"its rotation has parameters of shapes {tuple(original.shape)}, {tuple(base.shape)}"
        )
    return orthonormal_columns(original, base).T


def _chosen(count: int, interchange_dim: int | list[int] | None, given: _Given) -> list[int]:
    """Which of the coordinates are swapped."""
    subspaces = given.subspaces
    if subspaces is None:
        swapped = count if interchange_dim is None else interchange_dim
        if not isinstance(swapped, int) or not 1 <= swapped <= count:
            raise ValueError(f"interchange_dim must be between 1 and {count}, got {swapped!r}")
        return list(range(swapped))
    parts = given.entry.partition
    if parts is None:
        return checked_coordinates(subspaces, count)
    subspaces = checked_coordinates(subspaces, len(parts), "parts")
    # As in pyvene: two numbers are a range.
    chosen = [
        i
        for part in (parts[number] for number in subspaces)
        for i in (range(part[0], part[1]) if len(part) == 2 else part)
    ]
    if outside := [i for i in chosen if not 0 <= i < count]:
        raise ValueError(
            f"subspace_partition must be of its {count} coordinates, 0 to {count - 1}, got "
            f"{outside[0]}"
        )
    return chosen


def _refuse(subspaces: Sequence[int] | None) -> None:
    if subspaces is not None:
        raise ValueError(f"it has a mask and no subspaces, got subspaces={list(subspaces)}")


def _warn_if_soft(kind: str, mask: Float[Tensor, "d"], hard: Tensor) -> None:
    apart = (mask - hard.float()).abs()
    if apart.max() > _SOFT:
        warnings.warn(
            f"the mask of this {kind} is soft, and is taken as zeros and ones: {hard.sum()} of "
            f"{len(hard)} coordinates are swapped. Up to {apart.max():.2f} of a coordinate (number "
            f"{apart.argmax()}) is swapped here and not there, or there and not here.",
            stacklevel=4,
        )
