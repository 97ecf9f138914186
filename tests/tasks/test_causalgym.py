"""CausalGym's templates as pairs: regions, types, both directions, and the real files."""

import json

import pytest

from reft_interp.causal.rows import rows_of
from reft_interp.positions import parse_positions
from reft_interp.runtime.batching import encode
from reft_interp.tasks import causalgym
from reft_interp.tasks.causalgym import CONTROL_ANSWERS

TEMPLATES = {
    "agreement": {
        "templates": ["The {subject} {prep} the {v.object}{mark} {v.time} the"],
        "label": "subject",
        "result_prepend_space": True,
        "labels": {"plural": ["are", "were"], "singular": ["is", "was"]},
        "variables": {
            "subject": {"plural": ["keys", "doors"], "singular": ["key", "door"]},
            "prep": ["near", "behind"],
            "v.object": ["cat", "dog", "cow"],
            "v.time": ["today", "yesterday", "now"],
            "mark": ["", ","],
        },
    }
}


@pytest.fixture
def task(tmp_path):
    file = tmp_path / "templates.json"
    file.write_text(json.dumps(TEMPLATES), encoding="utf-8")
    return causalgym(file)["agreement"]


def test_regions_begin_where_sentences_differ_and_always_hold_a_token(task):
    # "The" comes before; the mark is empty in some sentences.
    assert task.regions == ("subject", "prep", "the", "v.object", "v.time", "the#2")


def test_pairs_differ_in_the_feature_alone(task):
    pairs = task.counterfactuals(20, 4)
    train = rows_of(pairs.train)
    for row in train:
        base, source = row["base"].split(), row["source"].split()
        assert [i for i, (a, b) in enumerate(zip(base, source, strict=True)) if a != b] == [1]
        assert row["base_type"] != row["source_type"]
        plural = base[1].endswith("s")
        assert row["base_answer"] in ([" are", " were"] if plural else [" is", " was"])
        assert row["label"] == row["source_answer"] != row["base_answer"]
        # `v.object` and `v.time` are drawn as one.
        times = dict(zip(("cat", "dog", "cow"), ("today", "yesterday", "now"), strict=True))
        assert times[base[4].rstrip(",")] == base[5]
        said = {name: row["base"][slice(*span)] for name, span in row["base_spans"].items()}
        words = [word.rstrip(",") for word in base[1:]]
        assert [text.strip() for text in said.values()] == words
        assert tuple(said) == task.regions
    assert {(row["source"], row["base"]) for row in train} == {
        (row["base"], row["source"]) for row in train
    }
    assert not {row["base"] for row in train} & {row["base"] for row in rows_of(pairs.test)}
    assert task.counterfactuals(20, 4).hash == pairs.hash
    assert task.counterfactuals(20, 4, seed=1).hash != pairs.hash


def test_the_control_task_has_the_same_sentences_and_other_words(task):
    pairs, control = task.counterfactuals(20, 4), task.counterfactuals(20, 4, control=True)
    for row, other in zip(rows_of(pairs.train), rows_of(control.train), strict=True):
        assert (row["base"], row["source"]) == (other["base"], other["source"])
        assert row["choices"] == other["choices"]
        assert other["label"] == CONTROL_ANSWERS[int(row["source_type"] == "singular")]
        assert {other["label"], other["base_answer"]} == set(CONTROL_ANSWERS)


def test_values_are_kept_for_test_where_train_would_use_up_the_bases(tmp_path):
    """Of one type there is one base a subject, all of which 200 rows of train would have."""
    subjects = [f"worker {i}" for i in range(20)]
    template = {
        "templates": ["What the {subj} {verb} was"],
        "label": "verb",
        "result_prepend_space": False,
        "labels": {"cleft": [" make"], "normal": [" for"]},
        "variables": {
            "subj": subjects,
            "verb": {"cleft": ["did"], "normal": [f"made {i}" for i in range(30)]},
        },
    }
    file = tmp_path / "templates.json"
    file.write_text(json.dumps({"cleft": template}), encoding="utf-8")
    pairs = causalgym(file)["cleft"].counterfactuals(400, 100)
    train, test = (
        {next(s for s in reversed(subjects) if f" {s} " in row["base"]) for row in rows_of(split)}
        for split in (pairs.train, pairs.test)
    )
    assert (len(pairs.train), len(pairs.test)) == (400, 100)
    assert not train & test and len(test) == 4 and pairs.seen == 0
    assert "4 of the 20 values of subj are in test alone" in pairs.held_out


def test_says_what_is_wrong(task, tmp_path):
    with pytest.raises(ValueError, match="n_train must be an even number, at least 2, got 3"):
        task.counterfactuals(3)
    with pytest.raises(ValueError, match="agreement has no 1000 different pairs"):
        task.counterfactuals(1000)
    with pytest.raises(ValueError, match="file must be a template file of CausalGym"):
        causalgym(tmp_path / "nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"a": {"templates": []}}', encoding="utf-8")
    with pytest.raises(ValueError, match="a is without label, labels, variables"):
        causalgym(broken)


def test_every_task_of_the_real_file_selects_its_regions(data_dir, tiny):
    tasks = causalgym(data_dir / "causalgym" / "templates" / "syntaxgym.json")
    assert len(tasks) == 29
    for name, task in tasks.items():
        pairs = task.counterfactuals(8, 2)
        assert task.regions, name
        rows = [
            {"prompt": row[side], "spans": row[f"{side}_spans"]}
            for row in rows_of(pairs.train)
            for side in ("base", "source")
        ]
        batch = encode(tiny("gpt2"), rows)
        for region in task.regions:
            assert len(parse_positions(f"span:{json.dumps(region)}")(batch)) == len(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "verb"}, "agreement: feature must name variables of the template .* got verb"),
        ({"templates": []}, "templates of agreement must be a list of texts, got"),
        ({"label": 3}, "label of agreement must be a variable or a list of some, got 3"),
        ({"labels": ["is", "are"]}, "labels of agreement must be answers by type"),
        ({"variables": ["near"]}, "variables of agreement must be values by variable"),
        ({"templates": ["The {subject} {adverb}"]}, "values has none for {adverb}"),
        ({"label": "prep"}, "values of the feature 'prep' must be by type"),
        ({"labels": {"plural": ["are"]}}, "answers must be of two types or more"),
        ({"labels": {"plural": ["are"], "dual": ["is"]}}, "values of the feature 'subject' must"),
    ],
)
def test_a_task_of_another_format_is_told(tmp_path, changes, message):
    file = tmp_path / "templates.json"
    file.write_text(json.dumps({"agreement": TEMPLATES["agreement"] | changes}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        causalgym(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "must hold tasks by name, got a list"), ("{", "must be JSON"), ('{"a": 1}', "a must")],
)
def test_a_file_of_another_format_is_told(tmp_path, text, message):
    file = tmp_path / "templates.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        causalgym(file)
