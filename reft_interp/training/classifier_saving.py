"""A classifier as a folder: `config.json`, `head.safetensors`, and the folder of its interventions.

Tensors are written before the configuration that describes them, each file whole. Nothing is
pickled. Below: `runtime.saving` writes the interventions.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.models import identify
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.saving import MODEL, TENSORS, check_model, read_tensors
from reft_interp.saved_files import (
    check_fields,
    read_json,
    read_numbers,
    reading,
    write_tensors,
)
from reft_interp.whole_files import replacing

if TYPE_CHECKING:
    from reft_interp.training.classifier import Classifier

CONFIG = "config.json"
HEAD = "head.safetensors"
INTERVENTIONS = "interventions"
_FORMAT = 1
_KIND = "classifier"
_FORMER_NAMES = {"LinearHead": "LastTokenHead"}
"""Of heads, in folders that were saved before they had those of today."""
_FIELDS = {
    "model": (dict,),
    "classes": (int, type(None)),
    "head": (dict,),
    "max_length": (int, type(None)),
    "interventions": (bool,),
    "notes": (dict,),
}


def save_classifier(
    classifier: "Classifier", folder: str | Path, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a classifier; see `Classifier.save`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in classifier.head.state_dict().items()
    }
    config = {
        "format": _FORMAT,
        "kind": _KIND,
        "reft_interp": version("reft-interp"),
        "model": asdict(identify(classifier.model)),
        "classes": classifier.classes,
        "head": {
            "class": type(classifier.head).__name__,
            "dropout": classifier.head.dropout.p,
        },
        "max_length": classifier.max_length,
        "interventions": classifier.intervened is not None,
        "notes": dict(notes or {}),
    }
    # All is written before anything is moved, so that a full disk leaves what was there whole.
    with replacing(folder / CONFIG) as described, replacing(folder / HEAD) as held:
        write_tensors(tensors, held)
        described.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if classifier.intervened is not None:
            classifier.intervened.save(folder / INTERVENTIONS)


def weight_files(classifier: "Classifier") -> list[str]:
    """The files of weights in a folder of this classifier, relative to it."""
    placed = [] if classifier.intervened is None else [f"{INTERVENTIONS}/{TENSORS}"]
    return [HEAD, *placed]


def load_classifier(
    kind: "type[Classifier]", folder: str | Path, model: TransformerBridge
) -> "Classifier":
    """Read a classifier; see `Classifier.load`.

    Raises:
        FileNotFoundError: the folder holds no saved classifier.
        ValueError: it is damaged, or does not fit the model.
    """
    folder = Path(folder)
    config = read_config(folder)
    check_model(config["model"], model, folder)
    placed = config["interventions"]
    of = IntervenedModel.load(folder / INTERVENTIONS, model) if placed else model
    with reading(folder / CONFIG, "the head"):
        classifier = kind(
            of,
            config["classes"],
            head_dropout=config["head"]["dropout"],
            max_length=config["max_length"],
        )
    made = type(classifier.head).__name__
    if config["head"]["class"] != made:
        raise ValueError(
            f"{folder} holds a {config['head']['class']}, but {model.cfg.model_name} takes a {made}"
        )
    _fill(classifier.head, folder)
    return classifier


def is_classifier(folder: str | Path) -> bool:
    """Whether a folder says that it holds a classifier, whole or damaged."""
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such file; not JSON, or not text
        return False
    return isinstance(config, dict) and config.get("kind") == _KIND


def shared_files(config: Mapping[str, Any]) -> list[str]:
    """The files of a classifier's folder that `load_classifier` reads, relative to it."""
    placed = [f"{INTERVENTIONS}/{name}" for name in (CONFIG, TENSORS)]
    return [CONFIG, HEAD, *(placed if config["interventions"] else [])]


def read_weights(classifier: "Classifier", folder: str | Path) -> None:
    """Read the weights of a classifier that is there already; see `Classifier.load_weights`."""
    folder = Path(folder)
    if classifier.intervened is not None:
        tensors = read_tensors(folder / INTERVENTIONS)
        classifier.intervened.interventions.load_state_dict(tensors)
    _fill(classifier.head, folder)


def read_config(folder: str | Path) -> dict[str, Any]:
    """What `config.json` says of a saved classifier.

    Raises:
        FileNotFoundError: the folder holds no saved classifier.
        ValueError: the file is damaged, of something else, or of another format.
    """
    folder = Path(folder)
    for name in (CONFIG, HEAD):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no saved classifier: there is no {name} in it")
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config, dict) or config.get("kind") != _KIND:
        raise ValueError(f"{path} is no configuration of a classifier")
    if config.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {config.get('format')!r}; this version reads {_FORMAT}"
        )
    check_fields(path, config, _FIELDS)
    check_fields(path, config["model"], MODEL, "model")
    check_fields(path, config["head"], {"class": (str,), "dropout": (int, float)}, "head")
    kind = config["head"]["class"]
    config["head"]["class"] = _FORMER_NAMES.get(kind, kind)
    return config


def _fill(head: nn.Module, folder: Path) -> None:
    path = folder / HEAD
    tensors = read_numbers(path)
    if (expected := _shapes(head.state_dict())) != (found := _shapes(tensors)):
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise ValueError(f"{path} does not fit {CONFIG}: {wrong}")
    head.load_state_dict(tensors)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
