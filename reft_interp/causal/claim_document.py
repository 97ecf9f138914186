"""Evidence as a page and as files: the claim beside its controls, how stable it is, how far it
moves answers."""

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.das import DASResult
from reft_interp.causal.effects import AMONG_ALL
from reft_interp.causal.evidence import Evidence
from reft_interp.causal.joint_das import JointDASResult
from reft_interp.causal.joint_evidence import JointEvidence
from reft_interp.causal.quoting import joined
from reft_interp.report import Report
from reft_interp.report.markup import as_list
from reft_interp.sites import Site
from reft_interp.whole_files import write_whole

_INTERCHANGE = "interchange"
_SUBSPACE = "subspace.safetensors"


def save_claim(
    claim: Evidence | JointEvidence, folder: str | Path, pairs: Counterfactuals | None
) -> Path:
    """Write evidence; see `Claim.save`.

    Raises:
        ValueError: another method's evidence where DAS's is, or DAS's where another's is; as
            `Claim.save`.
    """
    folder, first = Path(folder), claim.found[0]
    searched = isinstance(first, DASResult | JointDASResult)
    other = folder / (_SUBSPACE if searched else _INTERCHANGE)
    if other.exists():
        raise ValueError(
            f"folder must be another one: {other} is what other evidence found, and that of "
            f"{claim.method} would stand beside it"
        )
    page = document(claim, pairs).save(folder)
    if searched:
        first.save(folder / _INTERCHANGE)
    else:
        first.subspace.save(folder / _SUBSPACE)
    split = claim.split if isinstance(claim, Evidence) else None
    held = {
        "holds": claim.holds,
        "failing": list(claim.failing),
        "notes": list(claim.flags),
        "methods": _records(claim.to_frame()),
        "split": None if split is None else _records(split),
        "selectivity": _records(claim.selectivity),
        "stability": _records(claim.stability),
        "effects": _records(claim.effects.to_frame()),
        "summary": claim.summary(),
        "model": claim.model,
        "method": claim.method,
        "places": _places(claim),
        "settings": _settings(claim),
        "pairs": None if pairs is None else pairs.hash,
        "reft_interp": version("reft-interp"),
    }
    text = json.dumps(held, indent=2, allow_nan=False)
    write_whole(folder / "evidence.json", text + "\n")
    return page


def _settings(claim: Evidence | JointEvidence) -> dict[str, Any] | None:
    """What DAS was trained with; None of another method."""
    first = claim.found[0]
    return first.settings if isinstance(first, DASResult | JointDASResult) else None


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Its lines, with null for NaN, which JSON lacks."""
    return [
        {
            str(name): None if isinstance(value, float) and math.isnan(value) else value
            for name, value in line.items()
        }
        for line in frame.to_dict("records")
    ]


def document(claim: Evidence | JointEvidence, pairs: Counterfactuals | None = None) -> Report:
    """The page of evidence.

    Args:
        claim: what was found, beside its controls.
        pairs: what it was found on, for a section of their own.
    """
    page = Report(_title(claim), subtitle=_where(claim), summary=claim.summary())
    if pairs is not None:
        page.section("The pairs", as_list(str(pairs)))
    verdict = (
        f"holds: {'yes' if claim.holds else 'no'}; it has to be above {joined(claim.controls)}"
    )
    page.section("The claim beside its controls", as_list("\n".join([verdict, *claim.flags])))
    caption = (
        f"{claim.comparison.metric}. 95 % Wilson intervals; of several draws or seeds, mean and "
        "range."
    )
    page.figure(claim.plot(), caption=caption, name="iia")
    page.table(claim.to_frame(), caption=caption, name="iia")
    page.table(
        claim.selectivity,
        caption="The claim's accuracy less each control's, on the same pairs; 95 % bootstrap "
        "intervals over pairs, or where all pairs say the same, as wide as Wilson's of a share of "
        "which no pair was seen.",
        name="selectivity",
    )
    page.section("Is the same subspace found again?")
    page.table(
        claim.stability,
        caption="Other seeds and resampled pairs beside the first seed; angles in degrees. Where "
        "the method has a seed, each search begins elsewhere, those on resampled pairs too.",
        name="stability",
    )
    page.section("How far does it move the answer?")
    page.table(
        claim.effects.to_frame(),
        caption="Means over n held-out pairs: those whose label is not the base's own answer, for "
        f"KL the others; 95 % intervals (Student's t). {AMONG_ALL}",
        name="effects",
    )
    if isinstance(claim, Evidence) and claim.split is not None:
        page.section("Does it work through what downstream weights read?")
        page.table(
            claim.split,
            caption="Interchanges inside the subspace, inside the part of it that output weights "
            "read, inside the rest, and of the whole component; no verdict is taken from it.",
            name="split",
        )
    return page.footer(_facts(claim, pairs))


def _places(claim: Evidence | JointEvidence) -> dict[str, dict[str, Any]]:
    """Of each variable where it was searched for, and in how many directions."""
    if isinstance(claim, Evidence):
        return {claim.variable: _place(claim.site, claim.on, claim.subspace.rank)}
    return {
        name: _place(site, on, claim.subspaces[name].rank)
        for name, (site, on) in claim.places.items()
    }


def _place(site: Site, on: str, rank: int) -> dict[str, Any]:
    return {"site": str(site), "tokens": on, "rank": rank}


def _title(claim: Evidence | JointEvidence) -> str:
    if isinstance(claim, Evidence):
        return f"Does {claim.site} carry the {claim.variable}?"
    return f"Are {claim.variable} carried where they are said to be?"


def _where(claim: Evidence | JointEvidence) -> str:
    if isinstance(claim, Evidence):
        return f"{claim.model}, on {claim.on}, rank {claim.subspace.rank}"
    places = [
        f"{name} at {site} on {on}, rank {claim.subspaces[name].rank}"
        for name, (site, on) in claim.places.items()
    ]
    return "; ".join([claim.model, *places])


def _facts(claim: Evidence | JointEvidence, pairs: Counterfactuals | None) -> dict[str, Any]:
    """What somebody needs to search again."""
    settings = _settings(claim) or {}
    written = {name.replace("_", " "): value for name, value in settings.items()}
    # There pairs are a number, here they are told themselves; and the others are of one search,
    # where here are several.
    for name in ("pairs", "shuffled labels", "resampled pairs"):
        written.pop(name, None)
    hashed = {} if pairs is None else {"pairs": pairs.hash}
    return (
        {"model": claim.model, "method": claim.method, "seeds": len(claim.found)} | written | hashed
    )
