"""The subspaces of a trained intervention that are probed: what each placement reads and writes."""

from collections.abc import Sequence
from dataclasses import dataclass

from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.subspace import Subspace


@dataclass(frozen=True)
class Probed:
    """A subspace that a placement reads or writes."""

    label: str
    placement: int
    site: Site
    subspace: Subspace


def subspaces_of(intervened: IntervenedModel) -> tuple[list[Probed], list[str]]:
    """What each placement writes and reads, and notes on those that read nothing."""
    found, notes = [], []
    labels = _labels(intervened.placements)
    for i, (placement, label) in enumerate(zip(intervened.placements, labels, strict=True)):
        found.append(Probed(f"{label}, writes", i, placement.site, placement.intervention.subspace))
        reads = placement.intervention.reads
        if reads is None:
            notes.append(f"{label} reads nothing: its edit is the same for every h.")
        else:
            found.append(Probed(f"{label}, reads", i, placement.site, reads))
    return found, notes


def _labels(placements: Sequence[Placement]) -> list[str]:
    """What placements are called: with the site where there are several, with the tokens where a
    site has several, and with a number where that is still one name for two."""
    sites = [placement.site for placement in placements]
    labels = []
    for placement in placements:
        label = type(placement.intervention).__name__
        if len(sites) > 1:
            label += f" at {placement.site}"
        if sites.count(placement.site) > 1:
            label += f" on {placement.on}"
        labels.append(label)
    return [
        f"{label}, {labels[:i].count(label) + 1}" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    ]
