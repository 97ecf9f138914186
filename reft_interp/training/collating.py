"""What training asks of a model and of its prepared rows, before the first step."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import Dataset

from reft_interp.runtime import IntervenedModel


@runtime_checkable
class Prepared(Protocol):
    """Rows that were prepared together, and make batches of their numbers."""

    def __len__(self) -> int: ...

    def inputs(self, rows: Sequence[int]) -> dict[str, Any]:
        """Some of the rows, in that order."""
        ...


Item = tuple[Prepared, int]
"""A row by its number."""


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


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """A batch of rows that were prepared together."""
    return items[0][0].inputs([index for _, index in items])
