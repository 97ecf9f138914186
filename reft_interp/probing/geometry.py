"""How a subspace lies to another, and to data, beside random subspaces."""

from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from reft_interp.rounding import in_float64
from reft_interp.subspace import Subspace, expected_overlap


def angles_between(subspace: Subspace, other: Subspace) -> pd.DataFrame:
    """Principal angles in degrees: columns index (from 1) and angle."""
    angles = subspace.principal_angles(other)
    return pd.DataFrame({"index": np.arange(1, len(angles) + 1), "angle": angles})


def random_angles(
    ranks: tuple[int, int], width: int, *, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Principal angles of random subspaces of two ranks, by sampling.

    One of the two can be held fixed: the angles depend on the two only through their relative
    position, which is uniform.

    Returns:
        Columns index, angle (the mean), low, high (the middle 95 % of the draws), in degrees.
    """
    sampled = _sampled_angles(ranks, width, draws, seed)
    low, high = np.quantile(sampled, [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "index": np.arange(1, sampled.shape[1] + 1),
            "angle": sampled.mean(0),
            "low": low,
            "high": high,
        }
    )


def overlap_beside_chance(
    subspace: Subspace, other: Subspace, *, draws: int = 200, seed: int = 0
) -> dict[str, float]:
    """Overlap (mean squared cosine of the angles) beside that of random subspaces of the same
    ranks: their mean, which is known, and the middle 95 % of draws."""
    ranks, width = (subspace.rank, other.rank), subspace.width
    sampled = np.cos(np.deg2rad(_sampled_angles(ranks, width, draws, seed))) ** 2
    low, high = np.quantile(sampled.mean(-1), [0.025, 0.975])
    return {
        "overlap": subspace.overlap(other),
        "expected at random": expected_overlap(*ranks, width),
        "random low": float(low),
        "random high": float(high),
    }


def variance_inside(subspace: Subspace, activations: Float[Tensor, "n d"]) -> float:
    """Which share of the activations' variance lies in a subspace; of random ones of rank r it is
    r/d on average. NaN where nothing varies by more than rounding."""
    h = in_float64(activations.detach()).cpu()
    centred = h - h.mean(0)
    whole = centred.square().sum()
    if whole.sqrt() <= torch.finfo(activations.dtype).eps * h.norm():
        return float("nan")
    return float(subspace.coordinates(centred).square().sum() / whole)


@lru_cache(maxsize=32)
def _sampled_angles(
    ranks: tuple[int, int], width: int, draws: int, seed: int
) -> Float[np.ndarray, "draws angles"]:
    p, q = ranks
    fixed = Subspace.random(width, p, seed=seed)
    return np.stack(
        [fixed.principal_angles(Subspace.random(width, q, seed=seed + 1 + i)) for i in range(draws)]
    )
