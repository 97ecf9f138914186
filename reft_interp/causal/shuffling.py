"""Pairs drawn again: with labels that say nothing, or as another sample, for controls of a search.

What a search finds with shuffled labels, any labels would have found.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reft_interp.causal.interchanges import interchange_rows
from reft_interp.causal.rows import Pairs, listed_rows
from reft_interp.causal.variable_values import SIDES, names_in, value_text
from reft_interp.runtime.sources import Sources, take_sources


def resample(n: int, seed: int) -> list[int]:
    """As many places drawn again with replacement: what another sample of pairs would be."""
    return np.random.default_rng(seed).integers(n, size=n).tolist()


def resample_seeds(seed: int, n: int) -> list[int]:
    """Seeds of n resamples: others for another seed, and far from those that follow it, by which
    labels are shuffled and searches begin."""
    return np.random.SeedSequence(seed).generate_state(n).tolist()


def shuffled_labels(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Rows whose answers were dealt out again, so that they say nothing about the true ones.

    Where rows have choices, what is dealt is the place of the answer among them, so that each row
    keeps an answer that fits it; among rows with as many choices, since others lack the place. A
    row that has as many as no other keeps its own answer, which a warning says.

    Raises:
        ValueError: all answers are the same, those of rows with as many choices stand at the same
            place among sorted choices, or no two rows have as many.
    """
    answers = [row["answer"] for row in rows]
    if not all(row.get("choices") for row in rows):
        if len(set(answers)) < 2:
            raise ValueError(
                f"pairs: labels cannot be shuffled, as {answers[0]!r} and all others are the same"
            )
        dealt = [answers[of] for of in _deal(answers, seed)]
    else:
        dealt = _dealt_among([list(row["choices"]) for row in rows], answers, seed)
    return [{**row, "answer": answer} for row, answer in zip(rows, dealt, strict=True)]


def _dealt_among(choices: Sequence[Sequence[str]], answers: Sequence[str], seed: int) -> list[str]:
    """Of each row the choice that it gets, at the place of another row's answer."""
    dealt = list(answers)
    numbers = [len(of) for of in choices]
    groups: dict[int, list[int]] = {}
    for i, number in enumerate(numbers):
        groups.setdefault(number, []).append(i)
    alone = [i for group in groups.values() if len(group) == 1 for i in group]
    if len(alone) == len(answers):
        raise ValueError(
            f"pairs: labels cannot be shuffled, as no two rows have as many choices; row 0, with "
            f"the label {answers[0]!r}, has {numbers[0]}"
        )
    if alone:
        named = ", ".join(f"row {i} ({numbers[i]} choices)" for i in alone)
        warnings.warn(
            f"pairs: {named}: with shuffled labels the row keeps its own label, as no other row "
            "has as many choices",
            stacklevel=2,
        )
    for number, group in groups.items():
        if len(group) == 1:
            continue
        offered, held = [choices[i] for i in group], [answers[i] for i in group]
        if len(set(_places(offered, held))) < 2:
            # Whoever made the rows put the label at one place, from which no other can be dealt.
            offered = [sorted(of) for of in offered]
        places = _places(offered, held)
        if len(set(places)) < 2:
            raise ValueError(
                f"pairs: labels cannot be shuffled, as {held[0]!r} and all others of {number} "
                "choices stand at one place among their sorted choices"
            )
        for i, of, place in zip(group, offered, _deal(places, seed), strict=True):
            dealt[i] = of[places[place]]
    return dealt


def drawn_rows(
    bases: Sequence[Mapping[str, Any]],
    sources: Sources,
    resampled: int | None,
    shuffled: int | None,
) -> tuple[Sequence[Mapping[str, Any]], Sources]:
    """The rows that a search trains on.

    Args:
        bases: with the label as their answer.
        sources: of each.
        resampled: seed of pairs drawn again with replacement; None for those that there are.
        shuffled: seed of labels dealt out again; None for the true ones.

    Raises:
        ValueError: as `shuffled_labels`.
    """
    if resampled is not None:
        chosen = resample(len(bases), resampled)
        bases, sources = [bases[i] for i in chosen], take_sources(sources, chosen)
    return (bases if shuffled is None else shuffled_labels(bases, shuffled)), sources


def shuffled_pairs(pairs: Pairs, variable: str, seed: int) -> list[dict[str, Any]]:
    """Pairs whose labels, and whose variable's values where they have them, were dealt out again.

    A prompt keeps having one value, in however many pairs it is; one whose values differ with its
    spans, as where two templates give one text, has as many as before.

    Args:
        pairs: counterfactual rows.
        variable: whose values are in `base_<variable>` and `source_<variable>`; several names are
            joined by " and ", where no column has the whole name, and their values are dealt
            together.
        seed: of the draw.

    Raises:
        ValueError: as `shuffled_labels`.
    """
    rows = [dict(row) for row in listed_rows(pairs)]
    labelled = shuffled_labels(interchange_rows(pairs)[0], seed)
    for row, base in zip(rows, labelled, strict=True):
        row["label"] = base["answer"]
    names = names_in(variable, rows)
    if any(f"{side}_{name}" not in row for row in rows for side in SIDES for name in names):
        return rows
    values: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        for side in SIDES:
            prompt = row[side], value_text(row, side, names)
            values[prompt] = [row[f"{side}_{name}"] for name in names]
    held = list(values.values())
    places = _deal([said for _, said in values], seed)
    dealt = {prompt: held[of] for prompt, of in zip(values, places, strict=True)}
    for row in rows:
        for side in SIDES:
            new = dealt[row[side], value_text(row, side, names)]
            row |= {f"{side}_{name}": value for name, value in zip(names, new, strict=True)}
    return rows


def _deal(values: Sequence[Any], seed: int) -> list[int]:
    """Of each place, the place whose value it gets.

    The places of each value get all values in the proportion in which there are: dealt freely, a
    few more would be right than wrong by chance, and a search that amplifies this finds the
    variable after all.
    """
    rng = np.random.default_rng(seed)
    _, which, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    # Value after value, in any order within; and the values evenly spaced, whatever their number.
    receiving = rng.permutation(len(values))
    receiving = receiving[np.argsort(which[receiving], kind="stable")]
    spaced = np.empty(len(values))
    for value, count in enumerate(counts):
        spaced[rng.permutation(np.flatnonzero(which == value))] = (
            np.arange(count) + rng.random(count)
        ) / count
    dealt = np.empty(len(values), dtype=int)
    dealt[receiving] = np.argsort(spaced, kind="stable")
    return dealt.tolist()


def _places(choices: Sequence[Sequence[str]], answers: Sequence[str]) -> list[int]:
    return [of.index(answer) for of, answer in zip(choices, answers, strict=True)]
