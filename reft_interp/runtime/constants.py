"""What a frozen model holds of prompts, computed once for all who train or score on them.

Two kinds: what sources hold where they are read, and the frozen rows below and before the edits.
Both are kept by content, so that cells of a sweep share them whatever their layers, positions,
seeds and labels are, and prompts that begin alike share the keys and values of what they share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.positions import Positions
from reft_interp.runtime.batching import run_what_fits
from reft_interp.runtime.frozen import (
    FrozenRow,
    Region,
    SharedPrefix,
    freeze,
    freeze_prefix,
    frozen_bytes,
)
from reft_interp.runtime.regions import end_columns, first_block, first_columns
from reft_interp.runtime.sources import EditedSource, record_source
from reft_interp.sites import Site

Tokens = tuple[int, ...]
Run = tuple[Tokens, tuple[int, int] | None]
# A shared beginning that is shorter than this is not worth a run of its own.
_LEAST_SHARED = 16


@dataclass(frozen=True, eq=False)
class RegionsOfRows:
    """Where the changed region of each row of a batch lies."""

    batch: TokenizedBatch
    layer: int
    starts: Int[Tensor, "batch"]
    """Column where it begins."""
    ends: Int[Tensor, "batch"]
    """One past the last column that runs."""
    tokens: list[Tokens] = field(init=False, repr=False)
    """For each row the tokens up to its end: what its constants depend on."""
    offsets: list[int] = field(init=False, repr=False)
    """Where it begins, counted from the row's own first token."""

    def __post_init__(self) -> None:
        ids = self.batch.input_ids.tolist()
        bounds = zip(self.batch.prompt_start.tolist(), self.ends.tolist(), strict=True)
        tokens = [tuple(row[a:b]) for row, (a, b) in zip(ids, bounds, strict=True)]
        object.__setattr__(self, "tokens", tokens)
        offsets = (self.starts - self.batch.prompt_start).tolist()
        object.__setattr__(self, "offsets", offsets)


def regions_of(
    model: TransformerBridge,
    sites: Sequence[Site],
    positions: Sequence[Positions],
    batch: TokenizedBatch,
) -> RegionsOfRows:
    """Where each row's region lies, for edits at sites and on the given positions of a batch."""
    return RegionsOfRows(
        batch,
        min(first_block(site, model.cfg.n_layers) for site in sites),
        first_columns(positions, batch),
        end_columns(positions, batch),
    )


class FrozenRows:
    """Frozen rows of all regions that are asked for, each row once, while memory is granted.

    Args:
        model: a decoder that can be replayed.
        wanted: the regions.
        budget: bytes that are granted. Rows past it are frozen again for each batch that
            needs them.
    """

    def __init__(self, model: TransformerBridge, wanted: Sequence[RegionsOfRows], budget: int):
        self._model = model
        self._wanted = list(wanted)
        self._rows: dict[Tokens, FrozenRow] = {}
        self.layers = sorted({regions.layer for regions in wanted})
        # Of each row, counted from its own first token: where its first and its last region
        # begin.
        self._starts: dict[Tokens, tuple[int, int]] = {}
        for regions in wanted:
            for tokens, start in zip(regions.tokens, regions.offsets, strict=True):
                first, last = self._starts.get(tokens, (start, start))
                self._starts[tokens] = min(first, start), max(last, start)
        self._shared_length = self._count_shared()
        self._shared: SharedPrefix | None = None
        self._kept = self._within(budget)

    @cached_property
    def nbytes(self) -> int:
        """Bytes that all rows need."""
        return sum(map(self._bytes, self._starts)) + self._shared_bytes()

    @cached_property
    def kept_bytes(self) -> int:
        """Bytes of the rows that are kept, and of what all rows share."""
        return sum(map(self._bytes, self._kept)) + self._shared_bytes()

    @property
    def shared_tokens(self) -> int:
        """Tokens that all rows begin with, and whose keys and values are kept once."""
        return self._shared_length

    @property
    def kept(self) -> int:
        """Rows that are kept; the others are frozen again for each batch."""
        return len(self._kept)

    def __len__(self) -> int:
        return len(self._starts)

    def fill(self, *, batch_size: int = 64, progress: bool = False) -> None:
        """Freeze the rows that are kept, fewer at once where memory does not hold so many.

        Raises:
            torch.OutOfMemoryError: memory does not hold one.
        """
        seen: set[Tokens] = set(self._rows)
        for regions in self._wanted:
            new = []
            for i, tokens in enumerate(regions.tokens):
                if tokens in self._kept and tokens not in seen:
                    seen.add(tokens)
                    new.append(i)
            new.sort(key=lambda i: len(regions.tokens[i]))
            run_what_fits(
                self._model,
                new,
                batch_size,
                partial(self._freeze_rows, regions),
                description="freezing",
                progress=progress,
            )

    def _freeze_rows(self, regions: RegionsOfRows, group: Sequence[int]) -> None:
        batch = regions.batch.take(group)
        tokens = [regions.tokens[i] for i in group]
        starts = [self._starts[row] for row in tokens]
        first, last = torch.tensor(starts, device=batch.prompt_start.device).T
        rows = self._freeze(batch, tokens, self.layers, first, last)
        self._rows.update(zip(tokens, rows, strict=True))

    def regions(self, regions: RegionsOfRows, rows: Sequence[int]) -> list[Region]:
        """The constants of some rows of what was asked for."""
        chosen = [regions.tokens[i] for i in rows]
        starts = [regions.offsets[i] for i in rows]
        missing = [n for n, tokens in enumerate(chosen) if tokens not in self._rows]
        again: dict[int, FrozenRow] = {}
        if missing:
            batch = regions.batch.take([rows[n] for n in missing])
            begin = batch.prompt_start.new_tensor([starts[n] for n in missing])
            frozen = self._freeze(
                batch, [chosen[n] for n in missing], [regions.layer], begin, begin
            )
            again = dict(zip(missing, frozen, strict=True))
        return [
            (again[n] if n in again else self._rows[tokens]).region(regions.layer, start)
            for n, (tokens, start) in enumerate(zip(chosen, starts, strict=True))
        ]

    def _freeze(
        self,
        batch: TokenizedBatch,
        tokens: Sequence[Tokens],
        layers: Sequence[int],
        first: Int[Tensor, "batch"],
        last: Int[Tensor, "batch"],
    ) -> list[FrozenRow]:
        if self._shared_length and self._shared is None:
            shared = batch.input_ids.new_tensor(tokens[0][: self._shared_length])
            self._shared = freeze_prefix(self._model, shared)
        lengths = torch.tensor([len(row) for row in tokens], device=first.device)
        begin = batch.prompt_start
        starts = (begin + first, begin + last)
        return freeze(self._model, batch, layers, starts, begin + lengths, self._shared)

    def _count_shared(self) -> int:
        rows = list(self._starts)
        most = min(first for first, _ in self._starts.values())
        padded = any(int(r.batch.prompt_start.max()) > 0 for r in self._wanted)
        if len(rows) < 2 or most < _LEAST_SHARED or padded:
            return 0
        low, high = min(rows), max(rows)  # what these two share, all share
        shared = next(
            (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b),
            min(len(low), len(high)),
        )
        shared = min(shared, most)
        return shared if shared >= _LEAST_SHARED else 0

    def _within(self, budget: int) -> set[Tokens]:
        kept: set[Tokens] = set()
        left = budget - self._shared_bytes()
        for tokens in self._starts:
            left -= self._bytes(tokens)
            if left < 0:
                break
            kept.add(tokens)
        return kept

    def _bytes(self, tokens: Tokens) -> int:
        first, last = self._starts[tokens]
        prefix = last - self._shared_length
        return frozen_bytes(self._model, self.layers, prefix, len(tokens) - first)

    def _shared_bytes(self) -> int:
        return frozen_bytes(self._model, [0], self._shared_length, 0)


@dataclass(frozen=True, eq=False)
class SourceReads:
    """Where the sources of some rows are read."""

    batch: TokenizedBatch
    sites: tuple[Site, ...]
    positions: tuple[Positions, ...]
    edited: EditedSource | None = None
    """By what the prompts are edited themselves, where they are."""

    @cached_property
    def runs(self) -> list[Run]:
        """Of each prompt what its run depends on: its tokens, and its own edits if it has any."""
        ids = self.batch.input_ids.tolist()
        bounds = zip(self.batch.prompt_start.tolist(), self.batch.answer_end.tolist(), strict=True)
        prompts = [tuple(row[a:b]) for row, (a, b) in zip(ids, bounds, strict=True)]
        if self.edited is None:
            return [(tokens, None) for tokens in prompts]
        return [(tokens, (id(self.edited), i)) for i, tokens in enumerate(prompts)]


class RecordedSources:
    """What sources hold where they are read: each prompt, padded on the right, runs once for all
    sites; one that is edited, once for all sites at which that row is read."""

    def __init__(self) -> None:
        self._held: dict[Any, Float[Tensor, "k d"]] = {}

    def record(
        self,
        model: TransformerBridge,
        wanted: Sequence[SourceReads],
        *,
        batch_size: int = 64,
        progress: bool = False,
    ) -> None:
        """Run what has not been run, each prompt up to its highest site; fewer at once where
        memory does not hold so many.

        Raises:
            torch.OutOfMemoryError: memory does not hold one.
        """
        for first in {(id(reads.batch), id(reads.edited)): reads for reads in wanted}.values():
            here = [r for r in wanted if r.batch is first.batch and r.edited is first.edited]
            asked: dict[Any, tuple[Site, list[Tensor]]] = {}
            for reads in here:
                for site, positions in zip(reads.sites, reads.positions, strict=True):
                    asked[site, id(positions)] = site, positions.split(len(first.batch))
            new: dict[Any, int] = {}
            for i, run in enumerate(first.runs):
                keys = [self._key(site, run, columns[i]) for site, columns in asked.values()]
                if any(key not in self._held for key in keys):
                    new.setdefault((run, tuple(keys)), i)
            order = sorted(new.values(), key=lambda i: len(first.runs[i][0]))
            run_what_fits(
                model,
                order,
                batch_size,
                partial(self._run, model, first, list(asked.values())),
                description="sources",
                progress=progress,
            )

    def _run(
        self,
        model: TransformerBridge,
        reads: SourceReads,
        asked: Sequence[tuple[Site, list[Tensor]]],
        group: Sequence[int],
    ) -> None:
        some = reads.batch.take(group)
        at = []
        for site, columns in asked:
            chosen = [columns[i] for i in group]
            counts = torch.tensor([len(c) for c in chosen], device=some.input_ids.device)
            rows = torch.arange(len(group), device=counts.device).repeat_interleave(counts)
            at.append((site, Positions(rows, torch.cat(chosen))))
        for (site, columns), (_, positions), held in zip(
            asked, at, record_source(model, some, at, reads.edited, group), strict=True
        ):
            for i, part in zip(group, held.split(positions.counts(some).tolist()), strict=True):
                self._held[self._key(site, reads.runs[i], columns[i])] = part.clone()

    @property
    def nbytes(self) -> int:
        """Memory of what was recorded."""
        return sum(held.nbytes for held in self._held.values())

    def of(self, reads: SourceReads) -> list[list[Float[Tensor, "k d"]]]:
        """For each site that is read, what the source of each row holds."""
        return [
            [
                self._held[self._key(site, run, columns)]
                for run, columns in zip(reads.runs, positions.split(len(reads.runs)), strict=True)
            ]
            for site, positions in zip(reads.sites, reads.positions, strict=True)
        ]

    @staticmethod
    def _key(site: Site, run: Run, columns: Tensor) -> Any:
        return site, run, tuple(columns.tolist())
