"""Activations of counterfactual rows, each with the variable's value there.

Above: `reading_methods`, which looks for directions that tell the values apart.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.interchanges import On, rows_of_one_source
from reft_interp.causal.rows import Pairs, listed_rows
from reft_interp.causal.variable_values import SIDES, names_in, value_text
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.runtime.activations import activations_each
from reft_interp.runtime.batching import encode
from reft_interp.sites import Site


def labelled_activations(
    model: TransformerBridge, pairs: Pairs, variable: str | None, site: Site, on: On
) -> tuple[Float[Tensor, "n d"], np.ndarray]:
    """What the model holds of bases and sources, and the variable's value in each (nothing
    where `variable` is None).

    Selected tokens of a prompt count once, however many pairs it is in; each is an example. Where
    rows give one text other spans, as two templates may, other tokens of it are selected. An
    encoder reads a prompt as interchanges do, beside masks for the label of a pair that it is in.

    Raises:
        ValueError: rows have no column with the variable's value, or several sources, the variable
            never varies, or has two values at the same tokens of a prompt.
    """
    (found,) = labelled_activations_each(model, pairs, variable, [(site, on)])
    return found


def labelled_activations_each(
    model: TransformerBridge,
    pairs: Pairs,
    variable: str | None,
    places: Sequence[tuple[Site, On]],
) -> list[tuple[Float[Tensor, "n d"], np.ndarray]]:
    """`labelled_activations` at several places, read in the same runs.

    Raises:
        ValueError: as `labelled_activations`.
    """
    rows_of_one_source(pairs)
    rows = listed_rows(pairs)
    names = [] if variable is None else names_in(variable, rows)
    read: dict[Hashable, tuple[dict[str, Any], str]] = {}
    for i, row in enumerate(rows):
        for side in SIDES:
            missing = [name for name in names if f"{side}_{name}" not in row]
            if missing:
                raise ValueError(
                    f"pairs: row {i} has no column '{side}_{missing[0]}' with the variable's "
                    "value, which methods that read activations look for; it has "
                    f"{sorted(row)}"
                )
            value = value_text(row, side, names) if names else ""
            spans = row.get(f"{side}_spans")
            prompt = {"prompt": row[side], "spans": spans, "answer": row["label"]}
            read.setdefault((row[side], _places(prompt["spans"]), value), (prompt, value))
    prompts = [prompt for prompt, _ in read.values()]
    said = [value for _, value in read.values()]
    if variable is not None and len(set(said)) < 2:
        raise ValueError(f"variable: {variable!r} never varies in the pairs, it is {said[0]!r}")
    # Before anything runs: a prompt that was given contradictory values is a mistake.
    selectors = [parse_positions(on) for _, on in places]
    once = {on: _once(model, on, prompts, said, variable) for on in dict.fromkeys(selectors)}
    found = []
    held_each = activations_each(model, prompts, places, answered=True)
    for on, held in zip(selectors, held_each, strict=True):
        kept = [held[i] for i in once[on]]
        values = [said[i] for i in once[on]]
        found.append((torch.cat(kept).cpu(), np.repeat(values, [len(one) for one in kept])))
    return found


def _places(spans: Mapping[str, Sequence[int] | None] | None) -> Hashable:
    """Spans as a key; one that is None is absent."""
    return frozenset((name, *span) for name, span in (spans or {}).items() if span is not None)


def _once(
    model: TransformerBridge,
    on: PositionSelector,
    prompts: Sequence[Mapping[str, Any]],
    said: Sequence[str],
    variable: str | None,
) -> list[int]:
    """Of prompts whose text is there several times, with other spans or values, those that select
    other tokens.

    Raises:
        ValueError: the same tokens of a prompt have two values.
    """
    texts = Counter(prompt["prompt"] for prompt in prompts)
    several = [i for i, prompt in enumerate(prompts) if texts[prompt["prompt"]] > 1]
    if not several:
        return list(range(len(prompts)))
    batch = encode(model, [prompts[i] for i in several])
    columns = on(batch).split(len(several))
    first: dict[Hashable, int] = {}
    again: set[int] = set()
    for i, selected in zip(several, columns, strict=True):
        text = prompts[i]["prompt"]
        earlier = first.setdefault((text, *selected.tolist()), i)
        if said[earlier] != said[i]:
            raise ValueError(
                f"pairs: {text!r} has two values of {variable!r}, {said[earlier]!r} and "
                f"{said[i]!r}, at the tokens that {str(on)!r} selects, so that none can be read "
                "there; select tokens that tell them apart, or mend the rows"
            )
        if earlier != i:
            again.add(i)
    return [i for i in range(len(prompts)) if i not in again]
