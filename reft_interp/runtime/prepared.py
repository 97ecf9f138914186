"""Rows with all that is constant about them: what sources hold, what lies below the edits.

It is computed once and serves every training step and every intervention that is scored at the
same sites and positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from warnings import warn

import torch
from jaxtyping import Float
from torch import Tensor

from reft_interp.encoding import TokenizedBatch
from reft_interp.runtime.batching import Rows, as_list, by_length, encode
from reft_interp.runtime.frozen import FrozenRow
from reft_interp.runtime.intervened import IntervenedModel
from reft_interp.runtime.placement import Edit
from reft_interp.runtime.planning import Engine, Plan, agrees, freeze_batch, plan

Held = list[Float[Tensor, "k d"] | None]
"""For each placement, what the source of one row holds at its k tokens."""
Item = tuple[Mapping[str, Any], Held, FrozenRow | None]
"""A row, what its sources hold, and its frozen constants where it is replayed."""


class PreparedRows:
    """Rows with `prompt` and `answer`, their recorded sources and frozen constants.

    Args:
        intervened: decides which sources are recorded, and where.
        rows: what is trained on or scored.
        sources: for each row the prompt that is read, where an intervention needs it.
        batch_size: rows recorded at once.
        engine: "auto" runs only what the edits can change, where that is possible and
            saves something; "full" forces the plain run. `plan` says what was decided.
        memory_budget: bytes that frozen constants may take; a share of the free memory by
            default.

    Raises:
        ValueError: a row has no answer; sources are missing, superfluous or not aligned; a
            position selector finds nothing on a row. All rows are checked before any step.
    """

    def __init__(
        self,
        intervened: IntervenedModel,
        rows: Rows,
        sources: Rows | None = None,
        *,
        batch_size: int = 64,
        engine: Engine = "auto",
        memory_budget: int | None = None,
    ):
        self.model = intervened.model
        self.rows = as_list(rows)
        self.held: list[Held] = [[None] * len(intervened.placements) for _ in self.rows]
        read = None if sources is None else as_list(sources, "sources")
        if read is not None and len(read) != len(self.rows):
            raise ValueError(f"sources: {len(read)} for {len(self.rows)} rows; one each is needed")
        self.sources = read
        self.frozen: list[FrozenRow | None] = [None] * len(self.rows)
        groups = list(by_length(self.rows, batch_size))
        batches, edits = [], []
        for group in groups:
            some = [self.rows[i] for i in group]
            batch = encode(intervened.model, some, answers=True)
            asked = None if read is None else [read[i] for i in group]
            batches.append(batch)
            edits.append(intervened.edits(batch, intervened.read_sources(batch, asked)))
        self.plan = plan(intervened.model, batches, edits, engine=engine, budget=memory_budget)
        for group, batch, some in zip(groups, batches, edits, strict=True):
            self._keep_sources(group, batch, some)
        if self.plan.replays:
            self._freeze(intervened, groups, batches, edits)

    def _keep_sources(
        self, group: Sequence[int], batch: TokenizedBatch, edits: Sequence[Edit]
    ) -> None:
        for j, edit in enumerate(edits):
            if edit.source is None:
                continue
            parts = edit.source.split(edit.positions.counts(batch).tolist())
            for i, part in zip(group, parts, strict=True):
                self.held[i][j] = part

    def _freeze(
        self,
        intervened: IntervenedModel,
        groups: Sequence[Sequence[int]],
        batches: Sequence[TokenizedBatch],
        edits: Sequence[Sequence[Edit]],
    ) -> None:
        model = intervened.model
        for n, (group, batch, some) in enumerate(zip(groups, batches, edits, strict=True)):
            frozen = freeze_batch(model, batch, some)
            if n == 0 and not _agrees_without_dropout(intervened, batch, some, frozen):
                self.plan = Plan(False, "a replay did not give what the plain run gives")
                warn(f"{self.plan.reason}; running in full, which is slower", stacklevel=4)
                return
            for i, row in zip(group, frozen, strict=True):
                self.frozen[i] = row

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        return self.rows[index], self.held[index], self.frozen[index]

    def collate(self, items: Sequence[Item]) -> dict[str, Any]:
        """A batch of items, as `IntervenedModel.forward` takes it."""
        rows, held, frozen = zip(*items, strict=True)
        batch = encode(self.model, list(rows), answers=True)
        sources = [
            None if parts[0] is None else torch.cat([part for part in parts if part is not None])
            for parts in zip(*held, strict=True)
        ]
        return {
            "batch": batch,
            # Rows without sources serve any number of edits where they were prepared.
            "sources": sources if any(part is not None for part in sources) else None,
            "frozen": None if None in frozen else list(frozen),
            "labels": batch.labels,
        }


def _agrees_without_dropout(
    intervened: IntervenedModel,
    batch: TokenizedBatch,
    edits: Sequence[Edit],
    frozen: Sequence[FrozenRow],
) -> bool:
    training = intervened.training
    try:
        intervened.eval()
        return agrees(intervened.model, batch, edits, frozen)
    finally:
        intervened.train(training)
