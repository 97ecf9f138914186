"""Counterfactuals of rows that a user brings: what is filled in, what a model leaves out."""

from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

import reft_interp as ri


def own(base: str, source: str, label: str, answer: str = " is", **more: Any) -> dict:
    return {"base": base, "source": source, "label": label, "base_answer": answer} | more


TRAIN = [own("The key", "The doors", " are"), own("The cars", "The film", " is", " are")]
TEST = [own("The dog", "The cats", " are", word="dog")]


def test_what_rows_leave_out_is_filled_in():
    some = Dataset.from_list([TRAIN[0] | {"choices": [" is", " are", " was"]}, *TRAIN[1:]])
    filled = ri.Counterfactuals.from_rows(some, TEST, "number").train["choices"]
    assert list(filled) == [[" is", " are", " was"], [" are", " is"]]
    made = ri.Counterfactuals.from_rows(TRAIN, Dataset.from_list(TEST), "number", held_out="dogs")
    assert (made.variable, made.generated, made.kept, made.dropped) == ("number", 3, 3, 0)
    assert made.model is None and made.model_accuracy is None and "held out: dogs" in str(made)
    assert made.seed is None and "seed" not in str(made)
    for row in (*made.train.to_list(), *made.test.to_list()):
        assert row["choices"] == [" are", " is"]
    assert made.test["word"] == ["dog"]
    assert TRAIN[0] == own("The key", "The doors", " are")  # the caller's rows stay as they are


def test_a_column_that_the_first_row_lacks_stays():
    made = ri.Counterfactuals.from_rows([TRAIN[0], TRAIN[1] | {"word": "film"}], TEST, "number")
    assert made.train["word"] == [None, "film"]


def test_what_rows_say_stays():
    spans: Any = {"base_spans": {"subject": [4, 7]}, "source_spans": {"subject": [4, 9]}}
    given = own("The key", "The doors", " are", choices=[" are", " is", " was"], **spans)
    (row,) = ri.Counterfactuals.from_rows([given], TEST, "number").train.to_list()
    assert row == given


def test_they_train_and_are_scored_as_those_of_a_task(tiny, tmp_path):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    made = ri.Counterfactuals.from_rows(TRAIN, TEST, "number")
    evidence = ri.gather_evidence(
        model, made, site, "last", epochs=1, seeds=1, resamples=0, random_subspaces=1,
        minimum_accuracy=0, progress=False,
    )  # fmt: skip
    assert evidence.iia.n == 1 and evidence.variable == "number"
    grid = ri.grid([site], ["last"], epochs=1)
    found = ri.sweep(model, made, grid, tmp_path, minimum_accuracy=0, progress=False)
    assert bool(found.frame["error"].isna().all())
    assert ri.Counterfactuals.load(made.save(tmp_path / "saved")).hash == made.hash


def greedy(model, prompt: str, choices: list[str]) -> str:
    logits = model(model.tokenizer(prompt, return_tensors="pt").input_ids)[0, -1]
    return max(choices, key=lambda one: logits[model.tokenizer(one).input_ids[-1]].item())


def test_rows_that_the_model_gets_wrong_are_left_out_and_counted(tiny):
    model = tiny("llama")
    choices = [" is", " are"]
    right, wrong = [], []
    for base, source in (("The key", "The doors"), ("The cars", "The film"), ("The dog", "A cat")):
        answers = [greedy(model, prompt, choices) for prompt in (base, source)]
        other = {" is": " are", " are": " is"}
        label = other[answers[0]]
        right.append(own(base, source, label, answers[0], source_answer=answers[1]))
        wrong.append(own(base, source, label, answers[0], source_answer=other[answers[1]]))
        right[-1]["choices"] = wrong[-1]["choices"] = choices
    made = ri.Counterfactuals.from_rows([*right[:1], wrong[1]], right[2:], "number", model=model)
    assert (made.generated, made.kept, len(made.train), len(made.test)) == (3, 2, 1, 1)
    assert made.train["base"] == ["The key"] and made.model == "tiny-llama"
    assert made.model_accuracy == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match=r"share of 0.9 of the prompts right .* got 0.833"):
        ri.Counterfactuals.from_rows(
            [*right[:1], wrong[1]], right[2:], "number", model=model, minimum_accuracy=0.9
        )
    with pytest.raises(ValueError, match="test must have rows of which the model gets base and"):
        ri.Counterfactuals.from_rows(right[:2], wrong[2:], "number", model=model)


def test_each_of_several_sources_is_asked_for(tiny):
    model = tiny("llama")
    said = {p: greedy(model, p, [" is", " are"]) for p in ("The key", "The doors", "A film")}
    sources = {
        name: {"prompt": prompt, "answer": said[prompt], "spans": None}
        for name, prompt in (("number", "The doors"), ("tense", "A film"))
    }
    row = {
        "base": "The key", "base_answer": said["The key"], "sources": sources,
        "label": {" is": " are", " are": " is"}[said["The key"]], "choices": [" is", " are"],
    }  # fmt: skip
    other = {**row, "base": "The dog", "base_answer": greedy(model, "The dog", row["choices"])}
    made = ri.Counterfactuals.from_rows([row], [other], "number", model=model)
    assert made.kept == 2 and made.model_accuracy == 1


def test_a_variable_that_never_varies_is_refused():
    still = [own("The key", "The doors", " is"), own("A dog", "A cat", " is")]
    with pytest.raises(ValueError, match=r"train must .* the same in all 2, as if 'number'"):
        ri.Counterfactuals.from_rows(still, TEST, "number")
    with pytest.raises(ValueError, match=r"test must have rows whose label differs from base_ans"):
        ri.Counterfactuals.from_rows(TRAIN, still, "number")
    same = [row | {"base_number": 1, "source_number": 1} for row in (*TRAIN, *TEST)]
    with pytest.raises(ValueError, match="'number' must vary, it is '1' in every base and source"):
        ri.Counterfactuals.from_rows(same[:-1], same[-1:], "number")


def test_a_variable_that_is_nearly_one_that_rows_have_values_of_is_refused():
    values = {"base_number": "one", "source_number": "many", "base_verb": "be", "source_verb": "be"}
    rows = [row | values for row in (*TRAIN, *TEST)]
    for wrong, near in (("numbr", "number"), ("number and verbs", "verb")):
        with pytest.raises(ValueError, match=rf"variable must be one .* did you mean '{near}'\?"):
            ri.Counterfactuals.from_rows(rows[:2], rows[2:], wrong)
    for right in ("number", "number and verb"):
        assert ri.Counterfactuals.from_rows(rows[:2], rows[2:], right).variable == right


@pytest.mark.parametrize(
    "further",
    [
        {"base_noun": "key"},
        {"base_id": 1, "source_id": 2, "base_template": 0, "source_template": 0},
    ],
    ids=["one side", "other columns"],
)
def test_rows_may_say_nothing_of_their_variable(further):
    rows = [row | further for row in (*TRAIN, *TEST)]
    assert ri.Counterfactuals.from_rows(rows[:2], rows[2:], "number").kept == 3


def test_tokens_that_a_pair_lacks_are_told_of_before_the_model_is_asked(tiny, monkeypatch):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    spans: Any = {"base_spans": {"subject": [4, 7]}, "source_spans": {"subject": [4, 6]}}
    made = ri.Counterfactuals.from_rows([row | spans for row in TRAIN], TEST, "number")
    asked = []
    monkeypatch.setattr(
        "reft_interp.causal.task_done.task_accuracy", lambda *_: asked.append(1) or 1 / 0
    )
    for look in (
        lambda on: ri.gather_evidence(model, made, site, on),
        lambda on: ri.compare_methods(model, made, site, on, [ri.PCA()]),
    ):
        with pytest.raises(ValueError, match=r"train: no span 'subjcet' .*mean 'subject'\?"):
            look("subjcet")
        with pytest.raises(ValueError, match=r"test: no span 'subject' \(there are: none\)"):
            look("subject")
    assert not asked


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ([], ValueError, "train must hold at least one row, got none"),
        ([{"base": "The key"}], ValueError, r"row 0 lacks \['base_answer', 'label', 'source'\]"),
        (TRAIN[0], TypeError, "train must be a list of rows, got one dict"),
        ((row for row in TRAIN), TypeError, r"got a generator: give list\(...\)"),
        (TEST, ValueError, "test row 0 is also in train"),
        (None, TypeError, "train must be a list of rows, got None"),
        (["The key"], TypeError, "train: row 0 must be a mapping, got 'The key'"),
        ([TRAIN[0] | {"label": 1}], TypeError, "row 0: label must be a text, got 1"),
        ([own("The key", "The doors", "are")], ValueError, "'are' is there with it and without"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_rows_that_are_no_pairs_are_refused(train, error, message):
    with pytest.raises(error, match=message):
        ri.Counterfactuals.from_rows(train, TEST, "number")


def sourced(base: str, **prompts: Any) -> dict:
    """A row with a source for each name."""
    sources = {name: {"prompt": text, "spans": None} for name, text in prompts.items()}
    return {"base": base, "sources": sources, "label": " are", "base_answer": " is"}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (
            [sourced("A", a="B", b="C"), sourced("D", a="E")],
            ValueError,
            r"row 1: sources must be named alike .* got \['a'\], and .* row 0 has \['a', 'b'\]",
        ),
        (
            [own("A", "B", " are"), sourced("D", a="E", b="F")],
            ValueError,
            r"row 1: sources must be named alike .* got \['a', 'b'\], and .* has one source",
        ),
        (
            [sourced("A", a="B") | {"sources": {"a": {"spans": None}}}],
            TypeError,
            r"row 0: sources\['a'\] must be a mapping whose 'prompt' is a text, got",
        ),
        (
            [sourced("A", a="B") | {"sources": ["x y"]}],
            TypeError,
            r"row 0: sources must be a mapping of names to sources, got \['x y'\]",
        ),
        ([own("A", "B", " are", choices=[" is", 3, " are"])], TypeError, r"row 0: choices must be"),
        ([own("A", "B", " are", choices=" is are")], TypeError, "row 0: choices must be a list of"),
        (
            [own("The key", "B", " are", base_spans={"s": 3})],
            ValueError,
            r"row 0: the span 's' in base_spans must be \[start, end\], whole .* <= 7 .* got 3 in",
        ),
        (
            [own("The key", "B", " are", base_spans={"s": [0, 2.5]})],
            ValueError,
            r"row 0: the span 's' in base_spans must be .* whole numbers .* got \[0, 2\.5\]",
        ),
        (
            [own("The key", "B", " are", source_spans=[0, 1])],
            TypeError,
            r"row 0: source_spans must be a mapping of names to \[start, end\], got \[0, 1\]",
        ),
        (
            [own("A", "B", " are", source_answer=3)],
            TypeError,
            "row 0: source_answer must be a text",
        ),
        (
            [own("A", "B", " are") | {"source": None}],
            TypeError,
            "row 0: source must be a text, got",
        ),
        (
            [own("A", "B", " are", base_v=1), own("C", "D", " are", base_v="a")],
            ValueError,
            "column 'base_v' must hold values of one kind, row 0 has 1 and row 1 'a'",
        ),
        (
            [own("A", "B", " are", base_v=2**70)],
            ValueError,
            r"column 'base_v' must hold texts, numbers or .* row 0 has 11805916",
        ),
        (
            [own("A", "B", " are"), own("C", "D", " are", day=date(2020, 1, 2))],
            ValueError,
            r"column 'day' must hold texts, numbers or .* row 1 has datetime.date\(2020, 1, 2\)",
        ),
        (
            [own("A", "B", " are", seen=[{"at": datetime(2020, 1, 2)}])],
            ValueError,
            "column 'seen' must hold texts, numbers or .* row 0 has .*datetime.*JSON",
        ),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_a_bad_cell_is_named_with_its_row(rows, error, message, swapped):
    named = rows[0].get("sources")
    prompts = dict.fromkeys(named, "A cat") if isinstance(named, dict) else {}
    good = [sourced("The dog", **prompts)] if prompts else TEST
    splits = {"train": good, "test": rows} if swapped else {"train": rows, "test": good}
    with pytest.raises(error, match=f"^{'test' if swapped else 'train'}.*{message}"):
        ri.Counterfactuals.from_rows(**splits, variable="number")


def test_sources_are_named_alike_in_both_splits():
    with pytest.raises(ValueError, match=r"test row 0: sources .* got \['a', 'b'\], and train row"):
        ri.Counterfactuals.from_rows(TRAIN, [sourced("The dog", a="A cat", b="A film")], "number")


def test_answers_that_lack_their_space_may_be_why_a_model_gets_none_right(tiny):
    model = tiny("llama")
    bare = [row | {"label": "are", "base_answer": "is"} for row in (*TRAIN, *TEST)]
    for row, (right, wrong) in zip(bare, (("is", "are"), ("are", "is")) * 2, strict=False):
        said = greedy(model, row["base"], ["is", "are"])
        row["base_answer"] = wrong if said == right else right
        row["label"] = right if said == right else wrong
    hint = r"\. \(The answer '(is|are)' follows 'The .*' without a space, .* says ' (is|are)'"
    with pytest.raises(ValueError, match=rf"find in it{hint}"):
        ri.Counterfactuals.from_rows(bare[:2], bare[2:], "number", model=model)
    with pytest.raises(ValueError, match=rf"(train|test) must have rows .* n=3\){hint}"):
        ri.Counterfactuals.from_rows(
            bare[:2], bare[2:], "number", model=model, minimum_accuracy=0.0
        )


def test_one_answer_that_lacks_its_space_is_named(tiny, monkeypatch):
    monkeypatch.setattr(
        "reft_interp.causal.own_pairs.answers_correctly",
        lambda _, rows, **__: np.array([row["answer"].startswith(" ") for row in rows]),
    )
    test = [own("The dog", "The cats", "was", "are")]
    with pytest.raises(
        ValueError, match=r"test must .* \(The answer 'are' follows 'The dog' without"
    ):
        ri.Counterfactuals.from_rows(
            [own("The key", "The doors", " have", " is")] * 3, test, "number", model=tiny("llama")
        )


@pytest.mark.usefixtures("no_type_checks")
def test_what_is_no_model_or_no_share_is_refused(tiny):
    wrong: Any = "smollm2"
    with pytest.raises(TypeError, match=r"model must be a TransformerBridge.*'smollm2'"):
        ri.Counterfactuals.from_rows(TRAIN, TEST, "number", model=wrong)
    with pytest.raises(ValueError, match="minimum_accuracy must be between 0 and 1, got 70"):
        ri.Counterfactuals.from_rows(
            TRAIN, TEST, "number", model=tiny("llama"), minimum_accuracy=70
        )


@pytest.mark.usefixtures("no_type_checks")
def test_a_list_of_rows_has_no_rows_that_are_held_out(tiny, tmp_path):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    rows: Any = TRAIN
    asked = [
        lambda: ri.gather_evidence(model, rows, site, "last"),
        lambda: ri.compare_methods(model, rows, site, "last", [ri.PCA()]),
        lambda: ri.sweep(model, rows, ri.grid([site], ["last"]), tmp_path),
    ]
    for ask in asked:
        with pytest.raises(TypeError, match=r"got list: Counterfactuals.from_rows makes them"):
            ask()


def test_what_a_model_does_not_do_is_not_looked_for(tiny, tmp_path):
    model, site = tiny("llama"), ri.Site("resid_post", 0)
    said = greedy(model, "The dog", [" is", " are"])
    wrong = {" is": " are", " are": " is"}[said]
    made = ri.Counterfactuals.from_rows(TRAIN, [own("The dog", "The cats", said, wrong)], "number")
    for look in (
        lambda: ri.gather_evidence(model, made, site, "last"),
        lambda: ri.compare_methods(model, made, site, "last", [ri.PCA()]),
        lambda: ri.sweep(model, made, ri.grid([site], ["last"]), tmp_path / "sweep"),
    ):
        with pytest.raises(ValueError, match=r"share of 0.7 .* got 0.000 .* not made of what this"):
            look()
    assert not (tmp_path / "sweep").exists()
