"""Activation patching: what moves the answer when one token's activation comes from the source.

Nothing is trained: each cell is an interchange intervention (Geiger et al. 2021, arXiv:2106.02997)
of the whole vector at one site and one selection of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.interchanges import On, prepare_interchanges, rows_of_one_source
from reft_interp.causal.rows import Pairs
from reft_interp.evaluation import choice_scores, mean_and_interval, prepared_choice_scores
from reft_interp.interventions import Interchange
from reft_interp.positions import parse_positions
from reft_interp.runtime.batching import choices_of
from reft_interp.runtime.planning import Engine
from reft_interp.sites import Site

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Patching:
    """Logit differences under patching."""

    sites: tuple[Site, ...]
    on: tuple[str, ...]
    """The selections of tokens, as text."""
    untouched: Float[np.ndarray, "rows"] = field(repr=False)
    """Without any patch: logit of the label minus that of the other choice."""
    patched: Float[np.ndarray, "sites on rows"] = field(repr=False)
    """The same under each patch."""

    @property
    def to_change(self) -> Bool[np.ndarray, "rows"]:
        """In which rows the label is not what the untouched model prefers.

        There a patch of the variable should move the logit difference up. In the other rows base
        and source agree on the variable, where the model does the task, and it should move nothing:
        a mean over both would hide either. A row that the model gets wrong is among those that it
        does not belong to.
        """
        return self.untouched < 0

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: site, tokens, and over the rows of `to_change` the mean logit difference,
        its change from the untouched model with a 95 % interval (Student's t over rows) and n;
        then the mean change in the other rows ("change elsewhere") and how many they are."""
        change = self.patched - self.untouched
        moved, rest = change[..., self.to_change], change[..., ~self.to_change]
        rows = []
        for i, site in enumerate(self.sites):
            for j, on in enumerate(self.on):
                change, low, high = mean_and_interval(moved[i, j])
                rows.append(
                    {
                        "site": str(site),
                        "tokens": on,
                        "logit difference": mean_and_interval(self.patched[i, j][self.to_change])[
                            0
                        ],
                        "change": change,
                        "low": low,
                        "high": high,
                        "n": moved.shape[-1],
                        "change elsewhere": mean_and_interval(rest[i, j])[0],
                        "n elsewhere": rest.shape[-1],
                    }
                )
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return self.to_frame().to_string(index=False, float_format="{:.3f}".format)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format="{:.3f}".format)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """A heat map of the mean change over the rows of `to_change`: layers up, or sites down if
        they are of several components, and selections of tokens across.

        Args:
            ax: where; a figure of its own by default.

        Raises:
            ValueError: there is no such row.
        """
        if not self.to_change.any():
            raise ValueError(
                f"in all {len(self.untouched)} rows the untouched model prefers the label already: "
                "there is no change to plot"
            )
        return heatmap_of_places(
            self.to_frame(), self.sites, "change", "Patching", "change of logit difference", ax
        )


def heatmap_of_places(
    frame: pd.DataFrame,
    sites: Sequence[Site],
    value: str,
    what: str,
    label: str,
    ax: "Axes | None",
) -> "Axes":
    """Layers up, or sites down if they are of several components, and tokens across.

    Args:
        frame: one row a cell, sites first: site, tokens and the value.
        sites: in the order of the frame.
        value: column of the numbers.
        what: was done at the sites, for the title.
        label: what is measured, with its unit.
        ax: where; a figure of its own by default.
    """
    from reft_interp import plotting

    kinds = {(site.component, site.heads, site.neurons) for site in sites}
    if len(kinds) == 1:
        each = len(frame) // len(sites)
        frame = frame.assign(layer=[site.layer for site in sites for _ in range(each)])
    return plotting.heatmap(
        frame,
        x="tokens",
        y="layer" if len(kinds) == 1 else "site",
        value=value,
        title=f"{what} {', '.join(sorted({site.component for site in sites}))}",
        value_label=label,
        ax=ax,
    )


def activation_patching(
    model: TransformerBridge,
    pairs: Pairs,
    sites: Sequence[Site],
    on: Sequence[On],
    *,
    batch_size: int = 128,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    progress: bool = True,
) -> Patching:
    """Swap what the source holds into the base at every site and selection of tokens, in turn.

    Args:
        model: the hooked model.
        pairs: counterfactual rows with two `choices`, one of which is the `label`: the answer that
            base should have once the variable is the source's.
        sites: where.
        on: which tokens of base and source, one selection a column.
        batch_size: rows of one replay, over the cells that share it; a patch that changes less
            than the whole prompt is given more rows.
        engine: "full" forces the plain run.
        memory_budget: bytes that constants may take; 40 % of the free memory by default.
        progress: show progress bars.

    Returns:
        The logit difference of every row, untouched and under each patch. Pairs of
        `NumberAgreement` are half such that base and source agree, so that the label is the base's
        own answer: `to_frame` and `plot` keep the two kinds apart.

    Raises:
        TypeError: as `rows_of_one_source`.
        ValueError: a pair without two choices, or whose label is neither; no sites or selections;
            as `rows_of_one_source`; a site that the model lacks, or tokens that a pair does not
            have.
    """
    if not sites or not on:
        raise ValueError(f"sites and on must not be empty, got {len(sites)} and {len(on)}")
    rows, _ = rows_of_one_source(pairs)
    # Before anything is run.
    signs = np.array([_sign(i, row) for i, row in enumerate(rows)])
    chosen = [parse_positions(one) for one in on]
    scored = prepare_interchanges(
        model,
        pairs,
        [(Interchange(), site, one) for site in sites for one in chosen],
        engine=engine,
        budget=memory_budget,
        progress=progress,
    )
    scores = prepared_choice_scores(scored, batch_size=batch_size, progress=progress)
    untouched = choice_scores(model, rows, batch_size=batch_size)
    patched = np.stack([_differences(one) for one in scores]) * signs
    return Patching(
        tuple(sites),
        tuple(map(str, chosen)),
        _differences(untouched) * signs,
        patched.reshape(len(sites), len(chosen), len(rows)),
    )


def _differences(scores: Sequence[Float[np.ndarray, "2"]]) -> Float[np.ndarray, "rows"]:
    return np.array([first - second for first, second in scores])


def _sign(number: int, row) -> int:
    choices = choices_of(row, f"pairs: row {number}")
    if len(choices) != 2 or row["answer"] not in choices:
        raise ValueError(
            f"pairs: row {number} must have two choices and its label among them, got choices "
            f"{choices} and label {row['answer']!r}"
        )
    return 1 if choices.index(row["answer"]) == 0 else -1
