"""Hierarchical equality: are the two pairs alike in being alike? (Geiger et al. 2021.)

`(a == b) == (c == d)`: the task that distributed alignment search is taught with, and a small
transformer that learns it in less than a minute.
"""

import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask
from reft_interp.tasks.small_models import train_on_words

OBJECTS = 8
_WORDS = {"same": {True: " same", False: " different"}}
_TEMPLATE = "{a} {b} {c} {d} ="


def hierarchical_equality() -> CausalTask:
    """The task: "o3 o3 o1 o5 =" is answered " same" if both pairs are alike in being alike.

    "left" and "right" say whether a pair is of equal objects. A model that answers must have them
    in some form.
    """
    model = CausalModel(
        {**_inputs(), "left": [False, True], "right": [False, True], "same": [False, True]},
        {
            "left": lambda a, b: a == b,
            "right": lambda c, d: c == d,
            "same": lambda left, right: left == right,
        },
    )
    return CausalTask(
        "hierarchical equality",
        model,
        "same",
        [_TEMPLATE],
        words=_WORDS,
        balanced=("left", "right"),
    )


def first_object_hypothesis() -> CausalTask:
    """A wrong hypothesis about the same prompts and answers: that the model keeps which object the
    first is ("first"), and compares it at the end.

    Where a model has compared the first two already, an interchange of "first" cannot give what
    this implies.
    """
    objects = _inputs()["a"]
    model = CausalModel(
        {**_inputs(), "first": objects, "same": [False, True]},
        {
            "first": lambda a: a,
            "same": lambda first, b, c, d: (first == b) == (c == d),
        },
    )
    return CausalTask(
        "hierarchical equality, first object",
        model,
        "same",
        [_TEMPLATE],
        words=_WORDS,
        balanced=("same",),
    )


def train_equality_model(
    *, steps: int = 400, seed: int = 0, progress: bool = True
) -> TransformerBridge:
    """A llama of three layers that does the task, trained from scratch.

    After each pair it is taught to say whether the two are alike as well: from the last answer
    alone, which tells nothing of either pair, so small a model learns it only after very long.

    Args:
        steps: of 256 fresh prompts each.
        seed: of weights and prompts; the random state of the caller is not touched.
        progress: show a progress bar.
    """
    words = _words()

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        prompts, alike = _prompts(count, words["="])
        told = torch.stack([alike[:, 0], alike[:, 1], alike[:, 0] == alike[:, 1]], 1)
        return prompts, torch.where(told, words["same"], words["different"])

    return train_on_words(
        "hierarchical equality", words, draw, (1, 3, 4), steps=steps, seed=seed, progress=progress
    )


def _inputs() -> dict[str, range]:
    return {name: range(OBJECTS) for name in "abcd"}


def _prompts(count: int, equals: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of prompts, and of each pair, half of the time, that its objects are equal."""
    objects = torch.randint(OBJECTS, (count, 4))
    alike = torch.rand(count, 2) < 0.5
    other = (objects[:, ::2] + torch.randint(1, OBJECTS, (count, 2))) % OBJECTS
    objects[:, 1::2] = torch.where(alike, objects[:, ::2], other)
    prompts = torch.cat([objects, torch.full((count, 1), equals)], 1)
    return prompts, alike


def _words() -> dict[str, int]:
    """Every word with its token; that of an object is its number."""
    words = [*map(str, range(OBJECTS)), "=", "same", "different", "<pad>"]
    return {word: i for i, word in enumerate(words)}
