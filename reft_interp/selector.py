"""What a position selector is, and what it gives: the edited tokens of a batch.

Below: `encoding`, which says where each prompt and answer lies among the padding, and which
characters each token stands for. The selectors themselves are in `positions`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reft_interp.encoding import Offsets, TokenizedBatch

Part = Literal["prompt", "answer"]


# Tensors have no single truth value, so two of these are equal only if they are the same one.
@dataclass(frozen=True, eq=False)
class Positions:
    """The edited tokens of a batch, row by row, left to right, none twice."""

    rows: Int[Tensor, "n"]
    columns: Int[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self, batch: TokenizedBatch) -> Int[Tensor, "batch"]:
        """How many tokens of each row are edited."""
        return torch.bincount(self.rows, minlength=len(batch))

    def mask(self, batch: TokenizedBatch) -> Bool[Tensor, "batch pos"]:
        """True on the edited tokens."""
        mask = torch.zeros_like(batch.input_ids, dtype=torch.bool)
        mask[self.rows, self.columns] = True
        return mask

    @classmethod
    def of(
        cls, columns: Sequence[Sequence[int]], *, device: torch.device | str | int | None = None
    ) -> "Positions":
        """From the columns of each row."""
        rows = [row for row, of_row in enumerate(columns) for _ in of_row]
        flat = [column for of_row in columns for column in of_row]
        return cls._on(device, rows, flat)

    @classmethod
    def _on(
        cls, device: torch.device | str | int | None, rows: list[int], columns: list[int]
    ) -> "Positions":
        # Of none at all, torch would make floating-point numbers.
        return cls(*(torch.tensor(x, dtype=torch.long, device=device) for x in (rows, columns)))

    def split(self, rows: int) -> "list[Tensor]":
        """The columns of each of so many rows."""
        return list(self.columns.split(torch.bincount(self.rows, minlength=rows).tolist()))

    def read(self, activation: Float[Tensor, "batch pos *inner"]) -> Float[Tensor, "n *inner"]:
        """What an activation holds at the edited tokens, on the device of the positions: a model
        may be spread over several devices, and an activation is on that of its layer."""
        there = self.to(activation.device)
        return activation[there.rows, there.columns].to(self.rows.device)

    def to(self, device: torch.device | str | int) -> "Positions":
        """The same positions with their tensors on `device`."""
        return Positions(self.rows.to(device), self.columns.to(device))


def check_alignment(
    on: "PositionSelector",
    base: Positions,
    source: Positions,
    base_batch: TokenizedBatch,
    source_batch: TokenizedBatch,
) -> None:
    """Check that base and source edit equally many tokens of each row, and the same ones.

    Args:
        on: what selected them.
        base: what it selects in the base.
        source: what it selects in the source.
        base_batch: the bases.
        source_batch: the sources.

    Raises:
        ValueError: in some row they don't, the batches differ in length, or tokens are counted from
            the start of prompts of different lengths, so that one number may mean two things.
    """
    if len(base_batch) != len(source_batch):
        raise ValueError(f"{len(base_batch)} base rows, but {len(source_batch)} source rows")
    pairs = zip(base.counts(base_batch).tolist(), source.counts(source_batch).tolist(), strict=True)
    for number, (in_base, in_source) in enumerate(pairs):
        if in_base != in_source:
            rows = [list(_parts(batch, "prompt"))[number] for batch in (base_batch, source_batch)]
            raise ValueError(
                f"row {number}: {in_base} tokens of the base are edited and {in_source} of the "
                "source, but they are swapped one for one.\n"
                f"  base: {rows[0]}\n  source: {rows[1]}\n"
                "Spans of different lengths align at their last tokens: leave out `all`."
            )
    if not on.counts_from_start:
        return
    for ours, theirs in zip(_parts(base_batch, on.of), _parts(source_batch, on.of), strict=True):
        if len(ours) != len(theirs):
            raise ValueError(
                f"on: {str(on)!r} counts tokens from the start, but in row {ours.number} the base "
                f"has {len(ours)} of them and the source {len(theirs)}, so that the same number "
                f"may mean another word.\n  base: {ours}\n  source: {theirs}\n"
                "Name a span or a substring, or count from the end (-1 is the last token)."
            )


@dataclass(frozen=True)
class Row:
    """The prompt of one row, or its answer, as a selector sees it: without padding."""

    number: int
    part: Part
    text: str
    offsets: Offsets
    spans: Mapping[str, tuple[int, int]]
    edits: frozenset[str] | None = None
    """The named edits that the row asks for; None where it does not say."""

    def __len__(self) -> int:
        return len(self.offsets)

    def __str__(self) -> str:
        text = self.text if len(self.text) <= 400 else f"{self.text[:200]} … {self.text[-200:]}"
        tokens = "1 token" if len(self) == 1 else f"{len(self)} tokens"
        return f"the {self.part} of row {self.number} ({tokens}): {text!r}"

    def overlapping(self, start: int, end: int, *, all: bool) -> list[int]:
        """The tokens that stand for any of the characters `[start, end)`, or the last of them."""
        first, last = self.offsets.T
        found = np.flatnonzero((first < last) & (first < end) & (start < last)).tolist()
        return found if all else found[-1:]


def _parts(batch: TokenizedBatch, part: Part) -> Iterator[Row]:
    answer = part == "answer"
    texts = batch.answers if answer else batch.prompts
    offsets = batch.answer_offsets if answer else batch.offsets
    for number, text in enumerate(texts):
        yield Row(number, part, text, offsets[number], batch.spans[number], batch.edits[number])


@dataclass(frozen=True)
class PositionSelector(ABC):
    """Selects tokens of each row of a batch: of its prompt, or of its answer.

    `str(selector)` is how it is saved: `parse_positions` reads it back. To add a selector,
    write its `pick` and `_head`; keyword-only fields follow the head by themselves.

    With `edit`, a name, it selects only in rows that ask for the edit of that name
    (`{"prompt": ..., "edits": ["formal"]}`), and nothing in the others.

    Raises:
        ValueError: `edit` is no name, or `of` neither "prompt" nor "answer".
    """

    of: Part = field(default="prompt", kw_only=True)
    edit: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.edit is not None and not re.fullmatch(r"[\w.-]+", self.edit):
            raise ValueError(
                "the name of an edit must be letters, digits, '_', '-' or '.', without blanks, "
                f"got {self.edit!r}"
            )
        if self.of not in ("prompt", "answer"):
            raise ValueError(f'of must be "prompt" or "answer", got {self.of!r}')

    @abstractmethod
    def pick(self, row: Row) -> Iterable[int]:
        """Tokens of `row`, counted from 0, in any order.

        Raises:
            ValueError: the row lacks what is selected; the message shows the row.
        """

    @property
    def counts_from_start(self) -> bool:
        """Whether it selects tokens past the first by their number from the start, which are the
        same words in two prompts only where these are of the same length."""
        return False

    @abstractmethod
    def _head(self) -> str: ...

    def _may_miss(self, row: Row) -> bool:
        """Whether selecting nothing in `row` is right, rather than a mistake."""
        return False

    def __str__(self) -> str:
        words = [self._head()]
        for option in (f for f in fields(self) if f.kw_only):
            value = getattr(self, option.name)
            if value != option.default:
                words.append(option.name if value is True else f"{option.name}={value}")
        return " ".join(words)

    def _asked_for(self, row: Row) -> bool:
        if self.edit is None:
            return True
        if row.edits is None:
            raise ValueError(
                f"{self}: row {row.number} does not say which edits it asks for: give it 'edits', "
                f"one name or a list of them ('edits': {self.edit!r}; [] for none)"
            )
        return self.edit in row.edits

    def __call__(self, batch: TokenizedBatch) -> Positions:
        """Select.

        Raises:
            ValueError: some row has no such token, or does not say which edits it asks for where
                this is for a named one.
        """
        starts = batch.prompt_end if self.of == "answer" else batch.prompt_start
        rows, columns = [], []
        for row, start in zip(_parts(batch, self.of), starts.tolist(), strict=True):
            if not self._asked_for(row):
                continue
            found = sorted(set(self.pick(row)))
            if not found and not self._may_miss(row):
                raise ValueError(f"{self} selects nothing in {row}")
            rows += [row.number] * len(found)
            columns += [start + i for i in found]
        return Positions._on(batch.input_ids.device, rows, columns)
