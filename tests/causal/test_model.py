"""Causal models: what they compute, what interchanges among them imply, what they refuse."""

import numpy as np
import pytest

from reft_interp import CausalModel


def sums() -> CausalModel:
    """Three digits: (x + y) + z, and whether that is even."""
    return CausalModel(
        domains={
            "x": range(4),
            "y": range(4),
            "z": range(4),
            "first": range(7),
            "total": range(10),
            "even": [False, True],
        },
        mechanisms={
            "first": lambda x, y: x + y,
            "total": lambda first, z: first + z,
            "even": lambda total: total % 2 == 0,
        },
    )


def test_it_computes_every_variable_from_the_inputs():
    found = sums().run({"x": 1, "y": 3, "z": 2})
    assert found == {"x": 1, "y": 3, "z": 2, "first": 4, "total": 6, "even": True}


def test_an_intervention_holds_a_variable_whatever_its_parents():
    found = sums().run({"x": 1, "y": 3, "z": 2}, do={"first": 0})
    assert found["first"] == 0 and found["total"] == 2 and found["x"] == 1


def test_an_interchange_takes_a_variable_from_the_source():
    base, source = {"x": 1, "y": 1, "z": 1}, {"x": 3, "y": 2, "z": 0}
    found = sums().interchange(base, {"first": source})
    assert found["total"] == (3 + 2) + 1
    assert found["x"] == 1  # what lies before it stays the base's


def test_several_sources_give_a_variable_each():
    base = {"x": 0, "y": 0, "z": 0}
    found = sums().interchange(base, {"first": {**base, "x": 3}, "z": {**base, "z": 2}})
    assert found["total"] == 3 + 2


def test_interchanges_nest():
    model = sums()
    base, one, two = ({"x": i, "y": i, "z": i} for i in (1, 2, 3))
    # `first` of a run on `one` whose x came from `two`.
    inner = model.interchange(one, {"x": two})
    assert inner["first"] == 3 + 2
    assert model.interchange(base, {"first": inner})["total"] == (3 + 2) + 1


def test_every_setting_is_listed_once():
    settings = list(sums().settings())
    assert len(settings) == 4**3
    assert len({tuple(one.items()) for one in settings}) == 4**3


def test_sampling_is_uniform_and_repeats_with_its_seed():
    model = sums()
    drawn = [model.sample(np.random.default_rng(0)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    rng = np.random.default_rng(0)
    counts = np.bincount([model.sample(rng)["x"] for _ in range(2000)], minlength=4)
    assert counts.min() > 400  # 500 expected, five standard deviations are 97


def test_parents_come_first_and_are_read_off_the_mechanisms():
    model = CausalModel(
        domains={"late": [0, 1, 2], "a": [0, 1], "b": [0, 1]},
        mechanisms={"late": lambda a, b: a + b},
    )
    assert model.inputs == ("a", "b")
    assert model.variables[-1] == "late"
    assert model.parents["late"] == ("a", "b")
    assert repr(model) == "CausalModel(a, b, late(a, b))"


def test_of_equal_values_a_variable_has_that_of_its_domain():
    model = CausalModel(
        {"a": [0, 1], "b": range(9), "both": [0, 1], "half": range(5)},
        # `and` gives 0, False or True; division 0.0, 1.0, ...
        {"both": lambda a, b: a and b > 4, "half": lambda b: b / 2 if b % 2 == 0 else 0},
    )
    found = [*model.settings(), model.run({"a": True, "b": 8.0}, do={"both": 1.0})]
    found.append(model.interchange({"a": 0, "b": 1}, {"both": {**found[0], "both": True}}))
    assert {type(value) for setting in found for value in setting.values()} == {int}
    assert {setting["both"] for setting in found} == {0, 1}
    assert found[-1]["both"] == 1 and found[-2]["half"] == 4
    truth = CausalModel({"x": [0, 1], "y": [False, True]}, {"y": lambda x: x})
    assert truth.run({"x": 1})["y"] is True


def test_a_default_binds_a_value_and_is_no_parent():
    table = {0: 1, 1: 0}
    model = CausalModel({"x": [0, 1], "y": [0, 1]}, {"y": lambda x, table=table: table[x]})
    assert model.parents["y"] == ("x",)
    assert model.run({"x": 0})["y"] == 1


def test_the_drawing_has_every_variable_and_arrow():
    ax = sums().plot()
    assert {text.get_text() for text in ax.texts if text.get_text()} == {
        "x", "y", "z", "first", "total", "even",
    }  # fmt: skip
    arrows = [text for text in ax.texts if not text.get_text()]
    assert len(arrows) == 5
    height = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert height["x"] < height["first"] < height["total"] < height["even"]


@pytest.mark.parametrize(
    ("domains", "mechanisms", "match"),
    [
        ({}, {}, "at least one variable"),
        ({"x": [0, 1]}, {}, "inputs only"),
        ({"x": [], "y": [0]}, {"y": lambda x: 0}, "'x' must have at least one value"),
        ({"x": [0, 0], "y": [0]}, {"y": lambda x: 0}, "value twice"),
        ({"x": [0]}, {"y": lambda x: 0}, "'y' has no domain"),
        ({"x": [0], "y": [0]}, {"y": lambda z: 0}, "takes 'z', which is no variable"),
        (
            {"x": [0], "y": [0], "z": [0]},
            {"y": lambda x: 0, "z": lambda x, y=0: 0},
            "'z' takes the variable 'y' with a default, 0",
        ),
        ({"x": [0], "y": [0]}, {"x": lambda y: 0, "y": lambda x: 0}, "no cycle, got"),
    ],
)
def test_what_is_no_model_is_refused(domains, mechanisms, match):
    with pytest.raises(ValueError, match=match):
        CausalModel(domains, mechanisms)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("domain", "match"),
    [
        ({1, 2}, r"'x' must be a list of its values, got {1, 2}, which has another order in each"),
        (frozenset("a"), r"'x' must be a list .* which has another order in each run"),
        ("abc", "'x' must be a list of its values, got 'abc', which is one text"),
        (3, "'x' must be a list of its values, got 3"),
        ([[1], [2]], r"'x' has \[1\], which cannot be looked up; .* make it a tuple"),
    ],
)
def test_a_domain_is_a_list_of_values(domain, match):
    with pytest.raises(TypeError, match=f"domains: {match}"):
        CausalModel({"x": domain, "y": [0, 1]}, {"y": lambda x: 0})


def test_a_mechanism_that_fails_is_named_with_what_it_was_given():
    with pytest.raises(
        ValueError, match=r"mechanism of 'y', given {'x': 0}, raises ZeroDivisionError: "
    ) as raised:
        CausalModel({"x": [1, 0], "y": [0, 1]}, {"y": lambda x: 1 // x})
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    for value in (np.array([0, 1]), [0]):
        with pytest.raises(ValueError, match=r"mechanism of 'y', given {'x': 0}, gives 'y' the"):
            CausalModel({"x": [0, 1], "y": [0, 1]}, {"y": lambda x, value=value: value})


def test_mechanisms_must_name_their_parents():
    domains = {"x": [0], "y": [0]}
    with pytest.raises(TypeError, match=r"takes \*values"):
        CausalModel(domains, {"y": lambda *values: 0})
    with pytest.raises(TypeError, match="must be a function that tells"):
        CausalModel(domains, {"y": max})


@pytest.mark.parametrize(
    ("inputs", "do", "match"),
    [
        ({"x": 1, "y": 1}, None, r"must have a value for \['z'\]"),
        ({"x": 1, "y": 1, "z": 9}, None, "'z' the value 9, which is not in its domain"),
        ({"x": 1, "y": 1, "z": 1, "w": 1}, None, r"inputs has \['w'\]"),
        ({"x": 1, "y": 1, "z": 1, "total": 1}, None, r"inputs has \['total'\]"),
        ({"x": 1, "y": 1, "z": 1}, {"sum": 1}, r"do has \['sum'\]"),
        ({"x": 1, "y": 1, "z": 1}, {"first": 70}, "do gives 'first' the value 70"),
    ],
)
def test_what_is_no_setting_is_refused(inputs, do, match):
    with pytest.raises(ValueError, match=match):
        sums().run(inputs, do)


def test_a_mechanism_that_leaves_its_domain_is_named():
    with pytest.raises(ValueError, match=r"mechanism of 'y', given {'x': 2}, gives .* 4"):
        CausalModel({"x": range(3), "y": range(3)}, {"y": lambda x: 2 * x})
    # In the middle of a model, and where its parents are computed.
    domains = {"a": range(3), "b": range(3), "c": range(5), "d": range(4), "e": [False, True]}
    mechanisms = {"c": lambda a, b: a + b, "d": lambda c: c, "e": lambda d: d > 1}
    with pytest.raises(
        ValueError, match=r"mechanism of 'd', given {'c': 4}, gives 'd' the value 4"
    ):
        CausalModel(domains, mechanisms)
    assert CausalModel(domains | {"d": range(5)}, mechanisms).run({"a": 2, "b": 2})["e"]


def test_of_many_inputs_some_are_tried_and_of_few_all():
    # Wrong for one combination of 10,000, the last.
    def late(a, b):
        return 2 if a == b == 99 else 0

    with pytest.raises(ValueError, match=r"given {'a': 99, 'b': 99}, gives 'late' the value 2"):
        CausalModel({"a": range(100), "b": range(100), "late": [0, 1]}, {"late": late})
    tried = []

    def often(a, b):
        tried.append((a, b))
        return 2 if a > 1000 else 0

    with pytest.raises(ValueError, match="gives 'often' the value 2"):
        CausalModel({"a": range(5000), "b": range(5000), "often": [0, 1]}, {"often": often})
    tried.clear()
    CausalModel({"a": range(5000), "b": range(5000), "often": [0, 1, 2]}, {"often": often})
    assert len(tried) == 1000
    # A variable of few inputs is tried with all of them beside one of many.
    inputs = {name: range(100) for name in "abcd"}
    with pytest.raises(ValueError, match="gives 'late' the value 2"):
        CausalModel(
            {**inputs, "late": [0, 1], "sum": range(400)},
            {"late": late, "sum": lambda late, a, b, c, d: late + a + b + c + d},
        )


def test_a_mechanism_is_tried_with_what_its_parents_can_be():
    """An index into a list is defined where the list has the value, as it always has here."""
    lists = ((0, 1), (1, 2))
    model = CausalModel(
        {"held": lists, "place": [0, 1], "value": range(3), "pointer": [0, 1]},
        {
            "value": lambda held, place: held[place],
            "pointer": lambda held, value: held.index(value),
        },
    )
    assert model.run({"held": (1, 2), "place": 1})["pointer"] == 1


def test_an_interchange_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one variable"):
        sums().interchange({"x": 0, "y": 0, "z": 0}, {})
    with pytest.raises(ValueError, match=r"sources has \['w'\]"):
        sums().interchange({"x": 0, "y": 0, "z": 0}, {"w": {"x": 0, "y": 0, "z": 0}})
