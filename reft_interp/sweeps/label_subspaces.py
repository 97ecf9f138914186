"""Is a subspace one that DAS finds for the label of a task?

Pairs are rows of the task with different answers, so that what is swapped is whatever makes the
model give one answer rather than the other.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import (
    Counterfactuals,
    DASCell,
    fit_das_each,
    interchange_accuracies,
    interchange_rows,
)
from reft_interp.evaluation import Accuracy, accuracy, control_subspaces, predict_choices
from reft_interp.interventions import DistributedInterchange, Interchange, Intervention
from reft_interp.positions import PositionSelector
from reft_interp.runtime.batching import as_list
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.tasks.suites import Suite

Place = tuple[Site, PositionSelector]
AtPlaces = Mapping[tuple[str, int], Mapping[Place, Subspace]]
"""By method and seed, a subspace at each place."""

_ENOUGH = 20


def find_label_subspaces(
    model: TransformerBridge,
    suite: Suite,
    found: AtPlaces,
    *,
    pairs: int | Counterfactuals,
    epochs: int,
    learning_rate: float,
    draws: int,
    seed: int,
) -> tuple[dict[Place, Subspace], list[dict[str, Any]], str | None]:
    """DAS for the label at each place, and IIA inside every subspace there.

    Args:
        model: the untouched model.
        suite: DAS is trained on pairs of its training rows; IIA is on pairs of test rows.
        found: the other subspaces; DAS takes their places, and the rank of the first at each.
        pairs: of training rows and of test rows, at most; or counterfactuals to take instead.
        epochs: of DAS.
        learning_rate: of DAS.
        draws: random subspaces at each place.
        seed: of all that is drawn.

    Returns:
        What DAS found; rows of `SubspaceComparison.interchanges`; and a note in place of both
        where there are too few pairs.
    """
    splits = _splits(model, suite, pairs, seed)
    if isinstance(splits, str):
        return {}, [], splits
    train, held_out = splits
    places = list(dict.fromkeys(place for at in found.values() for place in at))
    ranks = {place: next(at[place].rank for at in found.values() if place in at)
             for place in places}  # fmt: skip
    cells = [
        DASCell(site, on, ranks[site, on], seed, epochs=epochs, learning_rate=learning_rate)
        for site, on in places
    ]
    trained = fit_das_each(model, train, cells, progress=False)
    by_das = {place: one.subspace for place, one in zip(places, trained, strict=True)}
    edits: list[tuple[str, Intervention, Place]] = []
    for place in places:
        edits.append(("whole vector", Interchange(), place))
        edits.append(("DAS", DistributedInterchange(by_das[place]), place))
        width = by_das[place].width
        edits += [
            ("random subspace", DistributedInterchange(control), place)
            for control in control_subspaces(width, ranks[place], draws, seed=seed)
        ]
        edits += [
            (name, DistributedInterchange(at[place]), place)
            for (name, _), at in found.items()
            if place in at
        ]
    scores = interchange_accuracies(
        model, held_out, [(edit, site, on) for _, edit, (site, on) in edits]
    )
    rows = [_iia("no intervention", None, accuracy(model, interchange_rows(held_out)[0]))]
    rows += [
        _iia(name, place, score) for (name, _, place), score in zip(edits, scores, strict=True)
    ]
    return by_das, rows, None


def _splits(
    model: TransformerBridge, suite: Suite, pairs: int | Counterfactuals, seed: int
) -> tuple[Dataset, Dataset] | str:
    """Pairs to train DAS on and pairs to test it on, or why there are none."""
    if isinstance(pairs, Counterfactuals):
        return pairs.train, pairs.test
    test = next(iter(suite.tests.values()))
    train, held_out = (
        [] if rows is None else label_pairs(model, as_list(rows), pairs, seed=seed)
        for rows in (suite.train, test)
    )
    fewest = min(len(train), len(held_out))
    if fewest < _ENOUGH:
        return (
            f"DAS was not asked: {suite.name} has {fewest} pairs of rows with different answers "
            f"among their choices that the untouched model gets right; {_ENOUGH} are needed"
        )
    return Dataset.from_list(train), Dataset.from_list(held_out)


def _iia(name: str, place: Place | None, score: Accuracy) -> dict[str, Any]:
    where = ("everywhere", "") if place is None else map(str, place)
    site, tokens = where
    low, high = score.interval
    return {"subspace": name, "site": site, "tokens": tokens, "iia": score.value, "low": low,
            "high": high, "n": score.n}  # fmt: skip


def label_pairs(
    model: TransformerBridge, rows: Sequence[Mapping[str, Any]], count: int, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Counterfactual pairs for the label: rows with the same choices and different answers.

    Only rows that the model gets right are used, since otherwise there is nothing to swap.

    Args:
        model: the untouched model.
        rows: with `prompt`, `answer` and `choices`; those without choices are passed over.
        count: pairs at most.
        seed: of which rows meet.
    """
    asked = [row for row in rows if row.get("choices")]
    drawn = random.Random(f"label pairs {seed}").sample(asked, len(asked))[: 4 * count]
    if not drawn:
        return []
    said = predict_choices(model, drawn)
    known = [
        row
        for row, choice in zip(drawn, said, strict=True)
        if row["choices"][choice] == row["answer"]
    ]
    pairs = []
    for i, base in enumerate(known):
        others = [
            row
            for row in known[i + 1 :] + known[:i]
            if row["answer"] != base["answer"] and list(row["choices"]) == list(base["choices"])
        ]
        if others:
            pairs.append(
                {"base": base["prompt"], "source": others[0]["prompt"],
                 "label": others[0]["answer"], "base_answer": base["answer"],
                 "choices": list(base["choices"])}
            )  # fmt: skip
    return pairs[:count]
