"""A placement: which intervention, at which site, on which tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.interventions import Intervention
from reft_interp.positions import Positions, PositionSelector, parse_positions
from reft_interp.sites import Site, check_site

SOURCE = "source"
"""What a placement reads where it does not say which of several sources."""


@dataclass(frozen=True, eq=False)
class Placement:
    """An intervention, at a site, on positions.

    Args:
        intervention: what is done. Several placements may share one module; a template
            (`LoReFT(rank=4)`) becomes a module of its own at each.
        site: where in the model.
        on: which tokens of the prompt: a selector, or what `parse_positions` understands,
            as in "f3+l3", "last", "subject" (a named span).
        source: which of several sources is read, by name, where the intervention reads one.
        name: where given, only rows that ask for it are edited (`{"prompt": ..., "edits": name}`,
            or a list of names); placements may share one. Without, all rows are. It becomes the
            selector's `edit`, and is saved with it.

    Raises:
        TypeError: what is no intervention, or no site.
        ValueError: positions that cannot be read, a name with blanks in it, another name than the
            selector has, or a source for an intervention that reads none.
    """

    intervention: Intervention
    site: Site
    on: PositionSelector
    source: str

    def __init__(
        self,
        intervention: Intervention,
        site: Site,
        on: str | int | Sequence[int] | PositionSelector,
        *,
        source: str = SOURCE,
        name: str | None = None,
    ):
        if isinstance(intervention, type):
            raise TypeError(
                f"intervention must be an instance, got the class {intervention.__name__}: "
                f"{intervention.__name__}(...) makes one"
            )
        if not isinstance(intervention, Intervention):
            raise TypeError(
                "intervention must be an Intervention, as LoReFT(rank=4), got "
                f"{type(intervention).__name__}"
            )
        if source != SOURCE and not intervention.needs_source:
            raise ValueError(
                f"source is for interventions that read another run, and "
                f"{type(intervention).__name__} reads none: leave it out, got {source!r}"
            )
        check_site(site)
        object.__setattr__(self, "intervention", intervention)
        object.__setattr__(self, "site", site)
        selector = parse_positions(on)
        if name is not None:
            if selector.edit not in (None, name):
                raise ValueError(f"name is {name!r}, but the positions have {str(selector)!r}")
            selector = replace(selector, edit=name)
        object.__setattr__(self, "on", selector)
        object.__setattr__(self, "source", source)

    @property
    def name(self) -> str | None:
        """What rows ask for to be edited here; None where all rows are."""
        return self.on.edit

    def __str__(self) -> str:
        named = "" if self.source == SOURCE else f" from {self.source!r}"
        return f"{type(self.intervention).__name__} at {self.site} on {self.on}{named}"

    def built_for(self, model: TransformerBridge) -> "Placement":
        """This placement with an intervention as wide as the site.

        Raises:
            ValueError: the model lacks the site, or the intervention has another width.
        """
        built = self.intervention.for_width(self.site.width(model))
        return Placement(built, self.site, self.on, source=self.source)


def check_names(placements: Sequence[Placement], batch: TokenizedBatch) -> None:
    """Raise where a row asks for an edit that none of the placements is.

    Rows are not asked where no placement has a name: then all of them apply.

    Raises:
        ValueError: the message gives the row and the names that there are.
    """
    known = {placement.name for placement in placements} - {None}
    for row, asked in enumerate(batch.edits if known else ()):
        if unknown := (asked or frozenset()) - known:
            raise ValueError(
                f"row {row} asks for the edit {min(unknown)!r}, but there are only "
                f"{', '.join(repr(name) for name in sorted(known, key=str))}"
            )


def select(placements: Sequence[Placement], batch: TokenizedBatch) -> list[Positions]:
    """The tokens that each placement edits.

    Raises:
        ValueError: a row lacks them, or asks for an edit that none of the placements is.
    """
    check_names(placements, batch)
    return [placement.on(batch) for placement in placements]


@dataclass(frozen=True, eq=False)
class Edit:
    """A placement on a given batch: the tokens are known, and what the source holds there."""

    intervention: Intervention
    site: Site
    positions: Positions
    source: Float[Tensor, "n d"] | None = None

    def apply(self, activation: Float[Tensor, "batch pos *inner"]) -> Tensor:
        """The activation of the site's hook, edited."""
        base = self.site.read(activation, self.positions)
        source = None if self.source is None else self.source.to(base.device)
        return self.site.write(activation, self.positions, self.intervention(base, source))
