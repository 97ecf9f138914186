"""Modules that run another forward for a while, their weights and hooks untouched."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def shadowed(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within it, modules of a bridge run these in place of their class's forward.

    Args:
        forwards: what each module runs; none of them has a forward of its own.
    """
    try:
        for module, forward in forwards.items():
            # Setting an attribute on a bridge would pass it on to the wrapped module.
            object.__setattr__(module, "forward", forward)
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)
