"""What a subspace does: interchange inside it, and the task without it."""

from collections.abc import Sequence

import pandas as pd
import torch
from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import PreparedPairs
from reft_interp.evaluation import Accuracy, Comparison, accuracy
from reft_interp.interventions import DistributedInterchange, Interchange, MeanAblation
from reft_interp.positions import PositionSelector
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.activations import activations
from reft_interp.runtime.batching import Rows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace


def interchange_inside(
    model: TransformerBridge,
    pairs: Dataset,
    subspaces: dict[str, Subspace],
    site: Site,
    on: PositionSelector,
    *,
    draws: int = 5,
    seed: int = 0,
) -> Comparison:
    """IIA of a causal variable when the interchange happens inside given subspaces.

    Args:
        model: the hooked model.
        pairs: counterfactual rows.
        subspaces: by name.
        site: where the interchange happens.
        on: which tokens of base and source.
        draws: random subspaces for each rank that occurs.
        seed: of the random subspaces.

    Returns:
        The named subspaces, then "whole vector", "no intervention", and for each rank
        "random subspace, rank r".
    """

    prepared = PreparedPairs(model, pairs, site, on)

    def score(subspace: Subspace) -> Accuracy:
        return prepared.score(DistributedInterchange(subspace))

    rows: list[tuple[str, tuple[Accuracy, ...]]] = [
        (name, (score(subspace),)) for name, subspace in subspaces.items()
    ]
    rows.append(("whole vector", (prepared.score(Interchange()),)))
    rows.append(("no intervention", (prepared.score(None),)))
    width = site.width(model)
    for rank in sorted({subspace.rank for subspace in subspaces.values()}):
        random = [Subspace.random(width, rank, seed=seed + i) for i in range(draws)]
        rows.append((f"random subspace, rank {rank}", tuple(score(s) for s in random)))
    return Comparison(f"interchange intervention accuracy at {site} on {on}", tuple(rows))


def without(
    intervened: IntervenedModel,
    rows: Rows,
    subspaces: Sequence[tuple[str, int, Subspace]],
    *,
    draws: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy on the task when a subspace is taken out: its content becomes its mean.

    It is taken out at the tokens that the intervention edits, after the edit, of the model
    with the intervention and of the untouched model.

    Args:
        intervened: the trained model.
        rows: of the task, with `prompt` and `answer`.
        subspaces: name, index of the placement at whose site it lies, subspace.
        draws: random subspaces of the same rank, for comparison.
        seed: of the random subspaces.

    Returns:
        Columns model, removed, value, low, high, n; for random subspaces `value` is the mean
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
            mean = torch.cat(activations(bridge, rows, at.site, at.on)).mean(0).float().cpu()

            def removed(subspace: Subspace, at=at, mean=mean, placements=placements) -> Accuracy:
                ablation = Placement(MeanAblation(subspace, mean), at.site, at.on)
                return accuracy(IntervenedModel(bridge, [*placements, ablation]), rows)

            random = [
                Subspace.random(subspace.width, subspace.rank, seed=seed + i) for i in range(draws)
            ]
            scores.append((label, (removed(subspace),)))
            scores.append((f"random, instead of {label}", tuple(removed(s) for s in random)))
        frame = Comparison("accuracy", tuple(scores)).to_frame()
        frame = frame.rename(columns={"method": "removed"}).drop(columns="draws")
        frame.insert(0, "model", kind)
        found.append(frame)
    return pd.concat(found, ignore_index=True)
