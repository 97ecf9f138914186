"""Silence for the libraries that load a model: what they print and warn goes to our logger.

It is all there at level debug: `logging.getLogger("reft_interp").setLevel("DEBUG")`.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from transformers.utils import logging as transformers_logging

logger = logging.getLogger(__name__)

# These put a handler of their own on stderr, or leave theirs to logging's last resort.
_LIBRARIES = ("transformers", "huggingface_hub", "transformer_lens")


@contextmanager
def quiet() -> Iterator[None]:
    """Log at level debug what other libraries print, warn, log or draw as progress bars."""
    printed = StringIO()
    caught: list[warnings.WarningMessage] = []
    try:
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(printed))
            stack.enter_context(redirect_stderr(printed))
            caught = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            stack.enter_context(_no_progress_bars())
            stack.enter_context(_root_handler())
            for name in _LIBRARIES:
                stack.enter_context(_forwarded(logging.getLogger(name)))
            yield
    finally:
        for line in filter(None, map(str.strip, printed.getvalue().splitlines())):
            logger.debug("%s", line)
        for warning in caught:
            logger.debug("%s: %s", warning.category.__name__, warning.message)


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s: %s", record.name, record.getMessage())


@contextmanager
def _forwarded(library: logging.Logger) -> Iterator[None]:
    handlers, propagate = library.handlers, library.propagate
    library.handlers, library.propagate = [_Forward()], False
    try:
        yield
    finally:
        library.handlers, library.propagate = handlers, propagate


@contextmanager
def _root_handler() -> Iterator[None]:
    # `logging.warning` on a root logger without handlers calls `basicConfig`, which would leave
    # one there for good, writing to the stream that stands in for stderr now.
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    # In a notebook bars are widgets, which no redirection of stderr would stop.
    were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            transformers_logging.enable_progress_bar()
