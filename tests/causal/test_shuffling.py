"""What is dealt out again: labels and values that say nothing, and as many of each as before."""

from collections import Counter

import numpy as np
import pytest

from reft_interp.causal.shuffling import resample, resample_seeds, shuffled_labels, shuffled_pairs


def pairs(n: int = 24) -> list[dict]:
    """Bases and sources of an even number of prompts, each prompt with a number and a colour."""
    prompts = [{"prompt": f"p{i}", "number": i % 2, "colour": i % 3} for i in range(12)]
    rows = []
    for i in range(n):
        base, source = prompts[i % 12], prompts[(5 * i + 1) % 12]
        row = {"base": base["prompt"], "source": source["prompt"], "label": str(source["number"])}
        for side, of in (("base", base), ("source", source)):
            row |= {f"{side}_number": of["number"], f"{side}_colour": of["colour"]}
        rows.append(row)
    return rows


def values(rows, names=("number",)) -> dict[str, tuple]:
    """Of each prompt, its values; they must be the same wherever it stands."""
    found = {}
    for row in rows:
        for side in ("base", "source"):
            value = tuple(row[f"{side}_{name}"] for name in names)
            assert found.setdefault(row[side], value) == value
    return found


@pytest.mark.parametrize(
    ("variable", "names"), [("number", ["number"]), ("number and colour", ["number", "colour"])]
)
def test_values_are_dealt_to_prompts_evenly(variable, names):
    before, after = values(pairs(), names), values(shuffled_pairs(pairs(), variable, 0), names)
    assert list(after) == list(before) and Counter(after.values()) == Counter(before.values())
    if names == ["number"]:
        kept = [before[prompt] == after[prompt] for prompt in before]
        assert np.mean(kept) == 0.5
    assert after == values(shuffled_pairs(pairs(), variable, 0), names)
    assert after != values(shuffled_pairs(pairs(), variable, 1), names)


def test_values_that_read_alike_once_joined_are_dealt_as_different_ones():
    texts = {"number": ("a", "a b"), "colour": ("c", "b c")}
    rows = [
        row
        | {f"{side}_{name}": of[row[f"{side}_{name}"] % 2] for name, of in texts.items()
           for side in ("base", "source")}
        for row in pairs()
    ]  # fmt: skip
    # Each of the four combinations is dealt to a quarter of the prompts of each: of 12 prompts
    # with 3 each, to one at most more or less.
    names = ("number", "colour")
    before, after = values(rows, names), values(shuffled_pairs(rows, " and ".join(names), 0), names)
    assert Counter(before.values()) == Counter(after.values())
    dealt = Counter((before[prompt], after[prompt]) for prompt in before)
    for one in set(before.values()):
        for other in set(before.values()):
            share = Counter(before.values())[one] * Counter(before.values())[other] / len(before)
            assert abs(dealt[one, other] - share) < 1


def test_a_name_that_holds_the_word_and_is_one_name():
    rows = [{k.replace("number", "salt and pepper"): v for k, v in row.items()} for row in pairs()]
    dealt = values(shuffled_pairs(rows, "salt and pepper", 0), ["salt and pepper"])
    assert dealt == values(shuffled_pairs(pairs(), "number", 0))


def test_labels_are_those_that_das_trains_on_and_the_rest_stays():
    dealt = shuffled_pairs(pairs(), "number", 3)
    expected = shuffled_labels([{"answer": row["label"]} for row in pairs()], 3)
    assert [row["label"] for row in dealt] == [row["answer"] for row in expected]
    for row, was in zip(dealt, pairs(), strict=True):
        for name in ("base", "source", "base_colour", "source_colour"):
            assert row[name] == was[name]


def test_pairs_without_values_have_their_labels_dealt_alone():
    bare = [{k: row[k] for k in ("base", "source", "label")} for row in pairs()]
    dealt = shuffled_pairs(bare, "number", 0)
    assert [set(row) for row in dealt] == [set(row) for row in bare]
    assert [row["label"] for row in dealt] != [row["label"] for row in bare]


def test_labels_of_rows_with_as_many_choices_are_dealt_among_them():
    two, four = ["a", "b"], ["k", "l", "m", "n"]
    rows = [{"answer": two[i % 2], "choices": two} for i in range(12)]
    rows += [{"answer": four[i % 4], "choices": four} for i in range(32)]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    dealt = shuffled_labels(rows, seed=0)
    met = Counter((row["answer"], new["answer"]) for row, new in zip(rows, dealt, strict=True))
    # Each label is dealt to each in proportion: of 6 rows 3 each, of 8 rows 2 each.
    assert met == {(one, other): n for of, n in ((two, 3), (four, 2)) for one in of for other in of}


def test_a_row_with_as_many_choices_as_no_other_keeps_its_label():
    two = [{"answer": answer, "choices": ["a", "b"]} for answer in "abab" * 3]
    lone = {"answer": " is", "choices": [" is", " are", " was"]}
    with pytest.warns(UserWarning, match=r"row 4 \(3 choices\): with shuffled labels the row keep"):
        dealt = shuffled_labels([*two[:4], lone, *two[4:]], seed=0)
    assert dealt.pop(4) == lone
    assert dealt == shuffled_labels(two, seed=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(" is", 3)], "no two rows have as many choices; row 0, with the label ' is', has 3"),
        ([(" is", 3), (" is", 2)], "no two rows have as many choices; row 0"),
        (
            [(" is", 2), (" are", 2), (" is", 3), (" is", 3)],
            "' is' and all others of 3 choices stand at one place among",
        ),
    ],
)
def test_rows_whose_labels_cannot_be_dealt_among_them_are_told_of(rows, message):
    choices = [" is", " are", " was"]
    rows = [{"answer": answer, "choices": choices[:number]} for answer, number in rows]
    with pytest.raises(ValueError, match=f"pairs: labels cannot be shuffled, as {message}"):
        shuffled_labels(rows, seed=0)


def test_seeds_of_resamples_are_those_of_a_seed_and_of_nothing_else():
    first, second = resample_seeds(0, 5), resample_seeds(1, 5)
    assert len({*first, *second}) == 10
    assert resample_seeds(0, 2) == first[:2] and resample_seeds(0, 0) == []
    # Labels are shuffled, and searches begin, by the seeds that follow.
    assert min(first + second) > 1000


def test_resampling_draws_with_replacement():
    chosen = resample(200, 0)
    assert len(chosen) == 200 and set(chosen) < set(range(200))
    # A draw of n out of n leaves out a share of 1/e.
    assert len(set(chosen)) / 200 == pytest.approx(1 - np.exp(-1), abs=0.07)
