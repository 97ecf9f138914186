"""Interchanges on counterfactual pairs, and how often they give the expected label.

A pair is a row of `Counterfactuals`: base, source, label. Next door, `das` trains them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.evaluation import Accuracy, accuracy
from reft_interp.interventions import Intervention
from reft_interp.positions import PositionSelector
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site

On = str | int | Sequence[int] | PositionSelector


def interchange_rows(
    pairs: Dataset,
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The bases, with the label as their answer, and the sources, as rows that a model runs.

    Raises:
        ValueError: a column is missing.
    """
    missing = {"base", "source", "label"} - set(pairs.column_names)
    if missing:
        raise ValueError(f"pairs lack {sorted(missing)}; they have {pairs.column_names}")
    bases, sources = [], []
    for pair in pairs:
        base = {"prompt": pair["base"], "spans": pair.get("base_spans"), "answer": pair["label"]}
        if pair.get("choices"):
            base["choices"] = pair["choices"]
        bases.append(base)
        sources.append({"prompt": pair["source"], "spans": pair.get("source_spans")})
    return bases, sources


def interchange_accuracy(
    model: TransformerBridge,
    pairs: Dataset,
    intervention: Intervention | None,
    site: Site,
    on: On,
    *,
    batch_size: int = 64,
) -> Accuracy:
    """Interchange intervention accuracy: how often an interchange gives the expected label.

    Geiger et al. 2021 (arXiv:2106.02997).

    Args:
        model: the hooked model.
        pairs: counterfactual rows (see `Counterfactuals`).
        intervention: the interchange; None for no intervention.
        site: where.
        on: which tokens of base and source.
        batch_size: pairs run at once.
    """
    bases, sources = interchange_rows(pairs)
    if intervention is None:
        return accuracy(model, bases, batch_size=batch_size)
    placed = IntervenedModel(model, Placement(intervention, site, on))
    return accuracy(placed, bases, sources, batch_size=batch_size)
