"""Indirect objects and pronouns: what the causal models imply, and what SmolLM2 knows of them."""

import pytest

from reft_interp.causal.rows import rows_of
from reft_interp.tasks import indirect_object, pronoun_gender


def test_the_indirect_object_is_the_name_that_stands_once():
    pairs = indirect_object().counterfactuals(None, "subject_position", n=60)
    for row in (*rows_of(pairs.train), *rows_of(pairs.test)):
        spans = {name: row["base"][slice(*span)] for name, span in row["base_spans"].items()}
        names = {spans["name_1"], spans["name_2"]}
        assert len(names) == 2 and spans["subject"] in names
        assert row["base"].count(row["base_answer"]) == 1
        assert {row["base_answer"].strip()} == names - {spans["subject"]}
        # The source's position, of the base's own names.
        same = row["base_subject_position"] == row["source_subject_position"]
        own = names - {spans["subject"]}
        assert {row["label"].strip()} == (own if same else {spans["subject"]})


def test_swapping_the_name_gives_the_sources_answer():
    pairs = indirect_object().counterfactuals(None, "indirect_object", n=60)
    assert all(row["label"] == row["source_answer"] for row in rows_of(pairs.train))


def test_test_has_other_names_than_train_in_every_place():
    pairs = indirect_object().counterfactuals(None, "subject_position", n=120)
    train, test = (
        {row[f"{side}_{name}"] for row in rows_of(split) for side in ("base", "source")
         for name in ("name_1", "name_2", "subject", "indirect_object")}
        for split in (pairs.train, pairs.test)
    )  # fmt: skip
    assert not train & test and len(train) <= 16 and len(test) <= 8
    assert "name_1, name_2, place, object, template" in pairs.held_out


def test_pronouns_take_up_names_of_both_genders():
    pairs = pronoun_gender().counterfactuals(None, "gender", n=60)
    train, test = rows_of(pairs.train), rows_of(pairs.test)
    for row in (*train, *test):
        assert (row["base_answer"] == " she") == (row["base_gender"] == "feminine")
        assert (row["label"] == " she") == (row["source_gender"] == "feminine")
    named = [
        {row["base"][slice(*row["base_spans"]["name"])] for row in split} for split in (train, test)
    ]
    assert not named[0] & named[1]


@pytest.mark.parametrize(
    ("task", "variable"), [(pronoun_gender, "gender"), (indirect_object, "subject_position")]
)
def test_smollm2_can_do_them(smollm2, task, variable):
    pairs = task().counterfactuals(smollm2, variable, n=36)
    assert pairs.model_accuracy is not None and pairs.model_accuracy > 0.7
