"""The metrics, against closed forms and counts made by hand."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from reft_interp.evaluation.metrics import (
    exact_match,
    f1,
    label_accuracy,
    matthews,
    numeric_match,
    pearson,
    spearman,
)

NAMES = ("no", "yes")

# 3 true and 2 false positives, 1 false and 4 true negatives: predicted, gold.
PAIRS = [(1, 1)] * 3 + [(1, 0)] * 2 + [(0, 1)] * 1 + [(0, 0)] * 4
PREDICTED, GOLD = zip(*PAIRS, strict=True)


def test_accuracy_is_the_share_of_equal_answers_and_none_is_wrong():
    metric = exact_match()
    assert metric(["a", "b", None, "a"], ["a", "a", "a", "a"]) == 0.5
    assert metric.is_correct is not None and not metric.is_correct(None, "a")


@pytest.mark.parametrize(
    ("predicted", "gold", "right"),
    [
        ("72", "72.0", True),
        ("1.8335", "1.8333333333333335", True),
        ("1.83", "1.8333333333333335", False),
        ("72.0009", "72", True),
        ("72.002", "72", False),
        ("-3", "3", False),
        (None, "3", False),
        ("inf", "3", False),
        ("D", "D", True),
        ("A", "D", False),
        ("4", "D", False),
        ("D", "4", False),
    ],
)
def test_numbers_are_compared_as_numbers_within_a_thousandth(predicted, gold, right):
    assert numeric_match()([predicted], [gold]) == float(right)


def test_matthews_is_the_formula_of_the_four_counts():
    expected = (3 * 4 - 2 * 1) / math.sqrt((3 + 2) * (3 + 1) * (4 + 2) * (4 + 1))
    assert matthews(NAMES)(PREDICTED, GOLD) == pytest.approx(expected)


def test_f1_is_the_harmonic_mean_of_precision_and_recall_of_the_second_label():
    assert f1(NAMES)(PREDICTED, GOLD) == pytest.approx(2 / (5 / 3 + 4 / 3))
    flipped = [[1 - label for label in side] for side in (PREDICTED, GOLD)]
    assert f1(NAMES)(*flipped) == pytest.approx(2 / (5 / 4 + 6 / 4))
    assert f1(NAMES)([0, 0], [0, 0]) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_measures_of_two_labels_are_sklearns(seed):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, 60)
    predicted = np.where(rng.random(60) < rng.random(), gold, rng.integers(0, 2, 60))
    given = predicted.tolist(), gold.tolist()
    assert matthews(NAMES)(*given) == pytest.approx(matthews_corrcoef(gold, predicted))
    assert f1(NAMES)(*given) == pytest.approx(f1_score(gold, predicted))


def test_names_and_numbers_of_labels_are_the_same():
    named = [[NAMES[label] for label in side] for side in (PREDICTED, GOLD)]
    for metric in (matthews(NAMES), f1(NAMES), label_accuracy(NAMES)):
        assert metric(*named) == metric(PREDICTED, named[1]) == metric(PREDICTED, GOLD)
        assert metric(list(np.array(PREDICTED)), GOLD) == metric(PREDICTED, GOLD)


@pytest.mark.parametrize("metric", [f1(NAMES), label_accuracy(NAMES)])
def test_no_answer_counts_as_the_wrong_label(metric):
    known = [1, 0, 1, 0]
    assert metric([1, None, 1, 0], known) == metric([1, 1, 1, 0], known) < metric(known, known)
    assert metric([None, 0, 1, 0], known) == metric([0, 0, 1, 0], known)


def test_a_label_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="a label must be one of no, yes, or its number, got 2"):
        matthews(NAMES)([2, 0], [1, 0])
    with pytest.raises(ValueError, match="got 'maybe'"):
        label_accuracy(NAMES)(["maybe"], ["yes"])


def test_correlations_are_those_of_the_formula():
    gold, found = [0.0, 1.0, 2.0, 5.0], ["0.5", "0.2", "3", "4"]
    values = np.array([float(score) for score in found])
    assert pearson()(found, gold) == pytest.approx(np.corrcoef(values, gold)[0, 1])
    # Ranks 2, 1, 3, 4 against 1, 2, 3, 4: 1 - 6 Σd² / n(n² - 1).
    assert spearman()(found, gold) == pytest.approx(1 - 6 * 2 / (4 * 15))


@pytest.mark.parametrize("seed", range(3))
def test_no_answer_stands_for_each_of_the_answers_that_were_found(seed):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 6, 30).astype(float)
    said = np.round(gold / 2 + rng.normal(0, 2, 30))
    found: list[float | None] = [
        None if lost else float(x) for x, lost in zip(said, rng.random(30) < 0.4, strict=True)
    ]
    known = [x for x in found if x is not None]
    # Written out: a row without an answer once with each answer, the others as often.
    written = [one for x in found for one in (known if x is None else [x] * len(known))]
    wanted = np.repeat(gold, len(known))
    for metric, known_one in ((pearson(), pearsonr), (spearman(), spearmanr)):
        by_scipy: Any = known_one(written, wanted)
        assert metric(found, gold.tolist()) == pytest.approx(by_scipy.statistic)
    labels = [None if x is None else int(x > 1) for x in found]
    of_gold = [int(x > 2) for x in gold]
    expected = matthews_corrcoef(np.repeat(of_gold, len(known)), [int(x > 1) for x in written])
    assert matthews(NAMES)(labels, of_gold) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [pearson(), spearman(), matthews(NAMES)])
def test_nothing_found_is_no_correlation_and_half_found_is_half_of_it(metric):
    gold = [0, 1, 0, 1] * 4
    assert metric([None] * 16, gold) == 0.0 == metric([1] * 16, gold)
    assert metric([None] * 12 + [1] * 4, gold) == 0.0
    assert metric(gold[:8] + [None] * 8, gold) == pytest.approx(0.5)  # that of guesses
    wrong = [1 - label for label in gold]
    assert metric(wrong[:8] + [None] * 8, gold) == pytest.approx(-0.5)


def test_a_constant_side_has_no_correlation():
    for metric in (pearson(), spearman()):
        assert metric([2.0, 2.0], [1.0, 3.0]) == metric([1.0, 3.0], [2.0, 2.0]) == 0.0
    assert matthews(NAMES)([1, 1], [1, 0]) == 0.0


@pytest.mark.parametrize(("predicted", "gold"), [([], []), (["a"], ["a", "b"])])
def test_answers_that_do_not_pair_are_an_error(predicted, gold):
    with pytest.raises(ValueError, match=r"an answer of each row: there are \d predicted and \d"):
        exact_match()(predicted, gold)


@pytest.mark.parametrize("metric", [f1, matthews])
def test_f1_and_matthews_are_of_two_labels(metric):
    for labels in (("a", "b", "c"), ("a",)):
        with pytest.raises(ValueError, match=f"labels must be two for {metric.__name__}, got"):
            metric(labels)
