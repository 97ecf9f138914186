"""Run rows of many models with interventions as one batch, each row edited by its own.

The model underneath is the same frozen one, and rows do not see each other, so that each gets
what it would get alone. Small batches are bound by the weights that stream through memory: many
of them at once cost far less than one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reft_interp.encoding import TokenizedBatch
from reft_interp.positions import Positions
from reft_interp.runtime.intervened import IntervenedModel
from reft_interp.runtime.placement import Edit
from reft_interp.runtime.replaying import replay
from reft_interp.runtime.running import run


@dataclass(frozen=True)
class Share:
    """One model's part of a joint run."""

    intervened: IntervenedModel
    inputs: dict[str, Any]
    """Rows, as `PreparedRows.inputs` gives them."""
    at: Positions
    """Where its logits are wanted, in its own batch."""


def joint_logits(shares: Sequence[Share], *, unembed: bool = True) -> list[Float[Tensor, "n out"]]:
    """The logits of each share, run together.

    Args:
        shares: all of one frozen model. Those with frozen constants are replayed together, those
            without run in full together.
        unembed: whether the output layer runs; without it the results are what enters it.
    """
    found: list[Tensor] = [torch.empty(0)] * len(shares)
    for replayed in (True, False):
        some = [
            i for i, share in enumerate(shares) if (share.inputs["frozen"] is not None) == replayed
        ]
        if not some:
            continue
        batch, edits, at = _joined([shares[i] for i in some])
        model = shares[some[0]].intervened.model
        if replayed:
            frozen = [region for i in some for region in shares[i].inputs["frozen"]]
            logits = replay(model, batch, edits, frozen, at, unembed=unembed)
        else:
            logits = run(model, batch, edits, at=at, unembed=unembed)
        parts = logits.split([len(shares[i].at) for i in some])
        for i, part in zip(some, parts, strict=True):
            found[i] = part
    return found


def _joined(shares: Sequence[Share]) -> tuple[TokenizedBatch, list[Edit], Positions]:
    edits: list[Edit] = []
    rows, columns, offset = [], [], 0
    for share in shares:
        batch = share.inputs["batch"]
        own = share.intervened.edits(batch, share.inputs["sources"], share.inputs["positions"])
        edits += [replace(edit, positions=_moved(edit.positions, offset)) for edit in own]
        rows.append(share.at.rows + offset)
        columns.append(share.at.columns)
        offset += len(batch)
    batch = TokenizedBatch.concatenate([share.inputs["batch"] for share in shares])
    return batch, edits, Positions(torch.cat(rows), torch.cat(columns))


def _moved(positions: Positions, offset: int) -> Positions:
    return Positions(positions.rows + offset, positions.columns)
