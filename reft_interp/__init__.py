"""Interpretability with distributed interchange interventions on hooked models."""

from difflib import get_close_matches
from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # it takes longer than all else here

        return version("reft-interp")
    try:
        return _load(name)
    except AttributeError as error:
        # What is there but can't be imported has an error of its own.
        if name in __all__ or name.startswith("__"):
            raise
        lower = {known.lower(): known for known in __all__}
        close = get_close_matches(name.lower(), lower, 1)
        meant = f"; did you mean {lower[close[0]]!r}?" if close else ""
        raise AttributeError(f"reft_interp has no {name!r}{meant}", name=name) from error
