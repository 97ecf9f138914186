"""Numbers as people read them."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reft_interp.report.cells import columns, text, with_index


def shown(frame):
    return {column.name: list(column.cells) for column in columns(frame)}


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.91234, "0.912"),
        (0.9, "0.90"),
        (0.9996, "1.00"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (123.45, "123"),
        (4612.7, "4613"),
        (0.0456, "0.0456"),
        (0.000045612, "4.56e-5"),
        (-0.123456, "-0.123"),
        (1234567.0, "1.23e6"),
        (0.0, "0"),
        (float("nan"), "—"),
        (float("inf"), "∞"),
        (-float("inf"), "-∞"),
        (None, "—"),
        (pd.NA, "—"),
        (pd.NaT, "—"),
        (134515008, "134515008"),
        (np.int64(7), "7"),
        (np.float32(0.5), "0.50"),
        (True, "yes"),
        (np.False_, "no"),
        (" is", " is"),
        ((0.81234, 0.93), "[0.812, 0.930]"),
        ([0.0012, 0.0034], "[0.0012, 0.0034]"),
        ((12.0, 15.25), "[12.0, 15.2]"),
        ((0.5, float("nan")), "—"),
        ([" is", " are"], " is,  are"),
        ((1, 2, 3), "1, 2, 3"),
        (np.array([1, 2]), "1, 2"),
        ({"rank": 4, "lr": 0.004}, "rank: 4, lr: 0.004"),
        (pd.Timedelta("1s"), "0 days 00:00:01"),
    ],
)
def test_one_value(value, cell):
    assert text(value) == cell


@given(st.floats(min_value=1e-9, max_value=1e9), st.sampled_from([1, -1]))
def test_a_number_is_read_back_to_half_a_place_in_three(size, sign):
    value = sign * size
    assert math.isclose(float(text(value)), value, rel_tol=0.0051)


def test_numbers_of_a_column_line_up_and_show_no_place_that_none_of_them_has():
    frame = pd.DataFrame({"a": [0.91, 0.9, 1.0, 0.03], "b": [0.912, 0.9, 12.5, np.nan]})
    assert shown(frame) == {
        "a": ["0.91", "0.90", "1.00", "0.03"],
        "b": ["0.912", "0.900", "12.5", "—"],
    }


def test_low_and_high_become_one_column():
    frame = pd.DataFrame(
        {
            "iia": [0.9],
            "low": [0.81],
            "high": [0.93],
            "probe_accuracy_low": [np.nan],
            "probe_accuracy_high": [np.nan],
            "n": [100],
            "high_score": [3],
        }
    )
    assert shown(frame) == {
        "iia": ["0.90"],
        "interval": ["[0.810, 0.930]"],
        "probe accuracy interval": ["—"],
        "n": ["100"],
        "high score": ["3"],
    }


def test_a_low_without_its_high_stays():
    assert shown(pd.DataFrame({"low": [0.5], "x_high": [0.25]})) == {
        "low": ["0.50"],
        "x high": ["0.25"],
    }


def test_columns_know_how_they_want_to_be_set():
    prompt = "The keys to the cabinet on the left of the door"
    frame = pd.DataFrame(
        {"a": [1, 2], "b": [None, 0.5], "c": ["x", "y"], "d": [prompt, ""], "e": [True, False]}
    )
    kinds = [column.kind for column in columns(frame)]
    assert kinds == ["number", "number", "text", "long", "text"]
    assert [column.kind for column in columns(frame.iloc[:0])] == ["number"] * 5  # nothing to set


def test_an_index_that_says_something_is_shown():
    values = {"iia": [0.5, 0.25]}
    assert shown(pd.DataFrame(values, index=pd.Index([3, 9], name="layer"))) == {
        "layer": ["3", "9"],
        "iia": ["0.50", "0.25"],
    }
    assert shown(pd.DataFrame(values, index=["DAS", "LoReFT"]))[""] == ["DAS", "LoReFT"]
    assert shown(pd.DataFrame(values, index=[7, 4])) == {"iia": ["0.50", "0.25"]}  # filtered rows


def test_a_pivot_table_gets_flat_names():
    long = pd.DataFrame({"layer": [0, 0], "task": ["a", "b"], "iia": [0.5, 0.25], "n": [8, 9]})
    wide = long.pivot(index="layer", columns="task", values=["iia", "n"])
    assert list(with_index(wide).columns) == ["layer", "iia a", "iia b", "n a", "n b"]


def test_the_frame_itself_is_not_changed():
    frame = pd.DataFrame({("a", "b"): [1]}, index=pd.Index([1], name="k"))
    before = frame.copy()
    columns(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_two_columns_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="two columns of one name, got 'a' twice"):
        columns(pd.DataFrame([[1, 2]], columns=pd.Index(["a", "a"])))
