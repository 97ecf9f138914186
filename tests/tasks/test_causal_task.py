"""Tasks from causal models: the text, the labels, what is balanced and what is held out."""

from typing import Any

import pytest

from reft_interp import CausalModel, accuracy
from reft_interp.causal.rows import rows_of
from reft_interp.tasks import CausalTask, indirect_object, two_digit_addition


def task(**changes) -> CausalTask:
    """Is x above y? with a third number that does not matter."""
    given: dict[str, Any] = {
        "causal_model": CausalModel(
            {"x": range(12), "y": range(12), "z": range(3), "above": [False, True]},
            {"above": lambda x, y: x > y},
        ),
        "output": "above",
        "templates": ["{x} over {y} ({z}):", "Of {z}, {x} and {y}:", "{z} {x} {y} ->"],
        "words": {"above": {True: "yes", False: " no"}},
        "held_out": ("x",),
    }
    return CausalTask("comparison", **(given | changes))


@pytest.fixture
def fewer_tries(monkeypatch):
    """What there is, is found sooner in these small models; and so is that there is nothing."""
    monkeypatch.setattr("reft_interp.tasks.drawn_pairs._TRIES", 200)


def test_a_setting_is_written_with_its_spans():
    prompt = task().write({"x": 11, "y": 3, "z": 0})
    assert prompt.text == "11 over 3 (0):"
    assert {name: prompt.text[a:b] for name, (a, b) in prompt.spans.items()} == {
        "x": "11", "y": "3", "z": "0",
    }  # fmt: skip
    assert prompt.answer == " yes"  # a leading space where there was none
    assert task().choices == [" no", " yes"]


def test_labels_are_what_the_causal_model_implies():
    pairs = task().counterfactuals(None, "x", n=60, seed=3)
    for row in [*rows_of(pairs.train), *rows_of(pairs.test)]:
        x, y = int(row["source_x"]), int(row["base_y"])
        assert row["label"] == (" yes" if x > y else " no")
        own = int(row["base_x"]) > int(row["base_y"])
        assert row["base_answer"] == (" yes" if own else " no")
        assert row["base"][slice(*row["base_spans"]["x"])] == row["base_x"]


def test_half_of_the_labels_change_and_a_seed_repeats():
    one, two = (task().counterfactuals(None, "x", n=60, seed=3) for _ in range(2))
    assert one.changed == {"train": 0.5, "test": 0.5}
    assert one.hash == two.hash != task().counterfactuals(None, "x", n=60, seed=4).hash
    assert len(one.train) == 40 and len(one.test) == 20


def test_test_has_other_values_and_templates():
    pairs = task().counterfactuals(None, "x", n=60)
    values = [
        {row[f"{side}_x"] for row in rows_of(split) for side in ("base", "source")}
        for split in (pairs.train, pairs.test)
    ]
    assert not values[0] & values[1]

    def shape(text: str) -> str:
        return "".join(" " if letter.isdigit() else letter for letter in text).strip()

    shapes = [
        {" ".join(shape(row["base"]).split()) for row in rows_of(split)}
        for split in (pairs.train, pairs.test)
    ]
    assert not shapes[0] & shapes[1]
    assert "x, template" in pairs.held_out


def test_what_a_held_out_input_alone_determines_is_in_both_splits():
    kinds = {0: "a", 1: "a", 2: "a", 3: "b", 4: "b", 5: "b"}
    model = CausalModel(
        {"noun": range(6), "kind": ["a", "b"], "other": [0, 1], "out": ["a0", "a1", "b0", "b1"]},
        {"kind": lambda noun: kinds[noun], "out": lambda kind, other: f"{kind}{other}"},
    )
    made = CausalTask("kinds", model, "out", ["n{noun} {other}:"], held_out=("noun",))
    pairs = made.counterfactuals(None, "kind", n=12)
    for split, nouns in ((pairs.train, 4), (pairs.test, 2)):
        seen = {(row["base_noun"], row["base_kind"]) for row in rows_of(split)}
        assert len({noun for noun, _ in seen}) <= nouns
        assert {kind for _, kind in seen} == {"a", "b"}


def test_another_name_of_a_held_out_input_leaves_it_held_out():
    made = task(
        causal_model=CausalModel(
            {"x": range(12), "y": range(12), "z": range(3), "same": range(12), "above": [0, 1]},
            {"same": lambda x: x, "above": lambda same, y: int(same > y)},
        ),
        words={"above": {1: "yes", 0: " no"}},
    ).counterfactuals(None, "same", n=60)
    train, test = ({row["base_x"] for row in rows_of(split)} for split in (made.train, made.test))
    assert test and not train & test


def test_one_difference_leaves_the_other_inputs_alike():
    pairs = task().counterfactuals(None, "x", n=60, differ="one")
    assert all(row["base_y"] == row["source_y"] for row in rows_of(pairs.train))
    assert all(row["base_z"] == row["source_z"] for row in rows_of(pairs.train))
    both = task().counterfactuals(None, "x", n=60)
    assert any(row["base_y"] != row["source_y"] for row in rows_of(both.train))


@pytest.mark.usefixtures("fewer_tries")
def test_with_one_difference_that_decides_the_answer_every_answer_changes():
    # Another place of the two is another answer: with all else alike, none can stay.
    pairs = indirect_object().counterfactuals(None, "subject_position", n=12, differ="one")
    assert pairs.changed == {"train": 1, "test": 1}
    assert "100.0% of train, 100.0% of test rows" in str(pairs)
    assert (len(pairs.train), len(pairs.test)) == (8, 4)
    for row in [*rows_of(pairs.train), *rows_of(pairs.test)]:
        assert row["base_name_1"] == row["source_name_1"]
        assert row["base_place"] == row["source_place"]
        assert row["label"] == row["source_answer"] == f" {row['base_subject']}"
    tens = two_digit_addition().counterfactuals(None, "a_tens", n=12, differ="one")
    assert tens.changed == {"train": 1, "test": 1}
    for row in rows_of(tens.train):
        a, b = (10 * int(row[f"{x}_tens"]) + int(row[f"{y}_ones"]) for x, y in
                (("source_a", "base_a"), ("base_b", "base_b")))  # fmt: skip
        assert row["label"] == f" {(a + b) // 10 % 10}"
    # The carry is computed: other digits may give the same, so half stay.
    carry = two_digit_addition().counterfactuals(None, "carry", n=12, differ="one")
    assert carry.changed == {"train": 0.5, "test": 0.5}


@pytest.mark.usefixtures("fewer_tries")
def test_what_always_changes_is_said_where_everything_may_differ():
    model = CausalModel({"x": range(40), "out": range(40)}, {"out": lambda x: x})
    made = CausalTask("copy", model, "out", ["{x} is"])
    with pytest.raises(ValueError, match=r"always changes, in 200 draws, .* differ='one'"):
        made.counterfactuals(None, "x", n=12)
    assert made.counterfactuals(None, "x", n=12, differ="one").changed == {"train": 1, "test": 1}


@pytest.mark.usefixtures("fewer_tries")
@pytest.mark.parametrize("differ", ["one", "all"])
def test_more_pairs_than_there_are_of_a_kind_are_refused(differ):
    # Of 12 pairs of two numbers 4 have the same half.
    model = CausalModel({"x": range(4), "half": [0, 1]}, {"half": lambda x: x // 2})
    made = CausalTask("halves", model, "half", ["{x} is"])
    with pytest.raises(ValueError, match=r"no new pair .* label is the base's .* fewer pairs$"):
        made.counterfactuals(None, "half", n=18, differ=differ)


def test_several_variables_are_taken_together():
    pairs = task().counterfactuals(None, ("x", "y"), n=60)
    assert all(row["label"] == row["source_answer"] for row in rows_of(pairs.train))
    assert pairs.variable == "x and y"


def test_pairs_that_the_model_gets_wrong_are_left_out(tiny):
    model = tiny("llama")
    pairs = task().counterfactuals(model, "x", n=18, minimum_accuracy=0.0)
    assert pairs.generated >= pairs.kept == 18
    assert pairs.model_accuracy is not None and pairs.model == "tiny-llama"
    rows = [
        {"prompt": row["base"], "answer": row["base_answer"], "choices": row["choices"]}
        for row in rows_of(pairs.test)
    ]
    assert accuracy(model, rows).value == 1.0


def test_a_model_that_cannot_do_the_task_is_said_to(tiny):
    with pytest.raises(ValueError, match=r"share of 1\.0 of the prompts right"):
        task().counterfactuals(tiny("llama"), "x", n=18, minimum_accuracy=1.0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"output": "x"}, "output must be a computed variable"),
        ({"templates": []}, "at least one text"),
        ({"templates": ["{w}:"]}, r"names \['w'\]"),
        ({"templates": ["hello"]}, "it names none"),
        ({"templates": ["{x} "]}, "ends in a space"),
        ({"templates": ["{x:03d}:"]}, "formats 'x'; how a value is written is a matter of words"),
        ({"templates": ["{x} over {y:"]}, r"'{x} over {y:' must have each variable in braces, as"),
        ({"templates": ["{x} over {y}, {x}:"]}, "names 'x' twice, and a span is one place"),
        ({"templates": ["{x} over {z}:"]}, "answered True or False: it does not tell y"),
        ({"words": {"w": str}}, "words must name variables .* got 'w'"),
        ({"words": {"x": {0: "nil"}}}, "words: 'x' has none for 1"),
        ({"words": {"above": {True: "no", False: " no"}}}, "both written ' no'"),
        ({"held_out": ("above",)}, "inputs of three values or more"),
        ({"held_out": ("x", ("x", "y"))}, "held_out names 'x' twice"),
        ({"held_out": (("x", "z"),)}, "must take the same values, which 'x' and 'z' do not"),
    ],
)
def test_what_is_no_task_is_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        task(**changes)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("templates", ["{x} over {y}:", None, [3]])
def test_templates_are_a_list_of_texts(templates):
    with pytest.raises(TypeError, match="templates must be"):
        task(templates=templates)


@pytest.mark.parametrize("name", ["last", "first", "every", "all", "l1", "f3"])
def test_a_variable_in_a_template_is_one_that_a_selector_can_name(name):
    mechanism = eval(f"lambda {name}: {name}")
    model = CausalModel({name: range(3), "y": range(3)}, {"y": mechanism})
    with pytest.raises(ValueError, match=rf"names '{name}', which as .* name, as 'the_{name}'"):
        CausalTask("t", model, "y", [f"{{{name}}} is"])
    # One that no template names is as good as any.
    CausalTask("t", model, "y", ["{y} is"], words={"y": str})


def test_a_text_tells_an_input_by_what_is_computed_from_it():
    """Which of two is meant is never written, but which word stands there is."""
    domains = {"one": range(6), "step": range(1, 6), "place": [0, 1]}
    computed = {"second": range(6), "word": range(6), "other": range(6)}
    mechanisms = {
        "second": lambda one, step: (one + step) % 6,
        "word": lambda one, second, place: (one, second)[place],
        "other": lambda one, second, place: (second, one)[place],
    }
    model = CausalModel(domains | computed, mechanisms)
    CausalTask("told", model, "other", ["{one} {second} {word} and"])
    with pytest.raises(ValueError, match="it does not tell place"):
        CausalTask("untold", model, "other", ["{one} {second} and"])
    # Where the two may be the same, so may the texts, and then the answers are, too.
    alike = CausalModel({**domains, "step": range(6)} | computed, mechanisms)
    CausalTask("told", alike, "other", ["{one} {second} {word} and"])
    # More inputs than can all be tried, among them one that no template need name.
    many = {"one": range(300), "step": range(1, 300), "place": [0, 1], "idle": range(9)}
    mechanisms["second"] = lambda one, step: (one + step) % 300
    large = CausalModel(many | {name: range(300) for name in computed}, mechanisms)
    CausalTask("told", large, "other", ["{one} {second} {word} and"])
    with pytest.raises(ValueError, match="it does not tell place"):
        CausalTask("untold", large, "other", ["{idle} {one} {second} and"])


def test_another_template_is_one_that_could_be():
    setting = {"x": 11, "y": 3, "z": 0}
    assert task().write(setting, "{y} under {x}:").text == "3 under 11:"
    with pytest.raises(ValueError, match=r"'hello {q}' must name variables \(x, y, z, above\)"):
        task().write(setting, "hello {q}")
    with pytest.raises(ValueError, match="it does not tell y"):
        task().write(setting, "{x}:")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"variable": "w"}, "variable must be one of"),
        ({"variable": ()}, "at least one"),
        ({"variable": "x", "n": 7}, "even number"),
        ({"variable": "z"}, "answer never changes, in 2000 draws. Ask for a variable whose"),
        ({"variable": "z", "differ": "one"}, "answer never changes, in 2000 draws"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        task().counterfactuals(None, **arguments)


def test_a_variable_that_never_varies_is_refused():
    model = CausalModel(
        {"x": [0, 1, 2], "still": [1], "out": [1, 2, 3]}, {"out": lambda x, still: x + still}
    )
    made = CausalTask("still", model, "out", ["{x} {still}:"])
    with pytest.raises(ValueError, match="'still' never varies"):
        made.counterfactuals(None, "still", n=6)


def test_each_variable_is_taken_from_its_own_source():
    pairs = task(held_out=()).counterfactuals(None, ["x", "y"], n=60, own_sources=True)
    assert pairs.variable == "x and y" and pairs.changed == {"train": 0.5, "test": 0.5}
    for row in [*rows_of(pairs.train), *rows_of(pairs.test)]:
        assert set(row["sources"]) == {"x", "y"} and "source" not in row
        taken = {}
        for name, source in row["sources"].items():
            taken[name] = int(source["prompt"][slice(*source["spans"][name])])
            assert row[f"source_{name}"] == str(taken[name])
        assert row["label"] == (" yes" if taken["x"] > taken["y"] else " no")
        assert row["base"] not in [source["prompt"] for source in row["sources"].values()]
    with pytest.raises(ValueError, match=r"own_sources is for several variables, .* got 'x'"):
        task().counterfactuals(None, "x", n=60, own_sources=True)


def test_with_one_difference_each_source_shares_what_its_variable_is_not_made_of():
    pairs = task(held_out=()).counterfactuals(
        None, ["x", "y"], n=60, own_sources=True, differ="one"
    )
    for row in rows_of(pairs.train):
        for name, other in (("x", "y"), ("y", "x")):
            source = row["sources"][name]
            assert source["prompt"][slice(*source["spans"][other])] == row[f"base_{other}"]


def test_a_template_or_a_variable_that_stands_twice_is_refused():
    one, other, _ = task().templates
    with pytest.raises(ValueError, match=r"templates must differ, or .* got '\{x\} over .* twice"):
        task(templates=[one, one, other])
    with pytest.raises(ValueError, match=r"variable must name each once, got \['x', 'x'\]"):
        task().counterfactuals(None, ("x", "x"), n=60)


@pytest.mark.parametrize("minimum", [70.0, -1.0, float("nan")])
def test_a_minimum_accuracy_is_a_share(minimum):
    with pytest.raises(
        ValueError, match=f"minimum_accuracy must be between 0 and 1, got {minimum}"
    ):
        task().counterfactuals(None, "x", n=60, minimum_accuracy=minimum)
