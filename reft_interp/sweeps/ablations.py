"""What each setting of a ReFT is worth: the same ReFT with one of them changed at a time."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from reft_interp.interventions import Intervention
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.subspace import Subspace
from reft_interp.training.reft_method import ReFT

Layers = Literal["all"] | Sequence[int]
SETTINGS = ("rank", "layers", "on", "tied", "component")


def ablations(
    reft: ReFT,
    *,
    interventions: Sequence[type[Intervention]] = (),
    ranks: Sequence[int] = (),
    layers: Sequence[Layers] = (),
    on: Sequence[str | PositionSelector] = (),
    untied: bool = False,
) -> list[ReFT]:
    """A ReFT, and what it is with one setting changed; the same for other kinds of intervention.

    The ablations of Wu et al. 2024 (arXiv:2404.03592), section 4 and appendix D, are
    `compare(model, suite, ablations(...))`; `found.plot_setting("rank")` draws one of them.

    Args:
        reft: what is changed, as `ReFT(LoReFT(rank=4), on="f3+l3")`.
        interventions: kinds that are put in its place, with each of the changes; of its arguments
            (rank, dropout, ...) they have all that they know, and where it has a width, as
            `LoReFT(start=subspace)`, its start.
        ranks: other ranks; not of a ReFT that has a start.
        layers: other layers.
        on: other tokens.
        untied: an intervention for the first tokens and one for the last too; nothing is added
            where the ReFT has that already.

    Raises:
        ValueError: an intervention without a rank; other ranks or kinds that cannot begin where the
            ReFT does; untied, where the ReFT's `on` has not both first and last tokens.
        TypeError: `reft` is no `ReFT`, or a single number or text stands where several should.
    """
    if not isinstance(reft, ReFT):
        raise TypeError(
            f"reft must be a ReFT, as ReFT(LoReFT(rank=4), layers, on), got {type(reft).__name__}"
        )
    several = {"interventions": interventions, "ranks": ranks, "layers": layers, "on": on}
    for name, given in several.items():
        if isinstance(given, str) or not isinstance(given, Sequence):
            one = given.__name__ if isinstance(given, type) else repr(given)
            raise TypeError(f"{name} must be several, as {name}=({one},), got {one}")
    arguments = reft.intervention.arguments()
    if "rank" not in arguments:
        raise ValueError(
            f"reft: {type(reft.intervention).__name__} has no rank, as LoReFT(rank=4) has"
        )
    kinds = [type(reft.intervention), *interventions]
    found: list[ReFT] = []
    for kind in dict.fromkeys(kinds):
        same = kind is type(reft.intervention)
        base = reft if same else replace(
            reft, intervention=_ranked(kind, arguments["rank"], reft), name=kind.__name__
        )  # fmt: skip
        found.append(base)
        found += [
            _changed(base, f"rank {rank}", intervention=_ranked(kind, rank, base))
            for rank in ranks
            if rank != arguments["rank"]
        ]
        found += [
            _changed(base, f"layers {_listed(some)}", layers=some)
            for some in layers
            if _listed(some) != _listed(base.layers)
        ]
        tokens = [str(parse_positions(one)) for one in (base.on, *on)]
        found += [
            _changed(base, f"on {name}", on=one)
            for one, name in zip(on, tokens[1:], strict=True)
            if name != tokens[0]
        ]
        if untied and base.tied:
            found.append(_changed(base, "untied", tied=False))
    return found


def settings(methods: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Of each ReFT what it is: method, intervention, rank, layers, on, tied, component.

    Args:
        methods: as `FinetuningMethod.describe` describes them; others than ReFTs are left out.
    """
    rows = [
        {
            "method": one["name"],
            "intervention": one["intervention"][0],
            "rank": one["intervention"][1].get("rank"),
            "layers": _listed(one["layers"]),
            "on": one["on"],
            "tied": one["tied"],
            "component": one["component"],
        }
        for one in methods
        if "intervention" in one
    ]
    frame = pd.DataFrame(rows, columns=["method", "intervention", *SETTINGS])
    return frame.astype({"rank": "Int64"})  # RED has none, which would make floats of the others


def varied(settings: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Those that differ from the first ReFT of their kind of intervention in one setting alone.

    Args:
        settings: as `settings` gives them.
        setting: which.

    Raises:
        ValueError: no such setting, or it is the same in all ReFTs.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting must be one of {', '.join(SETTINGS)}, got {setting!r}")
    others = [name for name in SETTINGS if name != setting]
    parts = []
    for _, of_kind in settings.groupby("intervention", sort=False):
        said = of_kind[others].map(str)  # two that have no rank are alike, and no NaN is
        parts.append(of_kind[(said == said.iloc[0]).all(axis=1)])
    found = (pd.concat(parts) if parts else settings).dropna(subset=[setting])
    if len(set(found[setting])) < 2:
        raise ValueError(f"setting: {setting!r} is the same in all ReFTs here, or not alone varied")
    return found.sort_values(setting, kind="stable") if setting == "rank" else found


def _ranked(kind: type[Intervention], rank: int, base: ReFT) -> Intervention:
    """One of a kind and rank, with all other arguments of the base's that the kind knows, and its
    start."""
    template = base.intervention
    known = inspect.signature(kind).parameters
    if "rank" not in known:
        raise ValueError(f"interventions: {kind.__name__} has no rank, as LoReFT(rank=4) has")
    given = template.arguments() | {"rank": rank}
    if template.width is not None:
        # Built by its width alone it would begin at random, the same for all seeds and places.
        given["start"] = _start(kind, rank, template)
    if kind is type(template):
        return kind.from_arguments(given)
    return kind.from_arguments({name: given[name] for name in given if name in known})


def _start(kind: type[Intervention], rank: int, template: Intervention) -> Subspace:
    start = template.subspace
    if rank == start.rank and "start" in inspect.signature(kind).parameters:
        return start
    raise ValueError(
        f"reft has a start of rank {start.rank}, where {kind.__name__} of rank {rank} cannot begin:"
        f" give {type(template).__name__}(rank={start.rank}), whose seeds begin at random"
    )


def _changed(base: ReFT, what: str, **changes: Any) -> ReFT:
    return replace(base, **changes, name=f"{base.name}, {what}")


def _listed(layers: Layers) -> str:
    return layers if isinstance(layers, str) else ", ".join(map(str, layers))
