"""Is a subspace one that DAS finds for the label of a task?

Pairs are rows of the task, half of them with different answers: what is swapped is whatever makes
the model give one answer rather than the other, and nothing else, as the others' answers stay.
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
from reft_interp.runtime.batching import as_list, choices_of
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
    here: dict[Place, list[tuple[str, int | None, Subspace]]] = {}
    for (name, of), at in found.items():
        for place, subspace in at.items():
            here.setdefault(place, []).append((name, of, subspace))
    places = list(here)
    cells = [
        DASCell(*place, here[place][0][2].rank, seed, epochs=epochs, learning_rate=learning_rate)
        for place in places
    ]
    trained = fit_das_each(model, train, cells, progress=False)
    by_das = {place: one.subspace for place, one in zip(places, trained, strict=True)}
    edits: list[tuple[Place, str, int | None, Subspace | None]] = []
    for place in places:
        searched: list[tuple[str, int | None, Subspace]] = [("DAS", seed, by_das[place])]
        searched += here[place]
        ranks = dict.fromkeys(subspace.rank for _, _, subspace in searched)
        width = by_das[place].width
        random_ones = [
            ("random subspace", None, control)
            for rank in ranks
            for control in control_subspaces(width, rank, draws, seed=seed)
        ]
        edits.append((place, "whole vector", None, None))
        edits += [(place, name, of, one) for name, of, one in (*searched, *random_ones)]
    scores = interchange_accuracies(
        model, held_out, [(_swap(subspace), *place) for place, _, _, subspace in edits]
    )
    none = accuracy(model, interchange_rows(held_out)[0])
    rows = [_iia("no intervention", None, None, ("everywhere", ""), none)]
    rows += [
        _iia(name, of, None if subspace is None else subspace.rank, place, score)
        for (place, name, of, subspace), score in zip(edits, scores, strict=True)
    ]
    return by_das, rows, None


def _swap(subspace: Subspace | None) -> Intervention:
    return Interchange() if subspace is None else DistributedInterchange(subspace)


def _splits(
    model: TransformerBridge, suite: Suite, pairs: int | Counterfactuals, seed: int
) -> tuple[Dataset, Dataset] | str:
    """Pairs to train DAS on and pairs to test it on, or why there are none."""
    if isinstance(pairs, Counterfactuals):
        return pairs.train, pairs.test
    test = as_list(next(iter(suite.tests.values())))
    asked = {row["prompt"] for row in test}
    seen = [] if suite.train is None else as_list(suite.train)
    train = label_pairs(model, [r for r in seen if r["prompt"] not in asked], pairs, seed=seed)
    held_out = label_pairs(model, test, pairs, seed=seed)
    fewest = min(len(train), len(held_out))
    if fewest < _ENOUGH:
        return (
            f"DAS was not asked: {suite.name} has {fewest} pairs of rows, half of them with "
            "different answers among their choices, that the untouched model gets right; "
            f"{_ENOUGH} are needed"
        )
    return Dataset.from_list(train), Dataset.from_list(held_out)


def _iia(
    name: str, seed: int | None, rank: int | None, place: Place | tuple[str, str], score: Accuracy
) -> dict[str, Any]:
    site, tokens = map(str, place)
    low, high = score.interval
    return {"subspace": name, "seed": seed, "rank": rank, "site": site, "tokens": tokens,
            "iia": score.value, "low": low, "high": high, "n": score.n}  # fmt: skip


def label_pairs(
    model: TransformerBridge, rows: Sequence[Mapping[str, Any]], count: int, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Counterfactual pairs for the label: rows with the same choices, half of the pairs with
    different answers and half with the same one, which should stay.

    Only rows that the model gets right are used, since otherwise there is nothing to swap.

    Args:
        model: the untouched model.
        rows: with `prompt`, `answer` and `choices`; those without choices are passed over.
        count: pairs at most; fewer where there are not as many of both kinds.
        seed: of which rows meet.

    Raises:
        TypeError: choices of a row are one text.
    """
    offered = [choices_of(row, f"rows: row {i}") for i, row in enumerate(rows)]
    asked = [{**row, "choices": of} for row, of in zip(rows, offered, strict=True) if of]
    drawn = random.Random(f"label pairs {seed}").sample(asked, len(asked))[: 4 * count]
    if not drawn:
        return []
    said = predict_choices(model, drawn)
    known = [
        row
        for row, choice in zip(drawn, said, strict=True)
        if row["choices"][choice] == row["answer"]
    ]
    changing, staying = [], []
    for i, base in enumerate(known):
        others = [
            row
            for row in known[i + 1 :] + known[:i]
            if row["choices"] == base["choices"] and row["prompt"] != base["prompt"]
        ]
        for pairs, changes in ((changing, True), (staying, False)):
            source = next((o for o in others if (o["answer"] != base["answer"]) == changes), None)
            if source is not None:
                pairs.append(
                    {"base": base["prompt"], "source": source["prompt"],
                     "label": source["answer"], "base_answer": base["answer"],
                     "choices": base["choices"]}
                )  # fmt: skip
    each = min(len(changing), len(staying), (count + 1) // 2)
    # One of each kind after the other, so that whatever is cut off leaves halves.
    both = [pair for two in zip(changing[:each], staying[:each], strict=True) for pair in two]
    return both[:count]
