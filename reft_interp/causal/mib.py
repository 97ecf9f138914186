"""One number for a method from many sites, as the MIB benchmark's causal-variable track has it.

Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark" (arXiv:2504.13151), as its code
aggregates: of each site the mean over counterfactual sets, of each layer its best site, then mean
and maximum over layers.
"""

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class MIBScores:
    """What a method reaches, over layers."""

    mean: float
    """Over layers, of each layer's best site: is the variable followed through the model?"""
    highest: float
    """The best layer: is it found anywhere? Chosen among layers on the pairs that are scored, so
    above what that site would reach on others."""
    layers: pd.DataFrame = field(repr=False)
    """One row a layer: layer, its best site's `tokens` and other columns, score."""

    def __str__(self) -> str:
        return f"mean over layers {self.mean:.3f}, highest {self.highest:.3f}"


def mib_scores(
    frame: pd.DataFrame, *, score: str = "iia", counterfactuals: str | None = None
) -> MIBScores:
    """Aggregate one method's scores.

    Args:
        frame: one row a site and counterfactual set, as a sweep's `frame` of one method, rank and
            seed: columns `layer`, `site`, `tokens` and the score. Cells that failed are left out.
        score: column of the scores.
        counterfactuals: column that names the counterfactual set; one set by default.

    Raises:
        ValueError: a column is missing, no scores, or a site that is there twice for a set.
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
    means = scored.pivot_table(index=sites, values=score, sort=False).reset_index()
    best = means.loc[means.groupby("layer")[score].idxmax()].sort_values("layer")
    layers = best.rename(columns={score: "score"}).reset_index(drop=True)
    return MIBScores(float(layers["score"].mean()), float(layers["score"].max()), layers)
