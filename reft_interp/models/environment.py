"""Whether this installation can be worked with: versions, devices, the model cache, one model.

Next door, `checking` looks at a single model.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from . import embedded
from .checking import ModelCheck, check
from .devices import available_devices
from .folder_cache import damage, size
from .loading import load_model
from .versions import WORKING, installed, library_versions


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found."""

    versions: dict[str, str]
    devices: tuple[str, ...]
    threads: int
    cache: Path
    """Folder of the embedded model."""
    cache_state: str
    """`ready`, or what is wrong with it, before the model was loaded."""
    cache_bytes: int
    """Size after the model was loaded."""
    embedded: str | None
    """Version of the package that carries the embedded model."""
    model: ModelCheck | None
    """What works on the embedded model."""
    problem: str | None
    """Why the embedded model could not be checked."""

    @property
    def ok(self) -> bool:
        """The embedded model loads, and everything works on it."""
        return self.model is not None and self.model.ok

    def _rows(self) -> list[tuple[str, str]]:
        return [
            *self.versions.items(),
            ("devices", ", ".join(self.devices)),
            ("threads", str(self.threads)),
            ("model cache", f"{self.cache} ({self.cache_bytes / 1e6:.0f} MB)"),
            ("cache state", self.cache_state),
            (embedded.PACKAGE, self.embedded or f"not installed: {embedded.INSTALL}"),
        ]

    def __str__(self) -> str:
        lines = [f"{name:<18}{value}" for name, value in self._rows()]
        lines += ["", str(self.model) if self.model else f"No model was checked: {self.problem}"]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """One row for each thing that was looked at; `.model.to_frame()` has the model."""
        return pd.DataFrame(self._rows(), columns=["what", "found"])

    def _repr_html_(self) -> str:
        # The model's own table, where there is one, says more than its text would.
        model = self.model._repr_html_() if self.model else f"<p>{self.problem}</p>"
        return self.to_frame().to_html(index=False) + model


def doctor() -> Diagnosis:
    """Look at this installation, and check the embedded model if it is there.

    Where that model has not been used before, it is de-quantized now (half a minute). Nothing is
    raised for what is broken: the result says it.
    """
    hf, lens = library_versions()
    version = installed(embedded.PACKAGE)
    model, problem, state = None, None, "not made yet"
    try:
        state = damage(embedded.embedded_file(), embedded.embedded_cache()) or "ready"
        model = check(load_model(embedded.NAME, device="cpu"))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        problem = str(error)
    return Diagnosis(
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": hf,
            "transformer-lens": f"{lens} (works with {WORKING})",
            "reft-interp": installed("reft-interp") or "not installed as a package",
        },
        devices=tuple(available_devices()),
        threads=torch.get_num_threads(),
        cache=embedded.embedded_cache(),
        cache_state=state,
        cache_bytes=size(embedded.embedded_cache()),
        embedded=version,
        model=model,
        problem=problem,
    )
