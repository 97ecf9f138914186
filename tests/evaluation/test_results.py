"""What was counted, with its interval."""

import math
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reft_interp.evaluation import Accuracy, Comparison, mean_and_interval, paired_difference


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval, as he wrote it: the roots of (p - x/n)² = z² p(1-p)/n."""
    z = 1.959963984540054
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


@given(n=st.integers(1, 10_000), share=st.floats(0, 1))
def test_the_interval_is_wilsons(n, share):
    hits = round(n * share)
    counted = Accuracy(hits, n)
    assert counted.interval == pytest.approx(wilson(hits, n), abs=1e-9)
    low, high = counted.interval
    assert low <= counted.value <= high
    assert counted.value == hits / n


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (3, 2), (-1, 2), (0, -1)])
def test_counts_that_cannot_be_are_refused(hits, n):
    with pytest.raises(ValueError, match=rf"hits must be between 0 and n, .*{hits}/{n}"):
        Accuracy(hits, n)


def test_prints_share_interval_and_n():
    low, high = wilson(45, 60)
    assert str(Accuracy(45, 60)) == f"0.750 [{low:.3f}, {high:.3f}] n=60"


@pytest.fixture
def comparison() -> Comparison:
    return Comparison(
        "interchange accuracy at the top",
        (
            ("DAS", (Accuracy(45, 60),)),
            ("random", (Accuracy(6, 60), Accuracy(30, 60), Accuracy(12, 60))),
        ),
    )


def test_a_name_gives_what_was_measured_for_it(comparison):
    assert comparison["DAS"] == (Accuracy(45, 60),)
    with pytest.raises(KeyError, match="nothing is named 'das' here; there are 'DAS', 'random'"):
        _ = comparison["das"]


def test_several_draws_give_their_mean_and_range(comparison):
    low, high = wilson(45, 60)
    expected = pd.DataFrame(
        [
            {"method": "DAS", "value": 0.75, "low": low, "high": high, "n": 60, "draws": 1},
            {"method": "random", "value": 48 / 180, "low": 0.1, "high": 0.5, "n": 60, "draws": 3},
        ]
    )
    pd.testing.assert_frame_equal(comparison.to_frame(), expected)
    assert comparison["random"][1] == Accuracy(30, 60)
    with pytest.raises(KeyError, match="oracle"):
        comparison["oracle"]


def test_prints_a_line_a_method(comparison):
    low, high = wilson(45, 60)
    assert str(comparison).splitlines() == [
        "interchange accuracy at the top [95 % interval]",
        f"  DAS     0.750 [{low:.3f}, {high:.3f}]  n=60",
        "  random  0.267 [0.100, 0.500]  n=60, range of 3 draws",
    ]
    html = comparison._repr_html_()
    assert "<td>random</td>" in html and "0.267" in html


def test_draws_a_point_a_method(comparison):
    ax = comparison.plot(reference=0.5)
    try:
        drawn = {text.get_text() for text in ax.texts} | {
            label.get_text() for label in (*ax.get_xticklabels(), *ax.get_yticklabels())
        }
        assert {"DAS", "random"} <= {name for text in drawn for name in text.split()}
    finally:
        plt.close("all")


def test_a_paired_difference_has_the_interval_of_its_mean():
    rng = np.random.default_rng(0)
    first, second = rng.normal(1.0, 1.0, 2000), rng.normal(0.0, 2.0, 2000)
    value, (low, high) = paired_difference(first, second)
    assert value == pytest.approx((first - second).mean())
    # By the central limit theorem; the bootstrap does not know it.
    spread = 1.96 * (first - second).std() / 2000**0.5
    assert high - low == pytest.approx(2 * spread, rel=0.1)
    # As wide as Wilson's interval of none of so many, z² / (n + z²).
    wide = 1.96**2 / (2000 + 1.96**2)
    value_of_same, same = paired_difference(first, first)
    assert value_of_same == 0 and same == pytest.approx((-wide, wide), rel=1e-3)
    wide = 1.96**2 / (5 + 1.96**2)
    assert paired_difference(np.ones(5), np.zeros(5))[1] == pytest.approx((1 - wide, 1), rel=1e-3)
    assert paired_difference(first, second) == (value, (low, high))
    with pytest.raises(ValueError, match="the same rows: 2000, 3"):
        paired_difference(first, second[:3])


def test_resamples_of_many_rows_are_drawn_in_parts_and_are_the_same():
    rng = np.random.default_rng(3)
    first, second = rng.random(20_001), (rng.random(20_001) < 0.5).astype(float)
    tracemalloc.start()
    _, interval = paired_difference(first, second, seed=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6  # all at once are 2,000 * 20,001 numbers of 8 bytes, twice
    means = [
        (first - second)[drawn].mean()
        for drawn in np.random.default_rng(4).integers(0, 20_001, (2000, 20_001))
    ]
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]), rel=1e-9)


def test_what_does_not_vary_has_the_width_of_wilsons_interval_or_none():
    assert mean_and_interval(np.ones(5), (0.0, 1.0)) == pytest.approx((1, *wilson(5, 5)))
    assert mean_and_interval(np.zeros(5), (0.0, 1.0)) == pytest.approx((0, *wilson(0, 5)))
    wide = 100 * wilson(0, 5)[1]
    assert mean_and_interval(np.full(5, 50.0), (0.0, 100.0)) == pytest.approx(
        (50, 50 - wide, 50 + wide)
    )
    value, *ends = mean_and_interval(np.full(5, 2.5))
    assert value == 2.5 and np.isnan(ends).all()


def test_an_interval_of_a_mean_ends_within_what_scores_can_be():
    values = np.array([0.9, 1.0, 1.0, 0.2])
    _, low, high = mean_and_interval(values)
    assert high > 1
    assert mean_and_interval(values, (-1.0, 1.0))[1:] == (low, 1.0)
