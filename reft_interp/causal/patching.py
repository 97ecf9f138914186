"""Activation patching: what moves the answer when one token's activation comes from the source.

Nothing is trained: each cell is a whole-vector interchange at one site and one selection of
tokens (Meng et al. 2022, arXiv:2202.05262, calls it causal tracing; Geiger et al. 2021,
arXiv:2106.02997, interchange intervention).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.interchanges import On, Pairs, interchange_rows, prepare_interchanges
from reft_interp.evaluation import choice_scores, prepared_choice_scores
from reft_interp.interventions import Interchange
from reft_interp.positions import parse_positions
from reft_interp.runtime.planning import Engine
from reft_interp.sites import Site

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Patching:
    """Logit differences under patching."""

    sites: tuple[Site, ...]
    on: tuple[str, ...]
    """The selections of tokens, as text."""
    untouched: Float[np.ndarray, "rows"] = field(repr=False)
    """Without any patch: logit of the label minus that of the other choice."""
    patched: Float[np.ndarray, "sites on rows"] = field(repr=False)
    """The same under each patch."""

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: site, tokens, logit difference, its change from the untouched model with
        a 95 % interval over rows (normal), n."""
        change = self.patched - self.untouched
        n = change.shape[-1]
        half = (
            1.96 * change.std(-1, ddof=1) / np.sqrt(n)
            if n > 1
            else np.full(change.shape[:2], np.nan)
        )
        rows = []
        for i, site in enumerate(self.sites):
            for j, on in enumerate(self.on):
                mean = float(change[i, j].mean())
                rows.append(
                    {
                        "site": str(site),
                        "tokens": on,
                        "logit difference": float(self.patched[i, j].mean()),
                        "change": mean,
                        "low": mean - float(half[i, j]),
                        "high": mean + float(half[i, j]),
                        "n": n,
                    }
                )
        return pd.DataFrame(rows)

    def plot(self) -> "Axes":
        """A heat map of the mean change: sites down, selections of tokens across."""
        from reft_interp import plotting

        return plotting.heatmap(
            self.to_frame(),
            x="tokens",
            y="site",
            value="change",
            value_label="change of logit difference",
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
        pairs: counterfactual rows with two `choices`, one of which is the `label`.
        sites: where.
        on: which tokens of base and source, one selection a column.
        batch_size: rows run at once, over all cells; more where their regions are small.
        engine: "full" forces the plain run.
        memory_budget: bytes that constants may take; 40 % of the free memory by default.
        progress: show progress bars.

    Raises:
        ValueError: a pair without two choices, or whose label is neither; no sites or selections.
    """
    if not sites or not on:
        raise ValueError(f"sites and on must not be empty, got {len(sites)} and {len(on)}")
    rows, _ = interchange_rows(pairs)
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
    choices = list(row.get("choices") or [])
    if len(choices) != 2 or row["answer"] not in choices:
        raise ValueError(
            f"pairs: row {number} must have two choices and its label among them, got choices "
            f"{choices} and label {row['answer']!r}"
        )
    return 1 if choices.index(row["answer"]) == 0 else -1
