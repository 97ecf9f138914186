"""Sentences about a claim and its controls, of which summaries are made."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reft_interp.causal.claim import (
    CONTROLS,
    NONE,
    PLACEBO,
    RANDOM,
    SHUFFLED,
    UNTRAINED,
    WHOLE,
    Claim,
    Hits,
    resampled,
)

_CALLED = {RANDOM: "random subspaces", UNTRAINED: "the untrained model"}


def found_in(claim: Claim) -> str:
    """In how many pairs, as what follows "gives the expected answer in"."""
    low, high = claim.iia.interval
    return (
        f"{claim.iia.value:.1%} of {claim.iia.n} held-out pairs (95 % interval {low:.1%} to "
        f"{high:.1%})"
    )


def controls_give(claim: Claim) -> str:
    """What each control gives, those of `claim.hits` alone."""
    draws = len(claim.hits[RANDOM])
    said = {
        WHOLE: ("the whole vector", ""),
        NONE: ("no intervention", ""),
        RANDOM: ("random subspaces of the same rank", f" ({draws} draws)"),
        PLACEBO: ("changes of the same size along random directions", ""),
        **{name: (name, "") for name in claim.controls if name not in CONTROLS},
        SHUFFLED: (f"{claim.method} trained on shuffled labels", ""),
        UNTRAINED: (f"{claim.method} trained on an untrained copy of the model", ""),
    }
    first, *others = [
        (called, f"{_mean(claim.hits[name]):.1%}{note}")
        for name, (called, note) in said.items()
        if name in claim.hits
    ]
    listed = [f"{called} {share}" for called, share in others]
    return f"{first[0].capitalize()} gives {first[1]}, {joined(listed, last=', and ')}. "


def others_give(claim: Claim, overlap: str) -> str:
    """What other seeds and samples of pairs give, where there were any.

    Args:
        claim: whose.
        overlap: of their subspaces with the first seed's, in words.
    """
    seeds, samples = claim.hits[claim.method][1:], claim.hits.get(resampled(claim.method), ())
    counted = [
        f"{len(some)} {one if len(some) == 1 else several}"
        for some, one, several in (
            (seeds, "other seed", "other seeds"),
            (samples, "resample of the training pairs", "resamples of the training pairs"),
        )
        if some
    ]
    if not counted:
        return ""
    shares = [float(one.mean()) for one in (*seeds, *samples)]
    give = "gives" if len(shares) == 1 else "give"
    return (
        f"{joined(counted)} {give} {_between(shares, '.1%')}, in subspaces whose overlap with the "
        f"first seed's is {overlap}. "
    )


def verdict(claim: Claim) -> str:
    """Whether the claim holds, and above what."""
    if not claim.holds:
        return f"The lower bound is not above the upper bound of: {', '.join(claim.failing)}."
    above = [_CALLED.get(name, name) for name in claim.controls]
    return f"The lower bound is above the upper bounds of {joined(above)}."


def overlap_said(stability: pd.DataFrame) -> str:
    """The range of overlaps, those of nothing left out, beside what is expected by chance."""
    known = stability[["overlap", "overlap at random"]].dropna()
    if known.empty:
        return "undefined"
    found, at_random = (_between(known[name].tolist(), ".2f") for name in known)
    return f"{found} (random: {at_random})"


def joined(names: Sequence[str], last: str = " and ") -> str:
    """Names as a list in words; nothing of none."""
    if not names:
        return ""
    *first, final = names
    return last.join([", ".join(first), final]) if first else final


def _between(values: Sequence[float], form: str) -> str:
    """The range of some numbers; one number where all are printed alike."""
    low, high = (format(of(values), form) for of in (min, max))
    return low if low == high else f"{low} to {high}"


def _mean(draws: Sequence[Hits]) -> float:
    return float(np.mean([one.mean() for one in draws]))
