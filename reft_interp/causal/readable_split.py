"""Does a subspace work through what downstream weights read, or through what they cannot?

Makelov, Lange and Nanda 2023 (arXiv:2311.17030): a direction found by its effect may combine a part
that the weights read but that hardly differs between inputs with one that differs but is not read.
An interchange along it then moves the answer by a path that the model does not use. Here: the
numbers, not a verdict, since sound explanations can fail one (Wu et al. 2024, arXiv:2401.12631).
"""

from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.effects import log_odds_ratios
from reft_interp.causal.interchanges import On, interchange_accuracies, interchange_rows
from reft_interp.causal.rows import Pairs, listed_rows
from reft_interp.evaluation import mean_and_interval
from reft_interp.interventions import DistributedInterchange, Interchange, Intervention
from reft_interp.runtime.activations import activations_each
from reft_interp.runtime.batching import choices_of
from reft_interp.sites import Site
from reft_interp.subspace import Subspace


def readable_split(
    model: TransformerBridge, pairs: Pairs, subspace: Subspace, site: Site, on: On
) -> pd.DataFrame:
    """Interchanges inside a subspace, inside its parts, and of the whole component.

    Args:
        model: the hooked model.
        pairs: counterfactual rows, with choices and `base_answer`.
        subspace: what was found, of MLP neurons ("mlp_post") or of heads ("z").
        site: where; all neurons, or a head.
        on: which tokens of base and source.

    Returns:
        Columns part ("subspace"; "read", its projection on what the output weights read; "not
        read", the rest; "whole component"), rank, share (of the subspace's basis, squared: 1 where
        all of it is read), variance (of the untouched activations inside it, as a share of all;
        NaN where they do not vary),
        iia, low, high, log odds ratio (nats, mean over pairs), its low and high (95 %, Student's
        t), n. A part that is nothing has no rank, and NaN.

    Raises:
        TypeError: as `log_odds_ratios`.
        ValueError: the site is no "mlp_post" or "z", or the subspace has another width; as
            `log_odds_ratios`.
    """
    # What it is compared with, weights and activations, is on the CPU, in float64.
    subspace = subspace.to("cpu")
    width = site.width(model)
    if subspace.width != width:
        raise ValueError(f"subspace is {subspace.width} wide, {site} {width}")
    read, unread = _parts(subspace, _weights(model, site))
    parts = {"subspace": subspace, "read": read, "not read": unread}
    edits: dict[str, Intervention] = {
        name: DistributedInterchange(part) for name, part in parts.items() if part is not None
    }
    edits["whole component"] = Interchange(width)
    placed = [(edit, site, on) for edit in edits.values()]
    accuracies = dict(zip(edits, interchange_accuracies(model, pairs, placed), strict=True))
    odds = dict(zip(edits, log_odds_ratios(model, pairs, placed), strict=True))
    bases, _ = interchange_rows(pairs)
    [of_bases] = activations_each(model, bases, [(site, on)], answered=True)
    held = torch.cat(of_bases).cpu().double()
    centred = held - held.mean(0)
    total = float(centred.square().sum())
    share = {"subspace": 1.0, "read": _share(subspace, read), "whole component": float("nan")}
    share["not read"] = 1 - share["read"]
    lines = []
    for name in (*parts, "whole component"):
        part = parts.get(name)
        line = {"part": name, "rank": width if name == "whole component" else None}
        line |= {"share": share[name]}
        if name not in edits:
            lines.append(line)
            continue
        inside = centred if part is None else centred @ part.basis.double().T
        value, low, high = mean_and_interval(odds[name])
        accuracy = accuracies[name]
        lines.append(
            {
                **line,
                "rank": width if part is None else part.rank,
                "variance": float(inside.square().sum()) / total if total else float("nan"),
                "iia": accuracy.value,
                "low": accuracy.interval[0],
                "high": accuracy.interval[1],
                "log odds ratio": value,
                "log odds ratio low": low,
                "log odds ratio high": high,
                "n": accuracy.n,
            }
        )
    return pd.DataFrame(lines)


def has_split(site: Site, pairs: Pairs) -> bool:
    """Whether `readable_split` applies: all neurons of an MLP or one head, and rows whose choices
    hold the label and the base's own answer."""
    if _reader(site) is None:
        return False
    return all(
        {row["label"], row.get("base_answer")} <= set(choices_of(row, f"pairs: row {i}"))
        for i, row in enumerate(listed_rows(pairs))
    )


def _reader(site: Site) -> Literal["W_out", "W_O"] | None:
    """Which weights alone read the site."""
    if site.component == "mlp_post" and site.neurons is None:
        return "W_out"
    if site.component == "z" and site.heads is not None and len(site.heads) == 1:
        return "W_O"
    return None


def _weights(model: TransformerBridge, site: Site) -> Float[Tensor, "d out"]:
    """What turns the component into something that the residual stream receives."""
    reader = _reader(site)
    # The block's own: the model's stack leaves out blocks whose MLP is a mixture of experts, and
    # so counts those that follow from another start.
    block = cast("Any", model.blocks[site.layer] if reader else None)
    if reader == "W_out":
        return block.mlp.W_out
    if reader == "W_O" and site.heads is not None:
        return block.attn.W_O[site.heads[0]]
    raise ValueError(
        'site must be all neurons of an MLP, Site("mlp_post", layer), or a head, '
        f'Site("z", layer, heads=head), got {site}'
    )


def _parts(
    subspace: Subspace, weights: Float[Tensor, "d out"]
) -> tuple[Subspace | None, Subspace | None]:
    u, lengths, _ = torch.linalg.svd(weights.detach().cpu().double(), full_matrices=False)
    # What is left of numbers that should be zero, as numpy's matrix_rank has it.
    smallest = lengths[0] * max(weights.shape) * float(np.finfo(np.float32).eps)
    readable = u[:, lengths > smallest]
    basis = subspace.basis.double()
    read = basis @ readable @ readable.T
    return _spanned(read), _spanned(basis - read)


def _spanned(rows: Float[Tensor, "r d"]) -> Subspace | None:
    # Below a millionth of a unit vector there is rounding, and no direction.
    return Subspace.spanned_by(rows.float()) if float(rows.norm()) > 1e-6 else None


def _share(subspace: Subspace, read: Subspace | None) -> float:
    """How much of the subspace lies in what is read: the mean squared length of its projection."""
    if read is None:
        return 0.0
    inside = subspace.basis.double() @ read.basis.double().T
    return float(inside.square().sum() / subspace.rank)
