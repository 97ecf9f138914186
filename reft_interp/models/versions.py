"""Which versions of the libraries below us are installed, and which pairs are known to break.

A list is out of date the day after it is written, so `consistency` measures as well: the known
pairs are refused here before anything is computed, the unknown ones there.
"""

from importlib.metadata import PackageNotFoundError, version

import transformers
from packaging.version import Version

WORKING = "transformers>=5.9,<5.24 with transformer-lens>=4.3,<5"
"""The pair that these checks were written against, for error messages."""


class BrokenVersions(RuntimeError):
    """The installed transformers and transformer-lens don't work together."""


def installed(package: str) -> str | None:
    """The version of a distribution, None where it isn't installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def library_versions() -> tuple[str, str]:
    """The versions of transformers and transformer-lens that are in use."""
    return transformers.__version__, installed("transformer-lens") or "unknown"


def refuse_broken_versions() -> None:
    """Raise if the installed pair is known to give wrong numbers.

    Raises:
        BrokenVersions: with both versions and the pair that works.
    """
    hf, lens = library_versions()
    # transformers 5.24 renamed `past_key_values` to `cache` inside its layers. The attention of
    # transformer-lens 4.3 reads the old name: its cache stays empty, without an error.
    if Version(hf) >= Version("5.24") and lens != "unknown" and Version(lens) <= Version("4.3"):
        raise BrokenVersions(
            f"transformers {hf} with transformer-lens {lens} is known to compute wrong logits "
            f"whenever a key-value cache is used. {remedy()}"
        )


def remedy() -> str:
    """How to get to a pair that works."""
    return f'Install {WORKING}: pip install "transformers>=5.9,<5.24" "transformer-lens>=4.3,<5"'
