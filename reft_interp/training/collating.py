"""What training asks of a model and of its prepared rows, before the first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset

from reft_interp.encoding import IGNORED
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.training.streaming import StreamedBatch


@runtime_checkable
class Prepared(Protocol):
    """Rows that were prepared together, and make batches of their numbers."""

    def __len__(self) -> int: ...

    def inputs(self, rows: Sequence[int]) -> dict[str, Any]:
        """Some of the rows, in that order."""
        ...


Item = tuple[Prepared, int] | tuple[PreparedRows, int] | tuple[StreamedBatch, int]
"""A row by its number."""

NO_ROW = -1
"""The number of a place in a batch that holds no row, where rows do not divide evenly."""


def check_trainable(intervened: IntervenedModel) -> None:
    """Raise unless there is something to train.

    Raises:
        ValueError: no intervention has trainable parameters.
    """
    if not intervened.trained_parameters:
        raise ValueError(
            "nothing to train: no intervention here has trainable parameters "
            "(DistributedInterchange needs trainable=True)"
        )


def check_precision(asked: str, device: torch.device | None = None) -> None:
    """Raise where a training would run in mixed precision.

    Args:
        asked: what accelerate calls it, as "bf16"; "no" for none.
        device: of the training, where `torch.autocast` may be on all the same.

    Raises:
        ValueError: either is so.
    """
    if asked == "no":
        if device is None or not torch.is_autocast_enabled(device.type):
            return
        asked = "torch.autocast"
    raise ValueError(
        f"{asked}: mixed precision would compute what is trained in it too, whose directions need "
        'float32. Load the model in it (load_model(..., dtype="bfloat16")); what is trained stays '
        "in float32"
    )


class RowsDataset(Dataset):
    """Prepared rows as a torch dataset.

    Args:
        prepared: the rows, with their constants.
    """

    def __init__(self, prepared: Prepared):
        self.prepared = prepared

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, index: int) -> Item:
        return self.prepared, index


@dataclass(frozen=True, eq=False)
class RowsOfBatch:
    """Which rows a batch holds, for whoever has to name them or to run them again."""

    prepared: Prepared | PreparedRows | StreamedBatch
    numbers: list[int]


def collate_rows(items: Sequence[tuple[Prepared, int]]) -> dict[str, Any]:
    """A batch of rows that were prepared together, and which they are under "rows"."""
    prepared = items[0][0]
    rows = [index for _, index in items if index != NO_ROW]
    inputs = prepared.inputs(rows) if rows else _without_labels(prepared.inputs([0]))
    return {**inputs, "rows": RowsOfBatch(prepared, rows)}


def collate(
    items: Sequence[tuple[PreparedRows, int] | tuple[StreamedBatch, int]],
) -> dict[str, Any]:
    """A batch of rows that were prepared together, and which they are under "rows"."""
    prepared = items[0][0]
    if isinstance(prepared, StreamedBatch):
        prepared = prepared.joined(
            [of_row for of_row, _ in items if isinstance(of_row, StreamedBatch)]
        )
    rows = [index for _, index in items if index != NO_ROW]
    inputs = prepared.inputs(rows) if rows else _without_answers(prepared.inputs([0]))
    return {**inputs, "rows": RowsOfBatch(prepared, rows)}


def without_rows(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch like another that holds no row, and whose loss is 0."""
    rows = batch["rows"]
    return {**_without_answers(dict(batch)), "rows": RowsOfBatch(rows.prepared, [])}


def _without_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    """A batch that runs, but whose loss is 0: all processes take all steps."""
    return {**inputs, "labels": torch.full_like(inputs["labels"], IGNORED)}


def _without_answers(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same of rows with answers, which the batch holds too."""
    inputs = _without_labels(inputs)
    choices = inputs["choices"]
    return {
        **inputs,
        "batch": replace(inputs["batch"], labels=inputs["labels"]),
        "choices": None if choices is None else choices[:0],
    }
