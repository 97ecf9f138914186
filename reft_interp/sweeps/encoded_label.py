"""What subspaces hold of a task, in the untouched model: its label, what varies, and tokens.

Questions of `probing` that need no counterfactual pairs, only rows with a label, asked at the last
of the tokens that a ReFT edits.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.evaluation import control_subspaces
from reft_interp.probing.geometry import variance_inside
from reft_interp.probing.linear import DRAWS, lacking_for_folds, read_inside
from reft_interp.probing.tokens import principal_axes, promoted_tokens
from reft_interp.runtime.activations import activations_each
from reft_interp.runtime.batching import as_list, choices_of
from reft_interp.runtime.running import is_causal
from reft_interp.subspace import Subspace
from reft_interp.sweeps.label_subspaces import AtPlaces, Place
from reft_interp.tasks.suites import Suite
from reft_interp.training.labelled_rows import texts_of

_MOST = 500
"""Rows: probes of whole vectors of more would take longer than DAS."""
_AT_ONCE = 64
_ENOUGH = 10
"""Rows of an answer, without which some fold has nearly none of them."""
_NOT_RESIDUAL = ("z", "mlp_post")
_READ = (
    "accuracy", "low", "high", "random", "random low", "random high", "shuffled labels",
    "whole vector", "majority", "n",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class HeldRows:
    """What the untouched model holds of a suite's rows."""

    rows: Sequence[Mapping[str, Any]]
    states: Mapping[Place, Float[Tensor, "rows d"]]
    """At the last of each place's tokens; in an encoder at the first."""
    unread: str | None
    """Why no label of the rows can be read, where none can."""


def asked_rows(suite: Suite, seed: int) -> list[Mapping[str, Any]]:
    """The rows that are asked about: those of the first test set, 500 of them at most.

    Args:
        suite: whose rows.
        seed: of those that are taken.
    """
    rows = as_list(next(iter(suite.tests.values())))
    if len(rows) > _MOST:
        rows = random.Random(f"encoded {seed}").sample(rows, _MOST)
    return rows


def hold_rows(
    model: TransformerBridge,
    suite: Suite,
    places: Sequence[Place],
    *,
    seed: int,
    max_length: int | None = None,
) -> HeldRows:
    """Run the rows that are asked about, and see whether they have a label that can be read: the
    answer, of rows that have choices and whose answer ten rows have at least.

    Args:
        model: the untouched model.
        suite: whose rows.
        places: where.
        seed: of the rows that are taken.
        max_length: tokens after which an encoder's texts are cut.

    Raises:
        TypeError: choices of a row are one text.
        ValueError: a place's tokens are none in some row.
    """
    rows = asked_rows(suite, seed)
    labelled = _labelled(rows)
    unread = None
    if labelled is None:
        unread = (
            f"The label was not read: {suite.name} has no two answers among the choices of its "
            f"test rows with {_ENOUGH} rows each"
        )
    elif lacking := lacking_for_folds([row["answer"] for row in labelled], _groups(labelled)):
        unread = (
            "The label was not read, as no subject of rows may be in training and test at once: "
            f"{lacking}"
        )
    kept = rows if labelled is None or unread else labelled
    return HeldRows(kept, _held(model, kept, places, max_length), unread)


def find_encoded(
    model: TransformerBridge, held: HeldRows, found: AtPlaces, *, draws: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask what subspaces hold of rows.

    Args:
        model: the untouched model.
        held: what it holds of them, at all places of the subspaces.
        found: the subspaces.
        draws: random subspaces for each place and rank, at least `DRAWS`.
        seed: of the folds, the shuffle and the random subspaces.

    Returns:
        `SubspaceComparison.encoded` and `promoted` (empty for an encoder, which has no logit
        readout).
    """
    draws = max(draws, DRAWS)
    encoded: list[dict[str, Any]] = []
    promoted: list[pd.DataFrame] = []
    for place, h in held.states.items():
        here = [(name, of, at[place]) for (name, of), at in found.items() if place in at]
        controls = {
            subspace.rank: control_subspaces(subspace.width, subspace.rank, draws, seed=seed)
            for _, _, subspace in here
        }
        varies = {rank: [variance_inside(one, h) for one in controls[rank]] for rank in controls}
        subspaces = [subspace for _, _, subspace in here]
        read = _read(h, held, subspaces, draws=draws, seed=seed)
        for (name, of, subspace), label in zip(here, read, strict=True):
            by_chance = varies[subspace.rank]
            encoded.append(
                {
                    **_where(name, of, place),
                    "rank": subspace.rank,
                    **{column: label.get(column) for column in _READ},
                    "variance": variance_inside(subspace, h),
                    "variance at random": sum(by_chance) / len(by_chance),
                    "variance random high": max(by_chance),
                }
            )
        if is_causal(model) and place[0].component not in _NOT_RESIDUAL:
            random_ones = [("random subspace", seed, some[0]) for some in controls.values()]
            for name, of, subspace in (*here, *random_ones):
                tokens = promoted_tokens(model, principal_axes(subspace, h))
                tokens = tokens.rename(columns={"tokens": "promotes"})
                promoted.append(pd.DataFrame([_where(name, of, place)]).merge(tokens, how="cross"))
    frame = pd.DataFrame(encoded)
    return (
        frame.astype({column: "Int64" if column == "n" else float for column in _READ}),
        pd.concat(promoted, ignore_index=True) if promoted else pd.DataFrame(),
    )


def _read(
    h: Float[Tensor, "rows d"],
    held: HeldRows,
    subspaces: Sequence[Subspace],
    *,
    draws: int,
    seed: int,
) -> Sequence[Mapping[Any, Any]]:
    """What `read_inside` says of each subspace; nothing where there is no label."""
    if held.unread is not None:
        return [{}] * len(subspaces)
    return read_inside(
        h,
        [row["answer"] for row in held.rows],
        subspaces,
        groups=_groups(held.rows),
        draws=draws,
        seed=seed,
    ).to_dict("records")


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(row.get("subject") or row["prompt"]) for row in rows]


def _where(name: str, seed: int, place: Place) -> dict[str, Any]:
    site, on = place
    return {"subspace": name, "seed": seed, "site": str(site), "tokens": str(on)}


def _labelled(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Rows whose answer is one of their choices and common enough to be learned; None where that
    leaves no two answers."""
    asked = [row for i, row in enumerate(rows) if choices_of(row, f"suite: row {i}")]
    count = Counter(row["answer"] for row in asked)
    kept = [row for row in asked if count[row["answer"]] >= _ENOUGH]
    return kept if len({row["answer"] for row in kept}) > 1 else None


def _held(
    model: TransformerBridge,
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[Place],
    max_length: int | None,
) -> dict[Place, Float[Tensor, "rows d"]]:
    """What the untouched model holds at the last of each place's tokens (an encoder: the first).

    Raises:
        ValueError: a place's tokens are none in some row, as those of a pair that has one token.
    """
    texts = texts_of(model, rows)
    asked = -1 if is_causal(model) else 0
    parts: dict[Place, list[Tensor]] = {place: [] for place in places}
    # In parts, so that of many tokens never more than a part's are held.
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        some = activations_each(model, part, places, max_length=max_length)
        for place, each in zip(places, some, strict=True):
            lacking = next((i for i, h in enumerate(each) if not len(h)), None)
            if lacking is not None:
                raise ValueError(
                    f"suite: {str(place[1])!r} selects nothing in a test row, so that nothing can "
                    f"be read there: {part[lacking]['prompt']!r}"
                )
            parts[place] += [h[asked][None].float().cpu() for h in each]
    return {place: torch.cat(some) for place, some in parts.items()}
