"""Folders that pyvene and pyreft write: `config.json` and one `intkey_*.bin` an intervention.

Next door: `pyreft` and `pyvene` make interventions of what is read here, `pyvene_places` knows
where they belong.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from reft_interp.interop.hub import downloaded

CONFIG = "config.json"
# pyvene's RepresentationConfig, a tuple that is saved as a list; later fields do not matter here.
_FIELDS = (
    "layer component unit max_number_of_units low_rank_dimension intervention_type intervention "
    "subspace_partition group_key intervention_link_key moe_key"
).split()


MODEL_WEIGHTS = "pytorch_model.bin"
_ON_THE_HUB = re.compile(r"\w[\w.-]*/[\w.-]+")


def local_folder(folder: str | Path) -> Path:
    """A folder as it is given, or, where there is none and it may be a name on the hub, a copy of
    what these libraries put there."""
    local = Path(folder)
    if isinstance(folder, Path) or not _ON_THE_HUB.fullmatch(folder):
        return local
    if local.exists() or local.parent.is_dir():
        return local
    return downloaded(folder, [CONFIG, "intkey_*.bin", MODEL_WEIGHTS])


@dataclass(frozen=True)
class SavedIntervention:
    """An intervention as `config.json` describes it."""

    kind: str
    files: tuple[str, str]
    """The name of its file, and the one that pyvene gave it up to version 0.1.6."""
    layer: int
    component: str
    units: int
    """How many tokens pyvene puts together into one activation."""
    interchange_dim: int | list[int] | None
    """How many of its coordinates are swapped, where they are not all."""
    partition: Sequence[Sequence[int]] | None
    """Named parts of the coordinates, each `[start, stop)` or a list of them."""
    source_is_constant: bool
    link: int | str | None
    """pyvene trains those of one link as one: each file holds the same weights."""


def read_config(
    folder: Path, package: str, known: Iterable[str], copied: Iterable[str] = ()
) -> list[SavedIntervention]:
    """The interventions of a folder, in the order in which they were given to the library.

    Args:
        folder: that it wrote.
        package: "pyreft" or "pyvene", which has to be where the classes are from.
        known: names of the classes that can be read.
        copied: names of those that users have in code of their own, copied from a notebook of
            the library's.

    Raises:
        FileNotFoundError: no `config.json`.
        ValueError: it is not the library's, or asks for what cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        hint = (
            f"It looks like a checkpoint of {package}'s trainer, which leaves out what the tensors "
            f"are: load it in {package} and call its save."
            if any(folder.glob("intkey_*.bin"))
            else "Give the folder that ReftModel.save or IntervenableModel.save wrote."
        )
        raise FileNotFoundError(f"there is no {CONFIG} in {folder}. {hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if "intervenable_representations" in config:
            raise ValueError(
                "this is the layout of pyvene 0.0.1 to 0.0.6, which is not read: load it with that "
                "version, put the tensors into an IntervenableModel of 0.1 or later, and save that"
            )
        kinds, representations = config["intervention_types"], config["representations"]
        entries = [_as_mapping(representation) for representation in representations]
        if not entries or len(entries) != len(kinds):
            raise ValueError(f"{len(entries)} representations, {len(kinds)} intervention types")
        seen: Counter[tuple[str, str]] = Counter()
        saved = []
        for kind, entry in zip(kinds, entries, strict=True):
            keys = key_of(entry, "_"), key_of(entry, ".")
            files = (f"intkey_{keys[0]}#{seen[keys]}.bin", f"intkey_{keys[1]}#{seen[keys]}.bin")
            saved.append(
                SavedIntervention(
                    kind,
                    files,
                    int(entry["layer"]),
                    entry["component"],
                    int(entry["max_number_of_units"]),
                    _each(config, "intervention_dimensions", len(saved)),
                    entry.get("subspace_partition"),
                    bool(_each(config, "intervention_constant_sources", len(saved))),
                    entry.get("intervention_link_key"),
                )
            )
            seen[keys] += 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not what {package} writes: {error!r}") from error
    mode = config.get("mode", "parallel")
    if mode != "parallel" and len(entries) > 1:
        raise ValueError(
            f"{path}: mode must be 'parallel' where there are several interventions, got {mode!r}: "
            "in it each edits the source of the next one, which is not read. Load them by "
            "themselves and nest them with EditedSource."
        )
    for number, entry in enumerate(entries):
        _check_supported(f"{path}, intervention {number}", entry)
    return [
        replace(entry, kind=_class_name(entry.kind, path, package, known, copied))
        for entry in saved
    ]


def _as_mapping(representation: Sequence[Any] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(representation, Mapping):
        return {"component": "block_output", "unit": "pos", "max_number_of_units": 1} | dict(
            representation
        )
    return dict(zip(_FIELDS, representation, strict=False))


def _each(config: Mapping[str, Any], field: str, number: int) -> Any:
    listed = config.get(field)
    return None if listed is None else listed[number]


def key_of(entry: Mapping[str, Any], joint: str) -> str:
    """What pyvene calls an intervention, up to the number that tells its namesakes apart."""
    by_path = "." in entry["component"]
    parts = [] if by_path else ["layer", str(entry["layer"])]
    for name, field in (("comp", "component"), ("unit", "unit"), ("nunit", "max_number_of_units")):
        parts += [name, str(entry[field]).replace(".", joint)]
    return joint.join(parts)


def _check_supported(where: str, entry: Mapping[str, Any]) -> None:
    if entry["unit"] != "pos":
        raise ValueError(f"{where}: unit must be 'pos' (tokens), got {entry['unit']!r}")
    if entry.get("moe_key") is not None:
        raise ValueError(f"{where}: moe_key cannot be read, got {entry['moe_key']!r}")


def _class_name(
    written: str, path: Path, package: str, known: Iterable[str], copied: Iterable[str]
) -> str:
    # As in "<class 'pyreft.interventions.LoreftIntervention'>".
    match = re.fullmatch(r"<class '([\w.]+)'>", written)
    module, _, name = (match[1] if match else written).rpartition(".")
    if name in copied:
        return name
    # A class of the same name from elsewhere may compute anything.
    if name not in known or module.partition(".")[0] != package:
        raise ValueError(
            f"{path}: cannot read interventions of {written}; the known classes of {package} are "
            f"{', '.join(known)}"
        )
    return name


def find_file(folder: Path, names: tuple[str, str]) -> Path:
    """The file of an intervention.

    Raises:
        FileNotFoundError: there is none under either name.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(path.name for path in folder.glob("intkey_*.bin"))) or "none"
    raise FileNotFoundError(f"there is no {names[0]} in {folder} (there are: {found})")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Named tensors, and nothing else: nothing in the file is executed.

    Raises:
        ValueError: it holds something else, or is damaged.
    """
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
