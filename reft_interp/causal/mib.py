"""One number for a method from many sites, as the MIB benchmark's causal-variable track has it.

Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark" (arXiv:2504.13151), as its code
aggregates: of each site the mean over counterfactual sets, of each layer its best site, then mean
and maximum over layers.
"""

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True, eq=False)
class MIBScores:
    """What a method reaches, over layers."""

    mean: float
    """Over layers that have a score, of each layer's best site: is the variable followed through
    the model?"""
    highest: float
    """The best layer: is it found anywhere? Chosen among layers on the pairs that are scored, so
    above what that site would reach on others."""
    layers: pd.DataFrame = field(repr=False)
    """One row a layer: layer, site and tokens (of its best), score."""
    unscored: tuple[int, ...] = ()
    """Layers of which no site has a score in every counterfactual set, so that neither number
    counts them."""

    def __str__(self) -> str:
        said = f"mean over layers {self.mean:.3f}, highest {self.highest:.3f}"
        if not self.unscored:
            return said
        which = f"layer{'s' * (len(self.unscored) > 1)} {', '.join(map(str, self.unscored))}"
        return f"{said}; without {which}, where no site has all scores"


def mib_scores(
    frame: pd.DataFrame, *, score: str = "iia", counterfactuals: str | None = None
) -> MIBScores:
    """Aggregate one method's scores.

    Args:
        frame: one row a site and counterfactual set, as a sweep's `frame` of one method, rank and
            seed: columns `layer`, `site`, `tokens` and the score. A site of which a cell failed,
            or that a set lacks, is no candidate for its layer's best: its mean would be over
            easier sets than that of others. A layer that has no other is in `unscored`.
        score: column of the scores.
        counterfactuals: column that names the counterfactual set; one set by default.

    Raises:
        ValueError: a column is missing, no scores, no site with a score in every set, or one that
            is there twice for a set.
    """
    needed = ["layer", "site", "tokens", score, *([counterfactuals] if counterfactuals else [])]
    if missing := [name for name in needed if name not in frame.columns]:
        raise ValueError(
            f"frame must have the columns {', '.join(needed)}; {', '.join(missing)} missing"
        )
    scored = frame.loc[frame[score].notna()]
    if scored.empty:
        raise ValueError(f"frame must have a number in {score!r}, all {len(frame)} are missing")
    sites = ["layer", "site", "tokens"]
    one_each = [*sites, *([counterfactuals] if counterfactuals else [])]
    if scored.duplicated(one_each).any():
        twice = scored.loc[scored.duplicated(one_each), one_each].iloc[0].to_dict()
        raise ValueError(
            f"frame must have one row a site and counterfactual set (one method, rank and seed), "
            f"got {twice} twice"
        )
    sets = frame[counterfactuals].nunique(dropna=False) if counterfactuals else 1
    grouped = scored.groupby(sites, sort=False)[score]
    means = grouped.mean().loc[grouped.count() == sets].reset_index()
    if means.empty:
        raise ValueError(
            f"frame must have a site with a number in {score!r} for each of the {sets} sets of "
            f"{counterfactuals!r}, every site lacks some"
        )
    best = means.loc[means.groupby("layer")[score].idxmax()].sort_values("layer")
    layers = best.rename(columns={score: "score"}).reset_index(drop=True)
    unscored = sorted(set(frame["layer"].dropna()) - set(layers["layer"]))
    return MIBScores(
        mean=float(layers["score"].mean()),
        highest=float(layers["score"].max()),
        layers=layers,
        unscored=tuple(map(int, unscored)),
    )
