"""The page that says what a shared intervention is: base model, places, recipe, scores, use.

Next door: `hub` puts it, with the folder that it describes, where others find it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData, metadata_load, metadata_save
from yaml import YAMLError

from reft_interp.models.embedded import HUB_NAME, NAME, PACKAGE
from reft_interp.runtime.saving import read_config
from reft_interp.saved_files import check_fields
from reft_interp.training.classifier_saving import INTERVENTIONS, is_classifier
from reft_interp.training.classifier_saving import read_config as read_classifier

_LIBRARY = "reft_interp"
_USE = """\
```python
import reft_interp as ri

model = ri.load_model({base!r}{revision})
intervened = ri.from_pretrained({repo!r}, model)
print(intervened.generate(["The capital of France is"]))
```
"""
_CLASSIFY = """\
```python
import reft_interp as ri

model = ri.load_model({base!r}{revision})
classifier = ri.from_pretrained({repo!r}, model)
print(classifier.predict([{row}]))
```
"""
_ROWS = {
    "DenseHead": '{"text_a": "A text.", "text_b": "Another, where rows are pairs."}',
    "LastTokenHead": '{"prompt": "A text, asked as the rows of training were."}',
}
"""By the head's class: an encoder's reads texts, a decoder's a prompt."""
_ALONE = """\
Without reft_interp, on a plain transformers model (torch, safetensors and transformers only):

```python
import runpy

from huggingface_hub import snapshot_download

folder = snapshot_download({repo!r})
# A file of this repository, which runs on your machine: read it first.
edits = runpy.run_path(f"{{folder}}/edits.py")

with edits["attach"](model, folder):
    model.generate(**inputs)
```
"""
_QUANTIZED = f"""
- These are the weights of [{HUB_NAME}](https://huggingface.co/{HUB_NAME}), quantized to Q4_1 in the
  package {PACKAGE}: on the hub's own, which differ a little, results do too"""


def model_card(
    folder: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    scores: pd.DataFrame | None = None,
) -> ModelCard:
    """A card for a folder that `IntervenedModel.save` or `Classifier.save` wrote.

    Args:
        folder: with `config.json`, whose notes (how it was trained) become part of the card, and
            perhaps `edits.py`, which `export_to_transformers` wrote.
        repo_id: where it will be found, as "name/repository".
        license: its identifier on the hub, as "mit" or "apache-2.0".
        scores: a table, as the results of this package have by `to_frame`.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: it is not what these two write.
    """
    if is_classifier(folder):
        config: Mapping[str, Any] = read_classifier(folder)
        _check_origin(Path(folder), config)
        inside = _read(Path(folder) / INTERVENTIONS) if config["interventions"] else None
        what, described = _classifier(config, inside)
        use, row = _CLASSIFY, _ROWS.get(config["head"]["class"], "")
    else:
        config = _read(Path(folder))
        what = "Interventions on the activations of a frozen language model"
        described = ["## What is edited", _placements(config)]
        use, row = _USE, ""
    model, notes = config["model"], config["notes"]
    # A folder on somebody's disk is no place on the hub, and nobody else's business.
    base = model["name"] if _is_hub_name(model["name"]) else None
    embedded = model["name"] == NAME
    name = base or Path(model["name"]).name
    revision = model["revision"]
    data = ModelCardData(
        base_model=HUB_NAME if embedded else base,
        library_name=_LIBRARY,
        license=license,
        tags=["reft", "interpretability", "intervention"],
    )
    commit = f", revision={revision!r}" if base and revision else ""
    parts = [
        f"# {repo_id.rpartition('/')[2]}",
        f"{what}, trained with reft_interp {config['reft_interp']}. The model's own weights are "
        "not part of this.",
        f"- Base model: {name}{f', revision `{revision}`' if revision else ''} "
        f"({model['architecture']}, {model['n_layers']} layers, width {model['d_model']}, "
        f"{model['dtype']}){_QUANTIZED if embedded else ''}",
        *described,
    ]
    if notes:
        text = json.dumps(notes, indent=2, ensure_ascii=False)
        parts += ["## How it was trained", f"```json\n{text}\n```"]
    if scores is not None:
        parts.append(_scores(scores))
    parts += ["## Use", use.format(base=name, revision=commit, repo=repo_id, row=row)]
    if (Path(folder) / "edits.py").is_file():
        parts.append(_ALONE.format(repo=repo_id))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts))


def complete_card(
    file: Path, repo_id: str, *, license: str | None = None, scores: pd.DataFrame | None = None
) -> None:
    """Add to a card that somebody wrote what it lacks: metadata, and the scores at its end.

    Args:
        file: the card, in a folder as `model_card` takes it. What its metadata say stays.
        repo_id: as for `model_card`.
        license: replaces the one of the card.
        scores: as for `model_card`.

    Raises:
        ValueError: the card's metadata cannot be read; and as `model_card`.
    """
    made = model_card(file.parent, repo_id, license=license).data.to_dict()
    try:
        own = metadata_load(file) or {}
    except (ValueError, YAMLError) as error:
        raise ValueError(f"the metadata of {file.name} cannot be read: {error}") from error
    own = {key: value for key, value in own.items() if value is not None}
    tags = own.get("tags", [])
    tags = [tags] if isinstance(tags, str) else tags
    data = made | own | {"tags": [*tags, *(tag for tag in made["tags"] if tag not in tags)]}
    if license is not None:
        data["license"] = license
    if scores is not None:
        with file.open("a", encoding="utf-8") as card:
            card.write(f"\n\n{_scores(scores)}\n")
    metadata_save(file, data)


def _scores(scores: pd.DataFrame) -> str:
    return f"## Scores\n\n{_table(list(map(str, scores.columns)), scores.to_numpy().tolist())}"


def _read(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    _check_origin(folder, config)
    for i, placement in enumerate(config["placements"]):
        fields = {"component": (str,), "layer": (int,)}
        check_fields(
            folder / "config.json", placement["site"], fields, f"the site of placements[{i}]"
        )
    return config


def _check_origin(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise unless a configuration has what a card says of where it comes from."""
    file = folder / "config.json"
    check_fields(file, config, {"reft_interp": (str,)})
    check_fields(file, config["model"], {"dtype": (str,), "revision": (str, type(None))}, "model")


def _classifier(
    config: Mapping[str, Any], inside: Mapping[str, Any] | None
) -> tuple[str, list[str]]:
    """What a classifier is in a few words, and the part of the card that describes it."""
    edits = "" if inside is None else ", with interventions on the model's activations"
    classes = "one score" if config["classes"] is None else config["classes"]
    head = (config["head"]["class"], classes, config["max_length"] or "")
    parts = ["## The head", _table(("head", "classes", "tokens at most"), [head])]
    if inside is not None:
        parts += ["## What is edited", _placements(inside)]
    return f"A classification head on a frozen language model{edits}", parts


def _placements(config: Mapping[str, Any]) -> str:
    rows = []
    for placement in config["placements"]:
        intervention = config["interventions"][placement["intervention"]]
        rank = intervention["arguments"].get("rank", "")
        site = placement["site"]
        where = (site["component"], site["layer"], placement["positions"])
        rows.append((intervention["class"], rank, *where))
    return _table(("intervention", "rank", "site", "layer", "positions"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _is_hub_name(name: str) -> bool:
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)) and not Path(name).exists()
