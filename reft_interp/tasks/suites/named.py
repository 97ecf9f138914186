"""Suites by name, as a command line gives them."""

import os

from reft_interp.tasks.suites.arithmetic import arithmetic
from reft_interp.tasks.suites.commonsense import commonsense
from reft_interp.tasks.suites.glue import GLUE, glue
from reft_interp.tasks.suites.mawps import mawps
from reft_interp.tasks.suites.suite import Suite

NAMES = ("commonsense", "arithmetic", "mawps", *(f"glue/{task}" for task in GLUE))


def named_suite(name: str, data: str | os.PathLike[str]) -> Suite:
    """A suite with rows to tune on.

    Args:
        name: "commonsense", "arithmetic", "mawps", or a task of GLUE as "glue/sst2".
        data: its folder, or a dataset of the hub.

    Raises:
        ValueError: no such suite (those that there are are listed), or no such data; instructions,
            whose outputs a judge scores.
    """
    if name == "instructions":
        raise ValueError(
            "suite: what follows instructions has no one right answer, and is scored by a judge, "
            "whom a command line cannot name. In Python, compare(model, tasks.suites.instructions("
            "...), methods) generates it, with the overlap with references as a rough score, and "
            "tasks.suites.win_rate asks a judge"
        )
    if name == "commonsense":
        return commonsense(data, n_development=300)
    if name == "arithmetic":
        return arithmetic(data)
    if name == "mawps":
        return mawps(data)
    if name in NAMES:
        return glue(name.removeprefix("glue/"), data)
    raise ValueError(f"suite must be one of {', '.join(NAMES)}, got {name!r}")
