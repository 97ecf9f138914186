"""Random numbers by a seed, for where something begins."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, what is drawn is drawn by the seed, and changes nothing that is drawn later."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
