"""What a causal task's train and test draw from: values and templates that only one of them has."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from reft_interp.causal.model import CausalModel

HeldOut = Sequence[str | tuple[str, ...]]
Values = Mapping[str, Sequence[Any]]


def grouped(held_out: HeldOut) -> list[tuple[str, ...]]:
    """Names that stand alone as groups of one."""
    return [(entry,) if isinstance(entry, str) else tuple(entry) for entry in held_out]


def check_held_out(model: CausalModel, held_out: HeldOut) -> None:
    """
    Raises:
        ValueError: a name alone that is no input, fewer than three values, a name that stands
            twice, variables together that take different values or are not in the model.
    """
    groups = grouped(held_out)
    for group in groups:
        known = model.inputs if len(group) == 1 else model.domains
        for name in group:
            if name not in known or len(model.domains[name]) < 3:
                raise ValueError(
                    f"held_out must name inputs of three values or more, got {name!r}; "
                    f"inputs are {', '.join(model.inputs)}"
                )
            if list(model.domains[name]) != list(model.domains[group[0]]):
                raise ValueError(
                    f"held_out: variables held out together must take the same values, which "
                    f"{group[0]!r} and {name!r} do not"
                )
    names = [name for group in groups for name in group]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"held_out names {twice[0]!r} twice")


def split_values(
    model: CausalModel, held_out: HeldOut, rng: random.Random
) -> tuple[Values, Values]:
    """The values that train draws from, and those of test, of each input and whatever is held out.

    Args:
        model: whose variables they are.
        held_out: as `CausalTask` takes it.
        rng: which values are test's.
    """
    train: dict[str, Sequence[Any]] = {name: model.domains[name] for name in model.inputs}
    test = dict(train)
    for group in grouped(held_out):
        kept, kept_out = _third(model, group, rng)
        train |= dict.fromkeys(group, kept)
        test |= dict.fromkeys(group, kept_out)
    return train, test


def split_templates(
    templates: Sequence[str], rng: random.Random
) -> tuple[Sequence[str], Sequence[str]]:
    """Two thirds of the templates and the others; all for both where there are fewer than three."""
    if len(templates) < 3:
        return templates, templates
    shuffled = list(templates)
    rng.shuffle(shuffled)
    kept = len(shuffled) - round(len(shuffled) / 3)
    return shuffled[:kept], shuffled[kept:]


def _third(
    model: CausalModel, group: tuple[str, ...], rng: random.Random
) -> tuple[list[Any], list[Any]]:
    """Two thirds and one third of the values, so that both have every value of what is computed
    from them alone, as far as there are enough."""
    values = model.domains[group[0]]
    alone = [
        (child, name)
        for name in group
        for child, parents in model.parents.items()
        # What is another name of the value itself leaves nothing to share.
        if parents == (name,)
        and len({model.mechanisms[child](**{name: v}) for v in values}) < len(values)
    ]
    alike: dict[tuple[Any, ...], list[Any]] = {}
    for value in values:
        key = tuple(model.mechanisms[child](**{name: value}) for child, name in alone)
        alike.setdefault(key, []).append(value)
    train, test = [], []
    for members in alike.values():
        rng.shuffle(members)
        kept = len(members) - round(len(members) / 3)
        train += members[:kept]
        test += members[kept:]
    if not test:  # there are too few of every kind to be in both
        rng.shuffle(train)
        kept = len(train) - round(len(train) / 3)
        train, test = train[:kept], train[kept:]
    return train, test
