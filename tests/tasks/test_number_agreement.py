"""Number agreement: rows against the noun table, and filtering against models that err by plan."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from reft_interp.tasks import NumberAgreement
from reft_interp.tasks.nouns import NOUNS

VERBS = {" is": "singular", " was": "singular", " has": "singular"} | {
    " are": "plural",
    " were": "plural",
    " have": "plural",
}
NUMBER_OF = {noun.singular: "singular" for noun in NOUNS} | {
    noun.plural: "plural" for noun in NOUNS
}
SINGULAR_OF = {form: noun.singular for noun in NOUNS for form in (noun.singular, noun.plural)}


@pytest.fixture(scope="module")
def made(agreement, taught):
    return agreement.counterfactuals(taught(), n=240, seed=0)


def rows(made):
    return made.train.to_list() + made.test.to_list()


def embedding(model):
    return model.original_model.get_input_embeddings().weight


def put(model, forms):
    """Give words the embeddings of others: forms = {word: word that it is taken for}."""
    weight = embedding(model)
    before = weight.detach().clone()
    ids = model.tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        for word, taken_for in forms.items():
            weight[ids(word)] = before[ids(taken_for)]
    return model


def says(model, prompt, choices):
    """What the model says, one prompt at a time, in transformers alone."""
    ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
    logits = model.original_model(input_ids=ids).logits[0, -1]
    return max(choices, key=lambda choice: logits[model.tokenizer(choice)["input_ids"][0]].item())


def test_answers_and_labels_are_right_by_the_noun_table(made):
    for row in rows(made):
        numbers = {}
        for side in ("base", "source"):
            start, end = row[f"{side}_spans"]["subject"]
            numbers[side] = NUMBER_OF[row[side][start:end]]
            assert VERBS[row[f"{side}_answer"]] == numbers[side] == row[f"{side}_number"]
        assert VERBS[row["label"]] == numbers["source"]
        assert [VERBS[choice] for choice in row["choices"]] == ["singular", "plural"]
        assert {row["label"], row["base_answer"]} <= set(row["choices"])


def test_spans_are_the_nouns_that_the_row_names(made):
    for row in rows(made):
        for side in ("base", "source"):
            for role in ("subject", "attractor"):
                start, end = row[f"{side}_spans"][role]
                form = row[side][start:end]
                assert SINGULAR_OF[form] == row[f"{side}_{role}"]
            assert NUMBER_OF[form] == row[f"{side}_attractor_number"]


def test_base_and_source_share_their_template_and_not_their_subject(made):
    for row in rows(made):
        assert row["base_template"] == row["source_template"]
        assert row["base_subject"] != row["source_subject"]
        assert row["base_subject"] != row["base_attractor"]


def test_sizes_and_balance_are_exact(made):
    assert len(made.train) == 160 and len(made.test) == 80
    assert made.changed == {"train": 0.5, "test": 0.5}
    for split in made.splits.values():
        pairs = Counter(zip(split["base_number"], split["source_number"], strict=True))
        assert set(pairs.values()) == {len(split) // 4}
        for side in ("base", "source"):
            others = np.array(split[f"{side}_number"]) != split[f"{side}_attractor_number"]
            assert others.mean() >= 0.5
            assert not others.all()


@pytest.mark.parametrize("n", [6, 8, 20, 62])
def test_any_even_size_is_balanced(agreement, taught, n):
    made = agreement.counterfactuals(taught(), n=n)
    assert made.kept == n
    assert made.changed == {"train": 0.5, "test": 0.5}
    assert abs(len(made.test) - n / 3) <= 1
    for split in made.splits.values():
        others = np.array(split["base_number"]) != split["base_attractor_number"]
        assert others.mean() >= 0.5


def test_test_has_other_nouns_and_templates_than_train(made):
    def seen(split):
        columns = [f"{s}_{role}" for s in ("base", "source") for role in ("subject", "attractor")]
        nouns = {noun for column in columns for noun in split[column]}
        return nouns, set(split["base_template"]) | set(split["source_template"])

    (train_nouns, train_templates), (test_nouns, test_templates) = seen(made.train), seen(made.test)
    assert train_nouns and test_nouns and not train_nouns & test_nouns
    assert train_templates and test_templates and not train_templates & test_templates
    for template in test_templates:
        assert template in made.held_out


def test_pairs_are_not_repeated(made):
    assert len({(row["base"], row["source"]) for row in rows(made)}) == made.kept


def test_the_same_seed_gives_the_same_rows_whatever_the_global_generators_do(agreement, taught):
    model = taught()
    first = agreement.counterfactuals(model, n=30, seed=1)
    random.seed(99)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = agreement.counterfactuals(model, n=30, seed=1)
    assert again.hash == first.hash
    assert torch.equal(torch.get_rng_state(), state)
    assert agreement.counterfactuals(model, n=30, seed=2).hash != first.hash


def test_templates_may_differ_within_a_pair(agreement, taught):
    made = agreement.counterfactuals(taught(), n=120, same_template=False)
    differ = [row for row in rows(made) if row["base_template"] != row["source_template"]]
    assert len(differ) > made.kept / 2
    assert any(row["source_answer"] not in row["choices"] for row in differ)
    for row in rows(made):
        assert VERBS[row["label"]] == row["source_number"]
        assert VERBS[row["source_answer"]] == row["source_number"]


def test_a_model_that_errs_nowhere_drops_nothing(made):
    assert (made.model_accuracy, made.dropped, made.generated) == (1.0, 0, 240)
    assert made.model == "taught"


def test_rows_that_the_model_gets_wrong_are_dropped_and_counted(agreement, taught, made):
    # The model takes each form of every fifth noun for the other: it is wrong where that is the
    # subject, and only there. The first draw is what `made` kept, since nothing was wrong there.
    confused = agreement.nouns[::5]
    model = put(
        taught(),
        {noun.singular: noun.plural for noun in confused}
        | {noun.plural: noun.singular for noun in confused},
    )
    names = {noun.singular for noun in confused}
    wrong = [[row[f"{side}_subject"] in names for side in ("base", "source")] for row in rows(made)]
    filtered = agreement.counterfactuals(model, n=240, seed=0)
    assert filtered.model_accuracy == pytest.approx(1 - np.mean(wrong))
    assert 0 < np.mean(wrong) < 1
    assert filtered.dropped >= np.any(wrong, axis=1).sum() > 0
    assert filtered.generated == 240 + filtered.dropped
    assert filtered.changed == {"train": 0.5, "test": 0.5}
    kept = {(row["base"], row["source"]) for row in rows(filtered)}
    for row, (base_wrong, source_wrong) in zip(rows(made), wrong, strict=True):
        assert ((row["base"], row["source"]) in kept) != (base_wrong or source_wrong)
    for row in rows(filtered)[::10]:
        assert says(model, row["base"], row["choices"]) == row["base_answer"]
        assert says(model, row["source"], row["choices"]) == row["source_answer"]


def test_a_model_that_cannot_do_the_task_is_refused_with_its_accuracy(agreement, taught):
    blind = put(taught(), {noun.plural: noun.singular for noun in agreement.nouns})
    with pytest.raises(ValueError, match=r"minimum_accuracy\), got 0\.500 .*n=120"):
        agreement.counterfactuals(blind, n=60)


def test_too_few_rows_is_an_error_that_says_which(agreement, taught):
    blind = put(taught(), {noun.plural: noun.singular for noun in agreement.nouns})
    with pytest.raises(ValueError, match=r"right on base and source of 15, 60 .*0\.500.*plural"):
        agreement.counterfactuals(blind, n=60, minimum_accuracy=0.3)


def test_too_few_phrases_is_an_error(agreement, taught):
    few = NumberAgreement(nouns=agreement.nouns[:6], templates=agreement.templates[:3])
    with pytest.raises(ValueError, match="n must be a number of rows"):
        few.counterfactuals(taught(), n=600)


@pytest.mark.parametrize("n", [0, 4, 7])
def test_n_must_be_even_and_leave_both_splits_rows(agreement, taught, n):
    with pytest.raises(ValueError, match=rf"n must be an even number, at least 6, got {n}"):
        agreement.counterfactuals(taught(), n=n)


def test_minimum_accuracy_is_a_share(agreement, taught):
    with pytest.raises(ValueError, match="minimum_accuracy must be between 0 and 1, got 70"):
        agreement.counterfactuals(taught(), minimum_accuracy=70.0)


def test_accuracy_is_that_of_each_template_and_kind_of_attractor(agreement, taught):
    # The model takes plurals for singulars: right on half of the prompts of each line.
    blind = put(taught(), {noun.plural: noun.singular for noun in agreement.nouns})
    frame = agreement.accuracy(blind, n=10)
    assert len(frame) == 2 * len(agreement.templates)
    assert set(frame["attractor"]) == {"same", "other"}
    assert (frame["hits"] == 5).all() and (frame["accuracy"] == 0.5).all()
    assert ((frame["low"] > 0.2) & (frame["high"] < 0.8)).all()
    assert (agreement.accuracy(taught(), n=10)["accuracy"] == 1).all()
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        agreement.accuracy(blind, n=0)


def test_smollm2_agrees_often_enough(smollm2):
    made = NumberAgreement().counterfactuals(smollm2, n=48)
    # 0.95 on the prompts of 600 rows; three standard errors of 96 prompts are 0.06.
    assert made.model_accuracy is not None and made.model_accuracy > 0.88
    assert made.kept == 48


def test_the_causal_model_gives_the_answers_of_the_phrases(agreement, made):
    right = agreement.causal_model
    for row in rows(made):
        inputs = {
            "number": row["base_number"],
            "attractor_number": row["base_attractor_number"],
            "verb": tuple(row["choices"]),
        }
        source = inputs | {"number": row["source_number"]}
        assert right.run(inputs)["answer"] == row["base_answer"]
        swapped = right.interchange(right.run(inputs), {"number": right.run(source)})
        assert swapped["answer"] == row["label"]


def test_a_wrong_hypothesis_has_labels_of_its_own(agreement, taught):
    made = agreement.counterfactuals(taught(), n=36, variable="attractor_number")
    assert made.variable == "attractor_number" and made.changed == {"train": 0.5, "test": 0.5}
    for row in rows(made):
        assert VERBS[row["label"]] == row["source_attractor_number"]
        assert VERBS[row["base_answer"]] == row["base_number"]


@pytest.mark.usefixtures("no_type_checks")
def test_no_other_variable_is_swapped(agreement, taught):
    with pytest.raises(ValueError, match=r"variable must be one of .*, got 'verb'"):
        agreement.counterfactuals(taught(), n=36, variable="verb")
