"""Prepared rows as the Trainer takes them."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from reft_interp.runtime.prepared import Item, PreparedRows


class RowsDataset(Dataset):
    """Prepared rows as a torch dataset.

    Args:
        prepared: the rows, with their constants.
    """

    def __init__(self, prepared: PreparedRows):
        self.prepared = prepared

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, index: int) -> Item:
        return self.prepared[index]


class Collator:
    """Makes a batch of items.

    Args:
        prepared: the rows that the items are of.
    """

    def __init__(self, prepared: PreparedRows):
        self.prepared = prepared

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        return self.prepared.collate(items)
