"""RAVEL: can one attribute of an entity be changed, and all others left alone?

Huang et al. 2024, "RAVEL: Evaluating Interpretability Methods on Disentangling Language Model
Representations" (arXiv:2402.17700). Here: its entities, attributes and prompts, as its files or the
hub have them. Next door: `ravel_knowledge` asks a model which of it it knows and makes pairs.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from reft_interp.tasks.suites.reading import read_hub

EntityType = Literal["city", "nobel_prize_winner", "occupation", "physical_object", "verb"]
Split = Literal["train", "val", "test"]

_FILES = ("entity_attributes", "entity_to_split", "attribute_to_prompts", "prompt_to_split")

# What the data abbreviates, the prompts write out.
_WRITTEN = {
    "Size": {"mm": "millimeter", "cm": "centimeter", "m": "meter", "km": "kilometer"},
    "Category": {"non-living things": "non-living thing"},
}


@dataclass(frozen=True)
class RAVEL:
    """Entities of one type, what is true of them, and prompts that ask for it.

    Args:
        entity_type: as in "city".
        entities: entity → attribute → value, as text.
        entity_splits: entity → "train", "val" or "test".
        prompts: attribute → prompts, with "%s" where the entity stands, once.
        prompt_splits: prompt → "train", "val" or "test".
        neutral: prompts that mention an entity and ask for none of its attributes, with the
            entity that they are about, or None where any will do.

    Raises:
        ValueError: an attribute is asked that no entity has, a prompt does not hold "%s" once, or
            an entity or a prompt is in no split.
    """

    entity_type: str
    entities: Mapping[str, Mapping[str, str]]
    entity_splits: Mapping[str, str]
    prompts: Mapping[str, tuple[str, ...]]
    prompt_splits: Mapping[str, str]
    neutral: Mapping[str, str | None]

    def __post_init__(self) -> None:
        had = {attribute for values in self.entities.values() for attribute in values}
        for attribute, prompts in self.prompts.items():
            if attribute not in had:
                raise ValueError(
                    f"prompts ask for {attribute!r}, which no entity has: {sorted(had)}"
                )
            for prompt in prompts:
                if prompt.count("%s") != 1:
                    raise ValueError(f"prompts must hold '%s' once, got {prompt!r}")
                _check_split("prompt", prompt, self.prompt_splits)
        for entity in self.entities:
            _check_split("entity", entity, self.entity_splits)

    @property
    def attributes(self) -> tuple[str, ...]:
        """What is asked about."""
        return tuple(self.prompts)

    def answer(self, prompt: str, entity: str, attribute: str) -> str:
        """What should follow `prompt % entity`, with its leading space where the prompt ends in a
        word: a quotation that was opened goes on without one."""
        value = self.entities[entity][attribute]
        value = _WRITTEN.get(attribute, {}).get(value, value)
        return value if prompt[-1] in " \"'(/[" else f" {value}"

    def __str__(self) -> str:
        counts = ", ".join(f"{name} ({len(some)})" for name, some in self.prompts.items())
        return f"RAVEL {self.entity_type}: {len(self.entities)} entities; prompts for {counts}"


def ravel(
    path_or_hub_name: str | os.PathLike[str] = "hij/ravel", entity_type: EntityType = "city"
) -> RAVEL:
    """Read RAVEL's data for one type of entity.

    Args:
        path_or_hub_name: a folder with the files of its repository
            (`ravel_city_entity_attributes.json`, ..., `wikipedia_city_entity_prompts.json`), or
            a dataset of the hub with the configurations `city_entity` and `city_prompt`.
        entity_type: which.

    Raises:
        ValueError: an unknown type, a file is missing, or the hub cannot be reached.
    """
    if entity_type not in get_args(EntityType):
        raise ValueError(
            f"entity_type must be one of {', '.join(get_args(EntityType))}, got {entity_type!r}"
        )
    folder = Path(path_or_hub_name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, entity_type)
    name = str(path_or_hub_name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ValueError(f"path_or_hub_name must be a folder or a hub name, got {name!r}")
    return _from_hub(name, entity_type)


def _check_split(what: str, name: str, splits: Mapping[str, str]) -> None:
    if splits.get(name) not in get_args(Split):
        raise ValueError(f"{what} {name!r} must be in train, val or test, got {splits.get(name)!r}")


def _from_folder(folder: Path, entity_type: str) -> RAVEL:
    files = [folder / f"ravel_{entity_type}_{kind}.json" for kind in _FILES]
    files.append(folder / f"wikipedia_{entity_type}_entity_prompts.json")
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"path_or_hub_name: {str(folder)!r} is without {', '.join(missing)}")
    entities, entity_splits, prompts, prompt_splits, neutral = (
        json.loads(file.read_text(encoding="utf-8")) for file in files
    )
    return RAVEL(
        entity_type,
        entities,
        entity_splits,
        _asked(entities, {name: tuple(some) for name, some in prompts.items()}),
        prompt_splits | {prompt: about["split"] for prompt, about in neutral.items()},
        {prompt: about["entity"] for prompt, about in neutral.items()},
    )


def _from_hub(name: str, entity_type: str) -> RAVEL:
    expected = f"ravel_{entity_type}_entity_attributes.json, ..."
    found, asked = (
        _rows(read_hub(name, f"{entity_type}_{kind}", expected, argument="path_or_hub_name"))
        for kind in ("entity", "prompt")
    )
    entities: dict[str, dict[str, str]] = {}
    splits: dict[str, str] = {}
    for split, row in found:
        # The first column names the entity.
        entity, *_ = row.values()
        entities[entity] = {name: str(v) for name, v in list(row.items())[1:] if v is not None}
        splits[entity] = split
    prompts: dict[str, list[str]] = {}
    prompt_splits: dict[str, str] = {}
    neutral: dict[str, str | None] = {}
    for split, row in asked:
        prompt_splits[row["Template"]] = split
        if row["Source"] == "RAVEL":
            prompts.setdefault(row["Attribute"], []).append(row["Template"])
        else:
            neutral[row["Template"]] = row["Entity"] or None
    kept = _asked(entities, {attribute: tuple(some) for attribute, some in prompts.items()})
    return RAVEL(entity_type, entities, splits, kept, prompt_splits, neutral)


def _rows(splits: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(str(split), row) for split, rows in splits.items() for row in rows.to_list()]


def _asked(entities: Mapping[str, Any], prompts: dict[str, tuple[str, ...]]) -> Any:
    """Without prompts for what the data has no values of, as the gender of occupations."""
    had = {attribute for values in entities.values() for attribute in values}
    return {attribute: some for attribute, some in prompts.items() if attribute in had}
