"""RAVEL's files as they are written, the hub's tables, and the real files."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from datasets import Dataset

from reft_interp.tasks import RAVEL, ravel
from reft_interp.tasks.ravel import EntityType

# The function has the name of its module.
MODULE = import_module("reft_interp.tasks.suites.reading")

FILES: dict[str, Any] = {
    "ravel_verb_entity_attributes.json": {
        "go": {"Past Tense": "went", "Singular": "goes"},
        "see": {"Past Tense": "saw", "Singular": "sees"},
    },
    "ravel_verb_entity_to_split.json": {"go": "train", "see": "test"},
    "ravel_verb_attribute_to_prompts.json": {
        "Past Tense": ["The past tense of %s is", '"%s", "past": "'],
        "Gender Bias": ["%s is"],
    },
    "ravel_verb_prompt_to_split.json": {
        "The past tense of %s is": "train",
        '"%s", "past": "': "val",
        "%s is": "test",
    },
    "wikipedia_verb_entity_prompts.json": {
        "they %s there": {"split": "train", "entity": None},
        "did %s": {"split": "test", "entity": "go"},
    },
}


def write(folder: Path, **changed) -> Path:
    for name, content in {**FILES, **changed}.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_files_are_read_without_prompts_that_nothing_answers(tmp_path):
    data = ravel(write(tmp_path), "verb")
    assert data.attributes == ("Past Tense",)  # no verb has a gender bias
    assert data.entities["go"] == {"Past Tense": "went", "Singular": "goes"}
    assert data.entity_splits == {"go": "train", "see": "test"}
    assert data.prompt_splits["did %s"] == "test"
    assert data.neutral == {"they %s there": None, "did %s": "go"}
    assert str(data) == "RAVEL verb: 2 entities; prompts for Past Tense (2)"


def test_an_answer_goes_on_where_the_prompt_ends(tmp_path):
    data = ravel(write(tmp_path), "verb")
    assert data.answer("The past tense of %s is", "go", "Past Tense") == " went"
    assert data.answer('"%s", "past": "', "see", "Past Tense") == "saw"


def test_what_the_data_abbreviates_the_prompts_write_out():
    sizes = RAVEL(
        "physical_object",
        {"rock": {"Size": "cm"}},
        {"rock": "train"},
        {"Size": ('"%s": "',)},
        {'"%s": "': "train"},
        {},
    )
    assert sizes.answer('"%s": "', "rock", "Size") == "centimeter"


def test_the_hubs_tables_are_the_files(tmp_path, monkeypatch):
    files = ravel(write(tmp_path), "verb")
    verbs = FILES["ravel_verb_entity_attributes.json"]
    entities = {
        split: Dataset.from_list([{"Verb": verb, **verbs[verb], "URL": None}])
        for split, verb in (("train", "go"), ("test", "see"))
    }
    splits = FILES["ravel_verb_prompt_to_split.json"]
    asked = FILES["ravel_verb_attribute_to_prompts.json"]
    rows = [
        {"Template": prompt, "Attribute": attribute, "Source": "RAVEL", "Entity": ""}
        for attribute, prompts in asked.items()
        for prompt in prompts
    ]
    neutral = FILES["wikipedia_verb_entity_prompts.json"]
    rows += [
        {"Template": p, "Attribute": "Other", "Source": "Wikipedia", "Entity": of["entity"] or ""}
        for p, of in neutral.items()
    ]
    of_split = {**splits, **{prompt: of["split"] for prompt, of in neutral.items()}}
    prompts = {
        split: Dataset.from_list([row for row in rows if of_split[row["Template"]] == split])
        for split in ("train", "val", "test")
    }
    tables = {"verb_entity": entities, "verb_prompt": prompts}
    monkeypatch.setattr(MODULE, "load_dataset", lambda name, configuration: tables[configuration])
    hub = ravel("somebody/ravel", "verb")
    assert hub == files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "must be a folder or a hub name"),
        (".", "is without ravel_city_entity_attributes.json"),
    ],
)
def test_says_what_is_missing(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        ravel(name, "city")


def test_an_unreachable_hub_is_an_error_with_the_reason(monkeypatch):
    def refuse(*_: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(MODULE, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"'hij/ravel' \(city_entity\) is no folder .*offline"):
        ravel()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ravel_verb_entity_to_split.json": {"go": "train"}}, "entity 'see' must be in train"),
        ({"ravel_verb_prompt_to_split.json": {}}, "prompt 'The past tense .*must be in train"),
        (
            {"ravel_verb_attribute_to_prompts.json": {"Singular": ["he does"]}},
            "must hold '%s' once, got 'he does'",
        ),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        ravel(write(tmp_path, **changed), "verb")


def test_prompts_ask_for_what_entities_have():
    with pytest.raises(ValueError, match="prompts ask for 'Size', which no entity has"):
        RAVEL("verb", {}, {}, {"Size": ()}, {}, {})


def test_the_real_files_can_be_read(data_dir):
    counts = {"city": 3552, "nobel_prize_winner": 928, "occupation": 799}
    counts |= {"physical_object": 563, "verb": 986}
    for kind, n in counts.items():
        assert kind in get_args(EntityType)
        data = ravel(data_dir / "ravel", cast("EntityType", kind))
        assert len(data.entities) == n
        assert set(data.attributes) <= set(data.entities[next(iter(data.entities))])
