"""How the subspaces that ReFTs write lie to each other, and to DAS's, each beside chance.

The same seed starts all trainings in one subspace, which would count as agreement: only different
seeds are compared, and of methods that have a start of their own none. Next door:
`compared_subspaces` asks.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from reft_interp.probing.geometry import overlap_beside_chance
from reft_interp.subspace import Subspace
from reft_interp.sweeps.label_subspaces import AtPlaces, Place

COLUMNS = [
    "question", "first", "second", "site", "tokens",
    "overlap", "expected at random", "random low", "random high",
]  # fmt: skip
Rows = list[dict[str, Any]]
_One = tuple[str, Mapping[Place, Subspace]]
"""A name, and its subspaces."""


def among_themselves(found: AtPlaces, started: Collection[str] = ()) -> tuple[Rows, list[str]]:
    """Overlaps of seeds and of methods, and which methods could not be compared.

    Args:
        found: what is written.
        started: methods all of whose seeds begin in a subspace of their own.
    """
    rows: Rows = []
    notes: list[str] = []
    methods = _methods(found)
    for one, other in (*zip(methods, methods, strict=True), *itertools.combinations(methods, 2)):
        if one in started and other in started:
            if one != other or len(_trainings(found, one)) > 1:
                both = f"seeds of {one}" if one == other else f"{one} and {other}"
                notes.append(_started(f"what {both} write"))
            continue
        pairs = [
            (f"{one} {seed}", at, f"{other} {another}", there)
            for (seed, at), (another, there) in itertools.product(
                _trainings(found, one), _trainings(found, other)
            )
            # Two seeds of one method are one pair.
            if seed != another and (one != other or seed < another)
        ]
        question = f"{one}: two seeds" if one == other else f"{one} and {other}"
        asked = [row for a, at, b, there in pairs for row in _rows(question, (a, at), (b, there))]
        rows += asked
        if one != other and not asked:
            notes.append(_note(f"what {one} and {other} write", bool(pairs)))
    return rows, notes


def between_tasks(
    found: AtPlaces,
    task: str,
    others: Mapping[str, AtPlaces],
    started: Mapping[str, Collection[str]] | None = None,
) -> tuple[Rows, list[str]]:
    """Overlaps of what one method writes for different tasks.

    Args:
        found: what is written for a task.
        task: its name.
        others: what is written for other tasks, by their names.
        started: by the other task, methods that begin in a subspace of their own for both.
    """
    rows: Rows = []
    notes: list[str] = []
    for other, theirs in others.items():
        both = [method for method in _methods(found) if method in _methods(theirs)]
        if not both:
            notes.append(f"{task} and {other} were not compared: no ReFT has one name in both")
        for method in both:
            if started and method in started.get(other, ()):
                notes.append(_started(f"what {method} writes for {task} and {other}"))
                continue
            pairs = [
                (f"{method} {seed}", at, f"{method} {another} of {other}", there)
                for (seed, at), (another, there) in itertools.product(
                    _trainings(found, method), _trainings(theirs, method)
                )
                if seed != another
            ]
            question = f"{method}: {task} and {other}"
            asked = [
                row for a, at, b, there in pairs for row in _rows(question, (a, at), (b, there))
            ]
            rows += asked
            if not asked:
                notes.append(_note(f"what {method} writes for {task} and {other}", bool(pairs)))
    return rows, notes


def with_das(found: AtPlaces, by_das: Mapping[Place, Subspace]) -> Rows:
    """Overlaps with what DAS finds at the same place."""
    return [
        row
        for (name, seed), at in found.items()
        for row in _rows(
            f"{name} and DAS",
            (f"{name} {seed}", {place: one for place, one in at.items() if place in by_das}),
            ("DAS", by_das),
        )
    ]


def _methods(found: AtPlaces) -> list[str]:
    return list(dict.fromkeys(method for method, _ in found))


def _trainings(found: AtPlaces, method: str) -> list[tuple[int, Mapping[Place, Subspace]]]:
    return [(seed, at) for (name, seed), at in found.items() if name == method]


def _rows(question: str, first: _One, second: _One) -> Rows:
    (one, at), (other, there) = first, second
    rows: Rows = []
    for here, where in _facing(at, there):
        (site, on), (_, other_on) = here, where
        same = on == other_on
        rows.append(
            {
                "question": question if same else f"{question}, on other tokens",
                "first": one,
                "second": other,
                "site": str(site),
                "tokens": str(on) if same else f"{on} and {other_on}",
                **overlap_beside_chance(at[here], there[where]),
            }
        )
    return rows


def _facing(
    at: Mapping[Place, Subspace], there: Mapping[Place, Subspace]
) -> Iterator[tuple[Place, Place]]:
    """Places that are compared: of one site the same tokens, or all where they share none."""
    for site in dict.fromkeys(site for site, _ in at):
        here = [place for place in at if place[0] == site]
        where = [place for place in there if place[0] == site]
        shared = [(place, place) for place in here if place in where]
        yield from shared or itertools.product(here, where)


def _note(what: str, had_seeds: bool) -> str:
    why = (
        "they have no site in common"
        if had_seeds
        else "one seed starts both in one subspace, and there are no two different ones"
    )
    return _not_compared(what, why)


def _started(what: str) -> str:
    return _not_compared(what, "it begins where its template stands, whatever the seed")


def _not_compared(what: str, why: str) -> str:
    return f"{what[0].upper()}{what[1:]} was not compared: {why}"
