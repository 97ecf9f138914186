"""A placement: which intervention, at which site, on which tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.interventions import Intervention
from reft_interp.positions import Positions, PositionSelector, parse_positions
from reft_interp.sites import Site

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
    ):
        if isinstance(intervention, type):
            raise TypeError(
                f"intervention must be an instance, got the class {intervention.__name__}: "
                f"{intervention.__name__}(...) makes one"
            )
        if not isinstance(site, Site):
            raise TypeError(f'site must be a Site, as Site("resid_post", 12), got {site!r}')
        object.__setattr__(self, "intervention", intervention)
        object.__setattr__(self, "site", site)
        object.__setattr__(self, "on", parse_positions(on))
        object.__setattr__(self, "source", source)

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
