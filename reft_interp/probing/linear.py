"""What a linear probe reads inside a subspace, and outside of it.

The probes are scikit-learn's; predictions are out of fold, and folds keep groups (nouns) apart.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from reft_interp.evaluation import Accuracy, control_subspaces
from reft_interp.subspace import Subspace

_FOLDS = 5

DRAWS = 20
"""Random subspaces beside a probe. Their mean says little: some hold by chance far more than it."""


def linear_probes(
    activations: Float[Tensor, "n d"],
    labels: Sequence[int | str],
    subspace: Subspace,
    *,
    groups: Sequence[str] | None = None,
    draws: int = DRAWS,
    at_random: dict[int, list[float]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of logistic regression on parts of the activations, out of fold.

    Args:
        activations: one row an example.
        labels: what is read.
        subspace: whose inside and complement are probed.
        groups: examples of one group are never in training and test at once; every example is
            its own group by default.
        draws: random subspaces of the same rank.
        at_random: what they hold, by their rank, of the same activations and labels; a rank that
            is not there is added, for the next call.
        seed: of the folds, the random subspaces and the shuffle.

    Returns:
        Columns part, value, low, high, n. The parts: "inside"; "complement", everything
        else; "random subspace", of which `value` is the mean over the draws, `low` and `high`
        their range; "shuffled labels", inside; and "majority", the share of the most
        frequent label. Elsewhere `low` and `high` are 95 % Wilson intervals.

    Raises:
        ValueError: there are not as many labels as activations, only one label, or fewer rows of
            each label, or fewer groups, than there are folds (five).
    """
    h, y, each = _examples(activations, labels, groups)
    rng = np.random.default_rng(seed)
    inside = subspace.coordinates(h).numpy()
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "inside": (inside, y),
        "shuffled labels": (inside, rng.permutation(y)),
    }
    if subspace.rank < subspace.width:
        parts["complement"] = (subspace.remove(h).numpy(), y)
    rows = [_row(part, _out_of_fold(x, target, each, seed)) for part, (x, target) in parts.items()]
    at_random = {} if at_random is None else at_random
    if subspace.rank not in at_random:
        at_random[subspace.rank] = _by_chance(subspace.rank, h, y, each, draws, seed)
    read = at_random[subspace.rank]
    rows.append(
        {
            "part": "random subspace",
            "value": sum(read) / len(read),
            "low": min(read),
            "high": max(read),
            "n": len(y),
        }
    )
    rows.append(_row("majority", Accuracy(int(np.bincount(y).max()), len(y))))
    return pd.DataFrame(rows)


def read_inside(
    activations: Float[Tensor, "n d"],
    labels: Sequence[int | str],
    subspaces: Sequence[Subspace],
    *,
    groups: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """As `linear_probes`, inside several subspaces of one space; their controls are shared.

    Args:
        activations: one row an example.
        labels: what is read.
        subspaces: whose insides are probed.
        groups: as in `linear_probes`.
        draws: random subspaces of each rank.
        seed: of the folds, the random subspaces and the shuffle.

    Returns:
        One row a subspace, in their order: accuracy, low, high (95 %, Wilson); random, random low,
        random high (mean and range of random subspaces of its rank); shuffled labels (inside it);
        whole vector; majority (the share of the most frequent label); n.

    Raises:
        ValueError: as `linear_probes`.
    """
    h, y, each = _examples(activations, labels, groups)
    shuffled = np.random.default_rng(seed).permutation(y)
    whole = _out_of_fold(h.numpy(), y, each, seed).value
    by_chance: dict[int, list[float]] = {}
    rows = []
    for subspace in subspaces:
        if subspace.rank not in by_chance:
            by_chance[subspace.rank] = _by_chance(subspace.rank, h, y, each, draws, seed)
        random = by_chance[subspace.rank]
        inside = subspace.coordinates(h).numpy()
        read = _out_of_fold(inside, y, each, seed)
        low, high = read.interval
        rows.append(
            {
                "accuracy": read.value,
                "low": low,
                "high": high,
                "random": sum(random) / len(random),
                "random low": min(random),
                "random high": max(random),
                "shuffled labels": _out_of_fold(inside, shuffled, each, seed).value,
                "whole vector": whole,
                "majority": float(np.bincount(y).max() / len(y)),
                "n": len(y),
            }
        )
    return pd.DataFrame(rows)


def lacking_for_folds(
    labels: Sequence[int | str], groups: Sequence[int | str] | None
) -> str | None:
    """What labels that are not all the same lack for probes that are read out of fold; None where
    nothing.

    Args:
        labels: one a row.
        groups: of each row; by default each is its own.
    """
    each = list(range(len(labels))) if groups is None else groups
    fewest, of_all = min(Counter(labels).values()), len(set(each))
    if fewest < _FOLDS or of_all < _FOLDS:
        return (
            f"labels: probes are read out in {_FOLDS} folds, which need {_FOLDS} rows of each "
            f"label and {_FOLDS} groups of rows; got {fewest} of the rarest label, and {of_all} "
            "groups"
        )
    together: dict[int | str, set[int | str]] = {}
    for label, group in zip(labels, each, strict=True):
        together.setdefault(label, set()).add(group)
    if (spread := min(map(len, together.values()))) < 2:
        return (
            f"groups: each label must be in two groups at least, as no group is in training and "
            f"test at once, got one that is in {spread}"
        )
    return None


def _examples(
    activations: Float[Tensor, "n d"], labels: Sequence[int | str], groups: Sequence[str] | None
) -> tuple[Float[Tensor, "n d"], np.ndarray, np.ndarray]:
    """Activations, labels and groups as numbers."""
    y = np.unique(np.asarray(labels), return_inverse=True)[1]
    if len(y) != len(activations):
        raise ValueError(f"labels: {len(y)} for {len(activations)} activations; one each is needed")
    if len(set(y.tolist())) < 2:
        raise ValueError(f"labels must have at least two values, got only {labels[0]!r}")
    each = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if lacking := lacking_for_folds(y.tolist(), each.tolist()):
        raise ValueError(lacking)
    return activations.detach().float().cpu(), y, each


def _by_chance(
    rank: int, h: Float[Tensor, "n d"], y: np.ndarray, groups: np.ndarray, draws: int, seed: int
) -> list[float]:
    """The accuracy inside random subspaces, one a draw."""
    controls = control_subspaces(h.shape[1], rank, draws, seed=seed)
    return [_out_of_fold(c.coordinates(h).numpy(), y, groups, seed).value for c in controls]


def _out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Accuracy:
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    said = cross_val_predict(probe, x, y, groups=groups, cv=folds)
    return Accuracy(int((np.asarray(said) == y).sum()), len(y))


def _row(part: str, accuracy: Accuracy) -> dict[str, str | float | int]:
    low, high = accuracy.interval
    return {"part": part, "value": accuracy.value, "low": low, "high": high, "n": accuracy.n}
