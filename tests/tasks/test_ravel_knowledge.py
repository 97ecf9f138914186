"""What a model knows is asked of it, and pairs are made of that alone."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from reft_interp.causal.rows import rows_of
from reft_interp.evaluation import answers_correctly
from reft_interp.tasks import RAVEL, ravel_knowledge
from reft_interp.tasks import ravel_knowledge as knowledge_function

ATTRIBUTES = {"Colour": "red blue".split(), "Size": "big small".split(), "Taste": ["sweet"]}


def objects(n: int = 60) -> RAVEL:
    """Things whose colour and size follow from their number."""
    entities = {
        f"thing{i}": {
            name: values[(i >> k) % len(values)]
            for k, (name, values) in enumerate(ATTRIBUTES.items())
        }
        for i in range(n)
    }
    splits = {name: "train" if i % 3 else "test" for i, name in enumerate(entities)}
    prompts = {
        name: tuple(f"{name} {k}: %s is" for k in ("a", "b", "c", "d")) for name in ATTRIBUTES
    }
    prompt_splits = {
        prompt: "train" if prompt.split()[1] in ("a:", "b:") else "val"
        for some in prompts.values()
        for prompt in some
    }
    neutral = {"I saw %s and ": None, "Who saw %s": None}
    prompt_splits |= {"I saw %s and ": "train", "Who saw %s": "test"}
    return RAVEL("things", entities, splits, prompts, prompt_splits, neutral)


@pytest.fixture
def asked(tiny, monkeypatch):
    """A model that knows colours and sizes with prompts a and c, and nothing of thing1x."""
    rows_asked = []

    def answers(model, rows, batch_size):
        rows_asked.extend(rows)
        return np.array(
            [
                "Taste" not in row["prompt"]
                and row["prompt"].split()[1] in ("a:", "c:")
                and "thing1" not in row["prompt"]
                for row in rows
            ]
        )

    module = import_module(knowledge_function.__module__)
    monkeypatch.setattr(module, "answers_correctly", answers)
    return tiny("llama"), rows_asked


def test_the_best_prompts_are_kept_and_what_is_not_known_is_left_out(asked):
    model, rows = asked
    known = ravel_knowledge(model, objects(), entities=24, prompts=1)
    assert known.attributes == ("Colour", "Size")
    assert set(known.facts["prompt"]) == {
        f"{name} {k}: %s is" for name in ("Colour", "Size") for k in "ac"
    } | {"Taste a: %s is", "Taste c: %s is"}
    # Held-out prompts are asked about training entities alone.
    both = known.facts[["entity split", "prompt split"]].drop_duplicates()
    assert len(both) == 3
    left = known.left.set_index("attribute")
    assert left.loc["Taste", "known"] == 0 and not left.loc["Taste", "used"]
    assert left.loc["Colour", "questions"] == 12 + 12 + 12
    assert "Taste: 0 of 36 questions (0.0%): left out" in str(known)
    assert {row["answer"] for row in rows} == {" red", " blue", " big", " small", " sweet"}


def test_pairs_say_what_should_change_and_what_should_not(asked):
    model, _ = asked
    data = objects()
    known = ravel_knowledge(model, data, entities=24, prompts=1)
    pairs = known.pairs("Colour", n_train=20, n_test=20)
    assert pairs.variable == "Colour"
    for split in pairs.splits.values():
        assert sorted(set(split["kind"])) == ["cause", "isolate"]
        for row in rows_of(split):
            base, source = data.entities[row["base_entity"]], data.entities[row["source_entity"]]
            assert base[row["asked"]] != source[row["asked"]]
            expected = source if row["kind"] == "cause" else base
            assert row["label"] == f" {expected[row['asked']]}"
            assert (row["kind"] == "cause") == (row["asked"] == "Colour")
            for side in ("base", "source"):
                start, end = row[f"{side}_spans"]["entity"]
                assert row[side][start:end] == row[f"{side}_entity"]
                assert "thing1" not in row[side]
            assert row["base_Colour"] == base["Colour"]
    train, test = (rows_of(split) for split in pairs.splits.values())
    for row in train:
        assert data.entity_splits[row["base_entity"]] == "train" and " a: " in row["base"]
    for row in test:
        entity = row["held_out"] == "entity"
        assert (data.entity_splits[row["base_entity"]] == "test") == entity
        assert (" a: " in row["base"]) == entity
    assert [row["held_out"] for row in test].count("entity") == 10


def test_refuses_what_the_model_does_not_know(asked):
    model, _ = asked
    known = ravel_knowledge(model, objects(), entities=24, prompts=1)
    with pytest.raises(ValueError, match=r"one that the model knows \(Colour, Size\), got 'Taste'"):
        known.pairs("Taste")
    with pytest.raises(ValueError, match="knows too little of things for 4000 pairs"):
        known.pairs("Colour", n_train=4000)
    with pytest.raises(ValueError, match="n_test must be at least 4, got 2"):
        known.pairs("Colour", n_test=2)
    with pytest.raises(ValueError, match="entities must be from 4 to 40, got 50"):
        ravel_knowledge(model, objects(), entities=50)


def test_a_model_that_knows_nothing_says_so(tiny):
    with pytest.raises(ValueError, match=r"knows no attribute of things(.|\n)*Colour: 0 of"):
        ravel_knowledge(tiny("llama"), objects(), entities=8, prompts=1)


def test_a_fact_is_known_when_all_of_its_tokens_are_said(smollm2, data_dir):
    from reft_interp.tasks import ravel

    verbs = ravel(data_dir / "ravel", "verb")
    asked = {name: verbs.prompts[name][:12] for name in ("Past Tense", "Singular")}
    known = ravel_knowledge(smollm2, replace(verbs, prompts=asked), entities=6, prompts=1)
    some = known.facts.sample(8, random_state=0).to_dict("records")
    for fact in some:
        prompt = fact["prompt"].replace("%s", fact["entity"])
        said = answers_correctly(smollm2, [{"prompt": prompt, "answer": fact["answer"]}])
        assert bool(said[0]) == fact["known"]
    assert "Past Tense" in known.attributes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": 0}, "prompts must be from 1 to 12, got 0"),
        ({"prompts": -1}, "prompts must be from 1 to 12, got -1"),
        ({"minimum": 20.0}, r"minimum must be between 0 and 1, got 20\.0"),
        ({"minimum": float("nan")}, "minimum must be between 0 and 1, got nan"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_the_model_is_asked(asked, given, message):
    model, rows = asked
    with pytest.raises(ValueError, match=message):
        ravel_knowledge(model, objects(), entities=24, **given)
    assert not rows
