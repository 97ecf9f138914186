"""The type checks that run in the tests, off for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def without_type_checks() -> Iterator[None]:
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
