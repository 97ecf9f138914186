"""Sentences with a label that is readable from what a frozen model holds of them."""

import random
from typing import Any

import torch
from tiny_encoders import WORDS

from reft_interp.training import Classifier


def sentences(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of texts from the words that the tiny tokenizers know, no row twice."""
    draw = random.Random(seed)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < n:
        first, second = (" ".join(draw.choices(WORDS, k=draw.randint(2, 5))) for _ in range(2))
        prompt = f"{first} - {second}"
        found[prompt] = {"prompt": prompt, "text_a": first, "text_b": second}
    return list(found.values())


def planted(model, n: int, *, scores: bool = False) -> list[dict[str, Any]]:
    """Rows whose label is on which side of its median the frozen state's widest direction is, or
    where along it, from 0 to 5."""
    rows = sentences(n)
    states = Classifier(model, 2).states(rows)
    centred = states - states.mean(0)
    along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
    if scores:
        among = (along - along.min()) / (along.max() - along.min())
        return [row | {"label": 5 * value} for row, value in zip(rows, among.tolist(), strict=True)]
    labels = (along > along.median()).long().tolist()
    return [row | {"label": label} for row, label in zip(rows, labels, strict=True)]
