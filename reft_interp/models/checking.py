"""What works on a model: which sites it has, and whether the shortcuts can be trusted.

`check` edits, rather than looks up: a hook that fires but is ignored shows as one whose edits
change nothing. Next door, `consistency` measures caches and padding. Not here: the installation
as a whole (`environment`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.sites import Component, Site

from .consistency import (
    Difference,
    cache_difference,
    is_causal,
    logit_tolerance,
    padding_difference,
    sample_tokens,
)
from .identity import ModelIdentity, identify
from .quiet import quiet

_EDIT = 3.0  # length of an edit, as a multiple of what it is added to


@dataclass(frozen=True)
class SiteCheck:
    """One kind of site on one model; it was edited at the first, middle and last layer."""

    component: str
    layers: int
    """How many layers have it."""
    n_layers: int
    width: int | None
    """How wide an activation of one token is; None where no layer has the component."""
    effect: float | None
    """The largest change of a logit at the edited token, on the layer where it was smallest."""
    earlier: Difference | None
    """The change of logits before the edited token; None on encoders, where all may change."""
    has_effect: bool | None
    """Whether `effect` is more than rounding."""
    note: str = ""
    """Why there is no such site."""

    @property
    def exists(self) -> bool:
        return self.layers > 0

    @property
    def ok(self) -> bool:
        """Absent, or present and doing what an edit should."""
        if not self.exists:
            return True
        return bool(self.has_effect) and (self.earlier is None or self.earlier.ok)

    def __str__(self) -> str:
        width = "-" if self.width is None else str(self.width)
        return (
            f"{self.component:<11}{width:>6}  {self.layers:>3}/{self.n_layers:<3}  {self._said()}"
        )

    def _said(self) -> str:
        if not self.exists:
            return f"absent: {self.note}"
        if not self.has_effect:
            return "FAILED: an edit here changes no logit"
        if self.earlier is not None and not self.earlier.ok:
            return f"FAILED: an edit here changes earlier tokens, {self.earlier}"
        if self.layers < self.n_layers:
            return f"edits change the logits; some layers lack it: {self.note}"
        return "edits change the logits"


@dataclass(frozen=True)
class ModelCheck:
    """What `check` found on a model."""

    identity: ModelIdentity
    sites: tuple[SiteCheck, ...]
    cached: Difference | None
    """Logits with a key-value cache against those without; None on models that have none."""
    left_padding: Difference
    """Logits of a left-padded row against those of the row alone."""
    right_padding: Difference
    seconds: float

    @property
    def ok(self) -> bool:
        """Every site that exists works, and so do caches and padding."""
        return any(site.exists for site in self.sites) and not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """What doesn't work, one line each."""
        return tuple(str(site) for site in self.sites if not site.ok) + tuple(
            f"{name}: {found}" for name, found in self._differences() if found and not found.ok
        )

    def _differences(self) -> tuple[tuple[str, Difference | None], ...]:
        return (
            ("cached = uncached", self.cached),
            ("left-padded = unpadded", self.left_padding),
            ("right-padded = unpadded", self.right_padding),
        )

    def __str__(self) -> str:
        verdict = "everything works" if self.ok else "SOMETHING DOES NOT WORK"
        lines = [f"{self.identity}: {verdict} (checked in {self.seconds:.1f} s)"]
        lines += [f"  {'site':<11}{'width':>6}   layers"]
        lines += [f"  {site}" for site in self.sites]
        for name, found in self._differences():
            said = "not applicable: no such cache" if found is None else str(found)
            failed = "FAILED: " if found is not None and not found.ok else ""
            lines.append(f"  {name:<25}{failed}{said}")
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """One row for each kind of site, then one for each comparison of logits."""
        rows: list[dict[str, Any]] = [
            {
                "check": site.component,
                "ok": site.ok if site.exists else None,
                "width": site.width,
                "layers": site.layers,
                "effect": site.effect,
                "difference": site.earlier and site.earlier.largest,
                "tolerance": site.earlier and site.earlier.tolerance,
                "note": site._said(),
            }
            for site in self.sites
        ]
        rows += [
            {
                "check": name,
                "ok": found and found.ok,
                "difference": found and found.largest,
                "tolerance": found and found.tolerance,
                "note": "" if found else "no such cache",
            }
            for name, found in self._differences()
        ]
        return pd.DataFrame(rows).astype({"width": "Int64", "layers": "Int64", "ok": "boolean"})

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, na_rep="", float_format="{:.1e}".format)
        return f"<p>{self.identity}: {'everything works' if self.ok else 'problems'}</p>{table}"


def check(model: TransformerBridge) -> ModelCheck:
    """Find out in seconds which sites `model` has and whether edits, caches and padding work.

    For each kind of site: how many layers have it, how wide it is, whether an edit of the last
    token there changes that token's logits, and (on causal models) those of no earlier token.
    Then whether logits with a key-value cache, and logits of padded rows, equal those without.
    """
    start = time.perf_counter()
    with quiet():
        return ModelCheck(
            identity=identify(model),
            sites=_check_sites(model),
            cached=cache_difference(model),
            left_padding=padding_difference(model, "left"),
            right_padding=padding_difference(model, "right"),
            seconds=time.perf_counter() - start,
        )


@torch.no_grad()
def _check_sites(model: TransformerBridge) -> tuple[SiteCheck, ...]:
    n_layers = model.cfg.n_layers
    present: dict[str, list[Site]] = {}
    notes: dict[str, str] = {}
    for component in get_args(Component):
        present[component] = []
        for layer in range(n_layers):
            site = Site(component, layer)
            try:
                site.check(model)
            except ValueError as error:
                # The message starts with the model's name, which the table has already.
                notes.setdefault(component, str(error).split(": ", 1)[-1])
            else:
                present[component].append(site)
    edited = [s for sites in present.values() for s in _first_middle_last(sites)]

    # One run for all: each row of the batch is the same text, and each edit has a row. The
    # first and the last row stay as they are; how far those two differ is rounding.
    ids = sample_tokens(model).expand(len(edited) + 2, -1)
    widths: dict[str, int] = {}
    hooks: list[Any] = [
        (site.hook_name, _edit_last_token(row, site, widths))
        for row, site in enumerate(edited, start=1)
    ]
    logits = model.run_with_hooks(ids, fwd_hooks=hooks).float()
    plain, tolerance = logits[:1], logit_tolerance(model, logits[:1])
    change = (logits - plain).abs().amax(dim=-1)
    rounding = 10 * change[-1].max().item() + tolerance / 100

    checks: list[SiteCheck] = []
    for component, sites in present.items():
        rows = [row for row, site in enumerate(edited, start=1) if site.component == component]
        effect = min((change[row, -1].item() for row in rows), default=None)
        earlier = max((change[row, :-1].max().item() for row in rows), default=None)
        checks.append(
            SiteCheck(
                component=component,
                layers=len(sites),
                n_layers=n_layers,
                width=widths.get(component),
                effect=effect,
                earlier=Difference(earlier, tolerance)
                if earlier is not None and is_causal(model)
                else None,
                has_effect=None if effect is None else effect > rounding,
                note=notes.get(component, ""),
            )
        )
    return tuple(checks)


def _first_middle_last(sites: list[Site]) -> list[Site]:
    return [sites[i] for i in sorted({0, len(sites) // 2, len(sites) - 1})] if sites else []


def _edit_last_token(
    row: int, site: Site, widths: dict[str, int]
) -> Callable[[Float[Tensor, "batch pos *inner"], Any], Float[Tensor, "batch pos *inner"]]:
    def edit(
        activation: Float[Tensor, "batch pos *inner"], hook: Any
    ) -> Float[Tensor, "batch pos *inner"]:
        token = activation[row, -1]
        widths[site.component] = token.numel()
        # Random, since a LayerNorm would take out the same number added everywhere.
        generator = torch.Generator().manual_seed(row)
        direction = torch.randn(token.shape, generator=generator).to(token)
        new = activation.clone()
        length = token.norm() if token.any() else direction.norm()
        new[row, -1] = token + _EDIT * direction * length / direction.norm()
        return new

    return edit
