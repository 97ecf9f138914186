"""What a subspace does: interchange inside it, and the task without it."""

from collections.abc import Sequence

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import PreparedPairs
from reft_interp.causal.interchanges import Pairs
from reft_interp.evaluation import Accuracy, Comparison, accuracy, control_subspaces
from reft_interp.interventions import DistributedInterchange, Interchange, ZeroAblation
from reft_interp.positions import PositionSelector
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import Rows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace


def interchange_inside(
    model: TransformerBridge,
    pairs: Pairs,
    subspaces: Sequence[tuple[str, Site, Subspace]],
    on: PositionSelector,
    *,
    draws: int = 5,
    seed: int = 0,
) -> Comparison:
    """IIA of a causal variable when the interchange happens inside given subspaces.

    Args:
        model: the hooked model.
        pairs: counterfactual rows.
        subspaces: each with a name and the site where it lies.
        on: which tokens of base and source.
        draws: random subspaces for each site and rank that occurs.
        seed: of the random subspaces.

    Returns:
        The named subspaces; then, for each site, "whole vector" and for each rank "random
        subspace, rank r"; and "no intervention". Where there are several sites, names say which.
    """
    sites = list(dict.fromkeys(site for _, site, _ in subspaces))
    named: list[tuple[str, tuple[Accuracy, ...]]] = []
    controls: list[tuple[str, tuple[Accuracy, ...]]] = []
    for site in sites:
        prepared = PreparedPairs(model, pairs, site, on)
        at = f" at {site}" if len(sites) > 1 else ""
        here = [(name, subspace) for name, where, subspace in subspaces if where == site]
        for name, subspace in here:
            label = name if name.endswith(at) else f"{name}{at}"
            named.append((label, (prepared.score(DistributedInterchange(subspace)),)))
        controls.append((f"whole vector{at}", (prepared.score(Interchange()),)))
        for rank in sorted({subspace.rank for _, subspace in here}):
            random = control_subspaces(site.width(model), rank, draws, seed=seed)
            scores = tuple(prepared.score(DistributedInterchange(s)) for s in random)
            controls.append((f"random subspace, rank {rank}{at}", scores))
        if site == sites[-1]:
            controls.append(("no intervention", (prepared.score(None),)))
    where = f" at {sites[0]}" if len(sites) == 1 else ""
    return Comparison(f"interchange intervention accuracy{where} on {on}", (*named, *controls))


def without(
    intervened: IntervenedModel,
    rows: Rows,
    subspaces: Sequence[tuple[str, int, Subspace]],
    *,
    draws: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy on the task when a subspace is taken out: h − RᵀRh.

    It is taken out at the tokens that the intervention edits, after the edit, of the model
    with the intervention and of the untouched model. It becomes zero rather than a mean over
    tokens: a prompt's first token holds activations a hundred times larger than the others, and
    a mean that has seen them is far from what any other token holds.

    Args:
        intervened: the trained model.
        rows: of the task, with `prompt` and `answer`.
        subspaces: name, index of the placement at whose site it lies, subspace.
        draws: random subspaces of the same rank, for comparison.
        seed: of the random subspaces.

    Returns:
        Columns model, removed, value, low, high, n, draws; for random subspaces `value` is the mean
        over draws and `low`, `high` their range.
    """
    bridge, name = intervened.model, type(intervened.placements[0].intervention).__name__
    kinds: list[tuple[str, list[Placement]]] = [
        ("untouched model", []),
        (name, list(intervened.placements)),
    ]
    found: list[pd.DataFrame] = []
    for kind, placements in kinds:
        whole = IntervenedModel(bridge, placements) if placements else bridge
        scores: list[tuple[str, tuple[Accuracy, ...]]] = [("nothing", (accuracy(whole, rows),))]
        for label, index, subspace in subspaces:
            at = intervened.placements[index]

            def removed(subspace: Subspace, at=at, placements=placements) -> Accuracy:
                ablation = Placement(ZeroAblation(subspace), at.site, at.on)
                return accuracy(IntervenedModel(bridge, [*placements, ablation]), rows)

            scores.append((label, (removed(subspace),)))
            # What is read and what is written at one place are mostly of one rank: one control.
            control = f"random subspace, rank {subspace.rank} at {at.site}"
            if control not in dict(scores):
                random = control_subspaces(subspace.width, subspace.rank, draws, seed=seed)
                scores.append((control, tuple(removed(s) for s in random)))
        frame = Comparison("accuracy", tuple(scores)).to_frame()
        frame = frame.rename(columns={"method": "removed"})
        frame.insert(0, "model", kind)
        found.append(frame)
    return pd.concat(found, ignore_index=True)
