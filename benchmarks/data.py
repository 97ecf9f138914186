"""Where the real data sets are that some benchmarks measure on."""

import os
import sys
from pathlib import Path


def data_folder(holds: str) -> Path:
    """The folder that the environment variable REFT_INTERP_DATA names; without it, the end.

    Args:
        holds: what must be in it, for who has none.
    """
    if "REFT_INTERP_DATA" not in os.environ:
        sys.exit(f"set REFT_INTERP_DATA to the folder that holds {holds}")
    return Path(os.environ["REFT_INTERP_DATA"])
