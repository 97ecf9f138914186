"""The choices that rows offer: whether they can be compared, and their tokens.

Next door, `predicting` and `scoring` say how probable each is.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from warnings import warn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.continuing import continuation_tokens
from reft_interp.runtime.batching import choices_of
from reft_interp.runtime.running import is_causal


def have_choices(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rows with an `answer` offer `choices`: all of them do, or none.

    Raises:
        TypeError: choices that are one text.
        ValueError: an answer is not among its choices.
    """
    offered = [choices_of(row, f"rows: row {i}") for i, row in enumerate(rows)]
    if not any(offered):
        return False
    for i, (row, choices) in enumerate(zip(rows, offered, strict=True)):
        if row["answer"] not in choices:
            raise ValueError(
                f"rows: row {i} has the answer {row['answer']!r}, which is not among its "
                f"choices {row.get('choices')!r}"
            )
    return True


def are_answers(
    rows: Sequence[Mapping[str, Any]], scores: Sequence[Float[np.ndarray, "choices"]]
) -> Bool[np.ndarray, "n"]:
    """Whether the choice of each row that scores highest is its `answer`."""
    each = zip(rows, scores, strict=True)
    return np.array([row["choices"][int(np.argmax(of))] == row["answer"] for row, of in each])


def choice_tokens(
    bridge: TransformerBridge, rows: Sequence[Any]
) -> list[tuple[tuple[int, ...], ...]]:
    """The token ids of each of each row's `choices`.

    It warns of a choice whose tokens begin another one's: the longer is never the more probable.

    Raises:
        TypeError: choices that are one text.
        ValueError: a row has no choices, or two choices with the same tokens.
    """
    known: dict[str, tuple[int, ...]] = {}
    seen: set[tuple[tuple[int, ...], ...]] = set()
    found = []
    for i, row in enumerate(rows):
        choices = choices_of(row, f"rows: row {i}")
        if not choices:
            raise ValueError(f"rows: row {i} has no 'choices' to choose from")
        for choice in choices:
            if choice not in known:
                [ids], _ = continuation_tokens(bridge.tokenizer, [choice])
                known[choice] = tuple(ids)
        ids = tuple(known[choice] for choice in choices)
        if len(set(ids)) < len(ids):
            raise ValueError(f"rows: row {i} has choices with the same tokens: {choices}")
        if ids not in seen:
            seen.add(ids)
            _warn_of_beginnings(i, choices, ids)
        found.append(ids)
    return found


def _warn_of_beginnings(
    row: int, choices: Sequence[str], tokens: Sequence[tuple[int, ...]]
) -> None:
    texts = dict(zip(tokens, choices, strict=True))
    for ids, longer in texts.items():
        begins = next((ids[:n] for n in range(1, len(ids)) if ids[:n] in texts), None)
        if begins is not None:
            warn(
                f"rows: row {row} has the choices {texts[begins]!r} and {longer!r}, whose tokens "
                "begin alike to the end of the first: the second is never the more probable",
                stacklevel=4,
            )
            return


def share_a_run(model: TransformerBridge, choices: Sequence[Sequence[int]]) -> bool:
    """Whether one run of a row's prompt scores all its choices: of a decoder, where each is one
    token. An encoder predicts a token in its own place, which prompts alone don't have."""
    return is_causal(model) and all(len(ids) == 1 for ids in choices)


def first_tokens(choices: Sequence[Sequence[Sequence[int]]]) -> Int[Tensor, "n k"]:
    """The first token of each of each row's choices; short rows repeat that of their first."""
    ids = [[one[0] for one in of_row] for of_row in choices]
    width = max(map(len, ids))
    return torch.tensor([of_row + of_row[:1] * (width - len(of_row)) for of_row in ids])
