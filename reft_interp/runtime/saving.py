"""A trained intervention as a folder: `config.json`, readable, and `interventions.safetensors`.

Both files are written beside their place and then moved there, so that each is either what it was
before or what was saved. The configuration holds the hash of the tensors that it describes: where
only one of the two was moved, reading the folder says so. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from warnings import warn

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interventions import Intervention, build_intervention
from reft_interp.models import identify
from reft_interp.positions import parse_positions
from reft_interp.runtime.placement import SOURCE, Placement
from reft_interp.saved_files import (
    check_fields,
    read_json,
    read_numbers,
    reading,
    write_tensors,
)
from reft_interp.sites import Site
from reft_interp.whole_files import replacing

if TYPE_CHECKING:
    from reft_interp.runtime.intervened import IntervenedModel

CONFIG = "config.json"
TENSORS = "interventions.safetensors"
_FORMAT = 1
MODEL: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "architecture": (str,),
    "n_layers": (int,),
    "d_model": (int,),
}
"""What is read of the model that something was saved for."""
_HASH = "interventions_sha256"
"""Where `config.json` says which tensors it describes; folders of earlier versions do not."""
_FIELDS = {"model": (dict,), "interventions": (list,), "placements": (list,), "notes": (dict,)}
_INTERVENTION = {"class": (str,), "arguments": (dict,)}
_PLACEMENT = {"intervention": (int,), "site": (dict,), "positions": (str,)}


def save_folder(
    intervened: "IntervenedModel", folder: str | Path, notes: Mapping[str, Any] | None = None
) -> None:
    """Write the interventions and where they are placed.

    Args:
        intervened: what to save; the base model's weights are not written.
        folder: made if it does not exist; other files in it stay.
        notes: kept in `config.json` under "notes", for instance how it was trained. JSON.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": _FORMAT,
        "reft_interp": version("reft-interp"),
        "model": asdict(identify(intervened.model)),
        **_placements_config(intervened),
        "notes": dict(notes or {}),
    }
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in intervened.interventions.state_dict().items()
    }
    # Both are written before either is moved, the tensors first.
    with replacing(folder / CONFIG) as described, replacing(folder / TENSORS) as held:
        write_tensors(tensors, held)
        config[_HASH] = _hash(held)
        described.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _hash(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def _placements_config(intervened: "IntervenedModel") -> dict[str, Any]:
    modules = cast("list[Intervention]", list(intervened.interventions))
    return {
        "interventions": [
            {"class": type(module).__name__, "arguments": module.arguments()} for module in modules
        ],
        "placements": [
            {
                "intervention": modules.index(placement.intervention),
                "site": placement.site.to_config(),
                "positions": str(placement.on),
                **({} if placement.source == SOURCE else {"source": placement.source}),
            }
            for placement in intervened.placements
        ],
    }


def check_same_placements(folder: str | Path, intervened: "IntervenedModel") -> None:
    """Raise unless a folder holds the interventions of this model, at these places.

    Raises:
        ValueError: it was saved for a model of another width, depth or name, or for other
            interventions or places (the first that differs is named).
    """
    folder = Path(folder)
    config = read_config(folder)
    check_model(config["model"], intervened.model, folder)
    given = json.loads(json.dumps(_placements_config(intervened)))
    for name, here in given.items():
        saved = config[name]
        for i in range(max(len(saved), len(here))):
            one, other = (held[i] if i < len(held) else "nothing" for held in (saved, here))
            if one != other:
                raise ValueError(
                    f"{folder} was made by another training: its {name}[{i}] is {one}, here it "
                    f"is {other}"
                )


def load_placements(folder: str | Path, model: TransformerBridge) -> list[Placement]:
    """Read what `save_folder` wrote, for `model`.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: the folder is of a newer format, is damaged, holds NaN, was made for a model of
            another depth or width, or its two files are not of one saving.
    """
    folder = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no saved intervention: there is no {name} in it"
            )
    config = read_config(folder)
    check_model(config["model"], model, folder)
    modules = nn.ModuleList()
    for i, entry in enumerate(config["interventions"]):
        with reading(folder / CONFIG, f"interventions[{i}]"):
            modules.append(build_intervention(entry["class"], entry["arguments"]))
    tensors = read_tensors(folder)
    expected = {name: tuple(tensor.shape) for name, tensor in modules.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise ValueError(f"{folder / TENSORS} does not fit {CONFIG}: {wrong}")
    if _HASH in config and config[_HASH] != _hash(folder / TENSORS):
        raise ValueError(
            f"{folder / TENSORS} is not the file that {CONFIG} was saved with: saving was "
            "interrupted between the two, or one was copied by itself. Save both anew"
        )
    modules.load_state_dict(tensors, assign=True)
    placements: list[Placement] = []
    for i, entry in enumerate(config["placements"]):
        with reading(folder / CONFIG, f"placements[{i}]"):
            site = Site(**entry["site"])
            site.check(model)
            placed = cast("Intervention", modules[entry["intervention"]])
            on, source = parse_positions(entry["positions"]), entry.get("source", SOURCE)
            placements.append(Placement(placed, site, on, source=source))
    return placements


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """The saved tensors of the interventions.

    Raises:
        ValueError: the file is damaged, or a tensor holds NaN.
    """
    return read_numbers(Path(folder) / TENSORS)


def read_notes(folder: str | Path) -> dict[str, Any]:
    """The notes that were saved with an intervention."""
    return read_config(Path(folder))["notes"]


def read_model_name(folder: str | Path) -> str:
    """The name of the model that a saved intervention was made for.

    Raises:
        FileNotFoundError: the folder holds no saved intervention.
        ValueError: it is damaged, or holds a classifier.
    """
    return str(read_config(Path(folder))["model"]["name"])


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` says of saved interventions.

    Raises:
        FileNotFoundError: the folder holds no such file.
        ValueError: the file is damaged, of a classifier, or of another format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no saved intervention: there is no {CONFIG} in it")
    config = read_json(path)
    # Of `training.classifier_saving`, whose interventions are in a folder of their own.
    if isinstance(config, dict) and config.get("kind") == "classifier":
        raise ValueError(
            f"{folder} holds a classifier, which says classes and no texts: Classifier.load reads "
            "it, and .predict(rows) asks it"
        )
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(f"{path} has format {found!r}; this version reads {_FORMAT}")
    check_fields(path, config, _FIELDS)
    check_fields(path, config["model"], MODEL, "model")
    for name, fields in (("interventions", _INTERVENTION), ("placements", _PLACEMENT)):
        for i, entry in enumerate(config[name]):
            check_fields(path, entry, fields, f"{name}[{i}]")
    count = len(config["interventions"])
    for i, entry in enumerate(config["placements"]):
        if not 0 <= entry["intervention"] < count:
            raise ValueError(
                f"{path} is damaged: placements[{i}] is of intervention {entry['intervention']}, "
                f"and there are {count}, numbered from 0"
            )
    return config


def check_model(saved: Mapping[str, Any], model: TransformerBridge, folder: Path) -> None:
    """Raise, or warn, where a folder was made for another model.

    Args:
        saved: the identity of the model that it was made for, as a mapping.
        model: the one that is there.
        folder: for the message.

    Raises:
        ValueError: the models differ in depth or width. Another name or architecture is a warning,
            and so is another revision of the same name, where both are known.
    """
    given = asdict(identify(model))
    for size in ("n_layers", "d_model"):
        if saved[size] != given[size]:
            raise ValueError(
                f"{folder} was made for {saved['name']} ({size} {saved[size]}), but the model is "
                f"{given['name']} ({size} {given[size]})"
            )
    for fact in ("name", "architecture"):
        if saved[fact] != given[fact]:
            warn(
                f"{folder} was made for a model with {fact} {saved[fact]!r}; this one has "
                f"{given[fact]!r}",
                stacklevel=4,
            )
    known, here = saved.get("revision"), given["revision"]
    if saved["name"] == given["name"] and known and here and known != here:
        warn(
            f"{folder} was made for {saved['name']} at revision {known}; this model is at revision "
            f"{here}, whose weights may be others: load_model(..., revision={known!r}) loads the "
            "one that it was made for",
            stacklevel=4,
        )
