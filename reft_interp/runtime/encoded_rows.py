"""Rows that were tokenized, and tokens that were selected in them, once for all who ask.

Above: `prepared` records and freezes what is constant about them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.continuing import continuation_tokens
from reft_interp.encoding import TokenizedBatch
from reft_interp.positions import Positions, PositionSelector, check_alignment
from reft_interp.runtime.batching import (
    Rows,
    as_list,
    beside_answers,
    choices_of,
    encode,
    warn_of_glued_answers,
)
from reft_interp.runtime.constants import SourceReads
from reft_interp.runtime.placement import Placement
from reft_interp.runtime.sources import EditedSource, Sources, named_sources, prompts_of, readers_of


class EncodedRows:
    """Rows that were tokenized, and tokens that were selected, once for all who ask for them."""

    def __init__(self, model: TransformerBridge, max_length: int | None = None):
        self.model = model
        self._max_length = max_length
        # The rows are kept beside what was made of them, so that no others take their id.
        self._lists: dict[int, tuple[Rows, list[Mapping[str, Any]]]] = {}
        self._batches: dict[tuple[int, bool], tuple[Rows, TokenizedBatch]] = {}
        # The bases are kept, too, so that no others take their id.
        self._beside: dict[tuple[int, int], tuple[TokenizedBatch, TokenizedBatch]] = {}
        self._choices: dict[int, Int[Tensor, "n k"]] = {}
        self._positions: dict[tuple[PositionSelector, int, bool], Positions] = {}

    def listed(self, rows: Rows, argument: str = "rows") -> list[Mapping[str, Any]]:
        if id(rows) not in self._lists:
            self._lists[id(rows)] = rows, as_list(rows, argument)
        return self._lists[id(rows)][1]

    def batch(self, rows: Rows, *, answers: bool) -> TokenizedBatch:
        key = id(rows), answers
        if key not in self._batches:
            batch = encode(self.model, rows, answers=answers, max_length=self._max_length)
            self._batches[key] = rows, batch
            if answers:
                warn_of_glued_answers(self.listed(rows))
        return self._batches[key][1]

    def beside(self, sources: Rows, bases: TokenizedBatch) -> TokenizedBatch:
        """Sources as they are read beside their bases (see `beside_answers`): one batch, however
        many sites read them, so that they run once for all."""
        key = id(sources), id(bases)
        if key not in self._beside:
            read = beside_answers(self.model, self.batch(sources, answers=False), bases)
            self._beside[key] = bases, read
        return self._beside[key][1]

    def choices(self, rows: Rows) -> Int[Tensor, "n k"]:
        if id(rows) not in self._choices:
            self._choices[id(rows)] = _choices(
                self.model, self.batch(rows, answers=True), self.listed(rows)
            )
        return self._choices[id(rows)]

    def positions(self, on: PositionSelector, rows: Rows, answers: bool) -> Positions:
        key = on, id(rows), answers
        if key not in self._positions:
            self._positions[key] = on(self.batch(rows, answers=answers))
        return self._positions[key]


def _choices(
    model: TransformerBridge, batch: TokenizedBatch, rows: Sequence[Mapping[str, Any]]
) -> Int[Tensor, "n k"]:
    ids = [
        continuation_tokens(model.tokenizer, choices_of(row, f"rows: row {i}"))[0]
        for i, row in enumerate(rows)
    ]
    wanted = len(ids[0])
    for i, (row, of_row) in enumerate(zip(rows, ids, strict=True)):
        if len(of_row) != wanted or not of_row or any(len(tokens) != 1 for tokens in of_row):
            raise ValueError(
                f'over="choices": row {i} must have choices of one token each, as many as row 0, '
                f"got {row.get('choices')!r}"
            )
        if row["answer"] not in row["choices"]:
            raise ValueError(
                f"rows: row {i} has the answer {row['answer']!r}, which is not among its choices "
                f"{row['choices']!r}"
            )
    flat = [[tokens[0] for tokens in of_row] for of_row in ids]
    return torch.tensor(flat, device=batch.input_ids.device)


def source_reads(
    placements: Sequence[Placement],
    encoded: EncodedRows,
    batch: TokenizedBatch,
    selected: Callable[[PositionSelector], Positions],
    sources: Sources | None,
) -> list[tuple[SourceReads, list[int]]]:
    """Of each source that is read where, and the placements that read it.

    Args:
        placements: those that read, among others.
        encoded: what is known of the sources' prompts.
        batch: the bases.
        selected: what a selector finds in the bases.
        sources: for each base the prompt that is read.

    Raises:
        ValueError: sources are missing, superfluous, of another number, or not aligned.
    """
    found = []
    for name, source in named_sources(placements, len(batch), sources).items():
        of_source = encoded.beside(prompts_of(source), batch)
        readers = readers_of(placements, name)
        positions = []
        for placement in (placements[i] for i in readers):
            at = encoded.positions(placement.on, prompts_of(source), False)
            check_alignment(placement.on, selected(placement.on), at, batch, of_source)
            positions.append(at)
        edited = source if isinstance(source, EditedSource) else None
        sites = tuple(placements[i].site for i in readers)
        found.append((SourceReads(of_source, sites, tuple(positions), edited), readers))
    return found
