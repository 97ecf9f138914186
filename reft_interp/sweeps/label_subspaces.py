"""Is a subspace one that DAS finds for the label of a task?

Pairs are rows of the task, half of them with different answers: what is swapped is whatever makes
the model give one answer rather than the other, and nothing else, as the others' answers stay.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import as_list, choices_of, encode
from reft_interp.runtime.prepared import preparation_errors
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
        where there are too few pairs, or of places where they cannot be swapped.
    """
    asked = list(dict.fromkeys(place for at in found.values() for place in at))
    splits = _splits(model, suite, pairs, seed, asked)
    if isinstance(splits, str):
        return {}, [], splits
    train, held_out = splits
    # Before anything is trained: at one place it would end the search at all of them.
    errors = _errors(model, splits, asked)
    note = _left_out(errors)
    if len(errors) == len(asked):
        return {}, [], note
    here: dict[Place, list[tuple[str, int | None, Subspace]]] = {}
    for (name, of), at in found.items():
        for place, subspace in at.items():
            if place not in errors:
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
    return by_das, rows, note


def _errors(
    model: TransformerBridge, splits: Sequence[Dataset], places: Sequence[Place]
) -> dict[Place, ValueError]:
    """Of places whose tokens cannot be swapped in the pairs, why."""
    placed = [IntervenedModel(model, Placement(Interchange(), *place)) for place in places]
    errors: dict[Place, ValueError] = {}
    for bases, sources in map(interchange_rows, splits):
        found = preparation_errors([(one, bases, sources) for one in placed])
        errors |= {p: e for p, e in zip(places, found, strict=True) if e is not None}
    return errors


def _left_out(errors: Mapping[Place, ValueError]) -> str | None:
    if not errors:
        return None
    at = ", ".join(dict.fromkeys(f"{site} on {on}" for site, on in errors))
    why = str(next(iter(errors.values()))).splitlines()[0]
    return f"DAS was not asked at {at}, where the tokens of pairs cannot be swapped: {why}"


def _swap(subspace: Subspace | None) -> Intervention:
    return Interchange() if subspace is None else DistributedInterchange(subspace)


def _splits(
    model: TransformerBridge,
    suite: Suite,
    pairs: int | Counterfactuals,
    seed: int,
    places: Sequence[Place],
) -> tuple[Dataset, Dataset] | str:
    """Pairs to train DAS on and pairs to test it on, or why there are none."""
    if isinstance(pairs, Counterfactuals):
        return pairs.train, pairs.test
    test = as_list(next(iter(suite.tests.values())))
    asked = {row["prompt"] for row in test}
    seen = [] if suite.train is None else as_list(suite.train)
    unseen = [row for row in seen if row["prompt"] not in asked]
    train = label_pairs(model, unseen, pairs, seed=seed, places=places)
    held_out = label_pairs(model, test, pairs, seed=seed, places=places)
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
    model: TransformerBridge,
    rows: Sequence[Mapping[str, Any]],
    count: int,
    *,
    seed: int = 0,
    places: Sequence[Place] = (),
) -> list[dict[str, Any]]:
    """Counterfactual pairs for the label: rows with the same choices, half of the pairs with
    different answers and half with the same one, which should stay.

    Only rows that the model gets right are used, since otherwise there is nothing to swap.

    Args:
        model: the untouched model.
        rows: with `prompt`, `answer` and `choices`; those without choices are passed over.
        count: pairs at most; fewer where there are not as many of both kinds.
        seed: of which rows meet.
        places: rows meet that have as many tokens at each, which can be swapped one for one; any
            rows, where those are too few.

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
    alike = _paired(known, _tokens_at(model, known, places), count)
    return alike if len(alike) >= _ENOUGH else _paired(known, [()] * len(known), count)


def _tokens_at(
    model: TransformerBridge, rows: Sequence[Mapping[str, Any]], places: Sequence[Place]
) -> list[tuple[int, ...]]:
    """Of each row, what a source must have as many of: tokens at the places, or of the prompt."""
    if not rows:
        return []
    batch = encode(model, rows)
    columns: list[list[int]] = []
    for on in dict.fromkeys(on for _, on in places):
        if on.counts_from_start:
            columns.append([len(tokens) for tokens in batch.offsets])
            continue
        with suppress(ValueError):  # a row without such tokens: there DAS is left out
            columns.append(on(batch).counts(batch).tolist())
    return list(zip(*columns, strict=True)) if columns else [()] * len(rows)


def _paired(
    known: Sequence[Mapping[str, Any]], tokens: Sequence[tuple[int, ...]], count: int
) -> list[dict[str, Any]]:
    """Each row as a base of a pair that changes and one that stays, as far as there are sources."""
    changing: list[dict[str, Any]] = []
    staying: list[dict[str, Any]] = []
    for i, base in enumerate(known):
        others = [
            known[j]
            for j in (*range(i + 1, len(known)), *range(i))
            if tokens[j] == tokens[i]
            and known[j]["choices"] == base["choices"]
            and known[j]["prompt"] != base["prompt"]
        ]
        for pairs, changes in ((changing, True), (staying, False)):
            source = next((o for o in others if (o["answer"] != base["answer"]) == changes), None)
            if source is not None:
                pairs.append(
                    {"base": base["prompt"], "source": source["prompt"],
                     "label": source["answer"], "base_answer": base["answer"],
                     "choices": base["choices"], **_spans(base, source)}
                )  # fmt: skip
    each = min(len(changing), len(staying), (count + 1) // 2)
    # One of each kind after the other, so that whatever is cut off leaves halves.
    both = [pair for two in zip(changing[:each], staying[:each], strict=True) for pair in two]
    return both[:count]


def _spans(base: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    if not base.get("spans") or not source.get("spans"):
        return {}
    return {"base_spans": base["spans"], "source_spans": source["spans"]}
