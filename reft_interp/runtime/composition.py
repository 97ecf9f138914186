"""Trained edits put together: several in one model, switched row by row, and edits made of others.

Trained one by one and then put into one model, each row names those that edit it:

    formal = fit_reft(model, formal_rows, LoReFT(4), site)
    french = fit_reft(model, french_rows, LoReFT(4), site)
    both = compose({"formal": formal, "french": french})
    both.generate([
        {"prompt": "Dear Anna", "edits": "formal"},
        {"prompt": "Dear Anna", "edits": ["formal", "french"]},  # in the order of `compose`
        {"prompt": "Dear Anna", "edits": []},
    ])

Negated, halved, or on the way from one to another:

    scaled(formal, -1)
    interpolated(formal, french, 0.3)

For edits that are trained together, in orthogonal parts of one basis, see `orthogonal_parts`.
"""

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

from reft_interp.interventions import Intervention, LinearCombination
from reft_interp.runtime.intervened import IntervenedModel, common_model
from reft_interp.runtime.placement import Placement
from reft_interp.runtime.trained import Trained, intervened_of


def compose(named: Mapping[str, Trained]) -> IntervenedModel:
    """One model with the placements of several, of which each row names those that edit it.

    A row asks by its `edits`: a name, a list of names, or `[]` for none. It has to, and a row that
    asks for what there is not is an error. In one batch each row gets what it would get alone from
    the models that it names. Where it names several, all their placements edit it, those at one
    site in the order of `named`, each on what the one before it left.

    The interventions are shared with the given models, not copied: they can be trained on.

    Args:
        named: by name, what is put together (models with interventions, or results that hold
            one); placed in one frozen model.

    Raises:
        ValueError: none given, or not all in one model; a name with blanks; a placement that has
            another name already.
    """
    if not named:
        raise ValueError("named must hold at least one model with interventions, got none")
    placed = {name: intervened_of(one, f"named[{name!r}]") for name, one in named.items()}
    model = common_model("named", list(placed.values()))
    return IntervenedModel(
        model,
        [
            Placement(at.intervention, at.site, at.on, source=at.source, name=name)
            for name, intervened in placed.items()
            for at in intervened.placements
        ],
    )


def scaled(intervened: Trained, strength: SupportsFloat) -> IntervenedModel:
    """The same edits, each changing h by `strength` times what it changed; −1 negates them.

    See `LinearCombination`. Edits are copied. Where there are several placements each is scaled by
    itself, on what the scaled ones before it left.

    Args:
        intervened: trained: the model, or a result that holds it.
        strength: 1 leaves all as it is, 0 does nothing.

    Raises:
        ValueError: a strength that is not finite.
    """
    return _combined([intervened_of(intervened, "intervened")], [strength])


def interpolated(one: Trained, other: Trained, share: SupportsFloat) -> IntervenedModel:
    """Edits on the way from those of one model to those of another at the same places.

    Each changes h by 1 − share times what the first changes plus share times what the second does.
    See `LinearCombination`. Edits are copied.

    Args:
        one: trained: the model, or a result that holds it.
        other: trained, with as many placements, at the same sites and tokens in the same order.
        share: 0 gives `one`, 1 gives `other`; beyond them it extrapolates.

    Raises:
        ValueError: other placements, or a share that is not finite; not in one model.
    """
    one, other = intervened_of(one, "one"), intervened_of(other, "other")
    common_model("one and other", [one, other])
    places = [[(p.site, p.on, p.source) for p in each.placements] for each in (one, other)]
    if places[0] != places[1]:
        shown = ["; ".join(map(str, each.placements)) for each in (one, other)]
        raise ValueError(f"other must have the placements of one, {shown[0]}; it has {shown[1]}")
    return _combined([one, other], [1 - float(share), share])


def _combined(
    placed: Sequence[IntervenedModel], strengths: Sequence[SupportsFloat]
) -> IntervenedModel:
    # Placements that share a module share what is made of it.
    made: dict[tuple[int, ...], Intervention] = {}
    placements = []
    for several in zip(*(one.placements for one in placed), strict=True):
        key = tuple(id(p.intervention) for p in several)
        if key not in made:
            made[key] = LinearCombination([p.intervention for p in several], strengths)
        at = several[0]
        placements.append(Placement(made[key], at.site, at.on, source=at.source))
    return IntervenedModel(placed[0].model, placements)
