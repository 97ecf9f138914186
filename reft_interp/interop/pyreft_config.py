"""What pyreft's `config.json` says: which classes, at which places, in which files.

It is pyvene's configuration of an intervenable model. Next door: `pyreft` reads the files and
places what is in them, `pyreft_classes` knows the classes.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reft_interp.interop.pyreft_classes import CLASSES

CONFIG = "config.json"
# pyvene's RepresentationConfig, a tuple that is saved as a list; later fields do not matter here.
_FIELDS = (
    "layer component unit max_number_of_units low_rank_dimension intervention_type intervention "
    "subspace_partition group_key intervention_link_key moe_key"
).split()


@dataclass(frozen=True)
class SavedIntervention:
    """An intervention as `config.json` describes it."""

    kind: str
    files: tuple[str, str]
    """The name of its file, and the one that pyvene gave it up to version 0.1.6."""
    layer: int
    component: str


def read_config(folder: Path) -> list[SavedIntervention]:
    """The interventions of a folder, in the order in which they were given to pyreft.

    Raises:
        FileNotFoundError: no `config.json`.
        ValueError: it is not pyreft's, or asks for what cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        hint = (
            "It looks like a checkpoint of pyreft's trainer, which leaves out what the tensors "
            "are: load it in pyreft and call its save."
            if any(folder.glob("intkey_*.bin"))
            else "Give the folder that ReftModel.save wrote."
        )
        raise FileNotFoundError(f"there is no {CONFIG} in {folder}. {hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kinds, representations = config["intervention_types"], config["representations"]
        entries = [_as_mapping(representation) for representation in representations]
        if not entries or len(entries) != len(kinds):
            raise ValueError(f"{len(entries)} representations, {len(kinds)} intervention types")
        seen: Counter[tuple[str, str]] = Counter()
        saved = []
        for kind, entry in zip(kinds, entries, strict=True):
            keys = key_of(entry, "_"), key_of(entry, ".")
            files = (f"intkey_{keys[0]}#{seen[keys]}.bin", f"intkey_{keys[1]}#{seen[keys]}.bin")
            saved.append(SavedIntervention(kind, files, int(entry["layer"]), entry["component"]))
            seen[keys] += 1
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not what pyreft writes: {error!r}") from error
    for number, entry in enumerate(entries):
        _check_supported(f"{path}, intervention {number}", entry)
    return [replace(entry, kind=_class_name(entry.kind, path)) for entry in saved]


def _as_mapping(representation: Sequence[Any] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(representation, Mapping):
        return {"component": "block_output", "unit": "pos", "max_number_of_units": 1} | dict(
            representation
        )
    return dict(zip(_FIELDS, representation, strict=False))


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
    for field in ("intervention_link_key", "moe_key"):
        if entry.get(field) is not None:
            raise ValueError(f"{where}: {field} cannot be read, got {entry[field]!r}")


def _class_name(written: str, path: Path) -> str:
    # As in "<class 'pyreft.interventions.LoreftIntervention'>".
    match = re.fullmatch(r"<class '([\w.]+)'>", written)
    module, _, name = (match[1] if match else written).rpartition(".")
    # A class of the same name from elsewhere may compute anything.
    if name not in CLASSES or module.partition(".")[0] != "pyreft":
        raise ValueError(
            f"{path}: cannot read interventions of {written}; the known classes of pyreft are "
            f"{', '.join(CLASSES)}"
        )
    return name
