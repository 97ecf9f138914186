"""Rows that pass by: trained on without ever being held, so without constants.

Each batch is tokenized when its turn comes, and runs in full. A stream that ends is read again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainingArguments

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import encode
from reft_interp.runtime.placement import select
from reft_interp.runtime.planning import Plan


class StreamedRows(IterableDataset):
    """A stream of rows as a torch dataset.

    Args:
        intervened: what is trained on them.
        rows: with `prompt` and `answer`, as `datasets.load_dataset(..., streaming=True)` gives
            them; they come in the stream's own order (`rows.shuffle(buffer_size=...)`).

    Raises:
        ValueError: an intervention that needs a source.
    """

    def __init__(self, intervened: IntervenedModel, rows: datasets.IterableDataset):
        if intervened.needs_source:
            raise ValueError(
                "rows: an intervention here needs a source for each row, and a stream has none. "
                "Give rows that are held (list(rows.take(1000))) and their sources, as PreparedRows"
            )
        self.plan = Plan(False, "rows of a stream pass by once")
        self._intervened = intervened
        self._rows = rows

    def __iter__(self) -> "Iterator[tuple[StreamedBatch, int]]":
        for number, row in enumerate(self._rows):
            yield StreamedBatch(self._intervened, {number: row}), number

    def set_epoch(self, epoch: int) -> None:
        """Shuffles the buffer of a shuffled stream in another way."""
        self._rows.set_epoch(epoch)


class StreamedBatch:
    """Some rows of a stream, by their numbers.

    Args:
        intervened: what is trained on them.
        rows: the rows.
    """

    def __init__(self, intervened: IntervenedModel, rows: Mapping[int, Any]):
        self._intervened = intervened
        self._rows = dict(rows)

    def joined(self, others: "Sequence[StreamedBatch]") -> "StreamedBatch":
        """These and other rows of the same stream together."""
        rows = dict(self._rows)
        for other in others:
            rows.update(other._rows)
        return StreamedBatch(self._intervened, rows)

    def region_length(self, rows: Sequence[int]) -> int:
        """Tokens that run of the longest of some rows."""
        batch = self.inputs(rows)["batch"]
        return int((batch.answer_end - batch.prompt_start).max())

    def inputs(self, rows: Sequence[int]) -> dict[str, Any]:
        """Some of the rows, in that order, as `IntervenedModel.forward` takes them.

        Raises:
            ValueError: a row lacks what is needed (the message gives its number in the stream).
        """
        chosen = [self._rows[number] for number in rows]
        try:
            batch = encode(self._intervened.model, chosen, answers=True)
            positions = select(self._intervened.placements, batch)
        except (TypeError, ValueError) as error:
            for number in rows if len(rows) > 1 else ():  # which one it is
                self.inputs([number])
            raise ValueError(f"row {rows[0]} of the stream, as a batch of one: {error}") from error
        return {
            "batch": batch,
            "positions": positions,
            "sources": None,
            "frozen": None,
            "choices": None,
            "labels": batch.labels,
        }


class StreamPosition(TrainerCallback):
    """Counts how far a training has read its stream: transformers' Trainer only knows the steps,
    of which a stream that has no length does not say how many make a pass."""

    def __init__(self):
        self.passes = 0
        """Passes over the stream that are done."""
        self.steps = 0
        """Steps since."""

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def on_epoch_end(self, args, state, control, **kwargs):
        if not control.should_training_stop:  # otherwise the pass may have more
            self.passes, self.steps = self.passes + 1, 0

    def to_notes(self) -> dict[str, int]:
        """What a checkpoint says of it."""
        return {"passes": self.passes, "steps": self.steps}

    def go_on_from(self, notes: Mapping[str, int]) -> None:
        """Count on from what a checkpoint says."""
        self.passes, self.steps = notes["passes"], notes["steps"]


def check_stream(args: TrainingArguments) -> None:
    """Raise where a training on a stream could not run as it should; settle how it is read.

    Raises:
        ValueError: no `max_steps`; several processes.
    """
    if args.max_steps <= 0:
        raise ValueError("max_steps must be given: rows are a stream, which has no known end")
    if args.world_size > 1:
        raise ValueError(
            "rows are a stream, which several processes cannot share evenly: give rows that are "
            "held (list(rows.take(1000))), or train in one process"
        )
    # Otherwise accelerate cuts batches apart, which it can only do with tensors.
    args.accelerator_config.dispatch_batches = False  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
