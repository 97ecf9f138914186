"""Intervals of any metric: truth is the closed form, where a metric has one."""

import numpy as np
import pytest

from reft_interp.evaluation.metric_scores import score
from reft_interp.evaluation.metrics import (
    Metric,
    exact_match,
    f1,
    matthews,
    mean_of_rows,
    pearson,
    spearman,
)
from reft_interp.evaluation.results import Accuracy

pytestmark = pytest.mark.usefixtures("long_training")

LABELS = ("no", "yes")


def test_a_share_of_rows_has_wilsons_interval():
    predicted, gold = [0, 1, 1, 0, 1], [0, 1, 0, 0, 0]
    found = score(exact_match(), predicted, gold)
    assert (found.value, found.n) == (0.6, 5)
    assert found.interval == Accuracy(3, 5).interval
    assert str(found) == "accuracy 0.600 [0.231, 0.882] n=5"


def test_a_correlation_has_about_fishers_interval():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=400)
    predicted = gold + rng.normal(size=400)
    found = score(pearson(), predicted.tolist(), gold.tolist())
    r = np.corrcoef(predicted, gold)[0, 1]
    assert found.value == pytest.approx(r)
    # Fisher's transformation, exact for normal variables.
    low, high = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(400 - 3))
    assert found.interval == pytest.approx((low, high), abs=0.01)


def test_an_interval_of_matthews_correlation_covers_its_value_and_narrows_with_rows():
    rng = np.random.default_rng(1)
    widths = []
    for n in (16, 256):
        gold = rng.integers(0, 2, n)
        predicted = np.where(rng.random(n) < 0.75, gold, 1 - gold)
        found = score(matthews(LABELS), predicted.tolist(), gold.tolist())
        low, high = found.interval
        assert low < found.value < high
        widths.append(high - low)
    # As the square root of the number of rows.
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_the_seed_decides_the_resamples():
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 2, 30).tolist()
    predicted = rng.integers(0, 2, 30).tolist()
    one, same, other = (score(f1(LABELS), predicted, gold, seed=s).interval for s in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("gold", [[1, 1, 1, 1], [0, 1, 1, 1]])
def test_resamples_of_one_label_are_no_trouble(gold):
    found = score(matthews(LABELS), [1, 1, 1, 1], gold)
    unseen = Accuracy(0, 4).interval[1]
    assert found.value == 0.0 and found.interval == pytest.approx((-unseen, unseen))


def test_one_row_and_none():
    assert score(f1(LABELS), [1], [1]).interval == pytest.approx(Accuracy(1, 1).interval)
    with pytest.raises(ValueError, match="there are 1 predicted and 2 gold"):
        score(f1(LABELS), [1], [1, 0])


def test_without_bounds_there_is_no_interval_of_what_does_not_vary():
    found = score(Metric("mean", lambda predicted, gold: 3.0), [1, 2], [1, 2])
    assert found.value == 3.0 and np.isnan(found.interval).all()


def test_a_mean_of_rows_scores_each_row_once_and_says_the_same():
    asked = []

    def near(predicted: float, gold: float) -> float:
        asked.append(gold)
        return 1 / (1 + abs(predicted - gold))

    rng = np.random.default_rng(4)
    predicted, gold = rng.normal(size=20).tolist(), rng.normal(size=20).tolist()
    fast = mean_of_rows("nearness", near, (0.0, 1.0))
    slow = Metric("nearness", fast.compute, bounds=(0.0, 1.0))
    found = score(fast, predicted, gold)
    assert asked == gold
    expected = score(slow, predicted, gold)
    assert found.value == pytest.approx(expected.value)
    assert found.interval == pytest.approx(expected.interval)
    with pytest.raises(ValueError, match="there are 1 predicted and 2 gold"):
        score(fast, [1.0], [1.0, 0.0])


@pytest.mark.parametrize(
    "metric",
    [f1(LABELS), matthews(LABELS), pearson(), spearman()],
    ids=lambda metric: metric.name,
)
def test_resamples_score_as_rows_do_one_by_one(metric):
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 2, 40).tolist()
    predicted = [
        None if i % 9 == 0 else int(rng.random() < 0.3 + 0.4 * g) for i, g in enumerate(gold)
    ]
    one_by_one = [
        metric([predicted[i] for i in drawn], [gold[i] for i in drawn])
        for drawn in np.random.default_rng(5).integers(0, 40, (2000, 40))
    ]
    found = score(metric, predicted, gold, seed=5).interval
    assert found == pytest.approx(np.quantile(one_by_one, [0.025, 0.975]), rel=1e-9)


def test_answers_are_read_a_few_times_however_often_they_are_resampled():
    read = []

    class Read(float):
        def __float__(self):
            read.append(1)
            return super().__float__()

    rng = np.random.default_rng(6)
    predicted, gold = rng.normal(size=(2, 50)).tolist()
    expected = score(pearson(), predicted, gold)
    assert score(pearson(), list(map(Read, predicted)), list(map(Read, gold))) == expected
    assert len(read) <= 2 * 100
