"""The values that rows say a variable has, in their columns `base_<variable>`, `source_<variable>`.

Several variables that are taken together are one whose name joins theirs by " and "; their values
are then in columns of their own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SIDES = ("base", "source")


def names_in(variable: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names in a variable's name: itself where rows have its column, whatever it is called."""
    whole = [f"{side}_{variable}" for side in SIDES]
    if any(column in row for row in rows for column in whole):
        return [variable]
    return variable.split(" and ")


def value_text(row: Mapping[str, Any], side: str, names: Sequence[str]) -> str:
    """The value that a side of a row has, as text; texts of different values differ."""
    texts = [str(row[f"{side}_{name}"]) for name in names]
    # Not a blank between them: "a b" beside "c" is not "a" beside "b c".
    return texts[0] if len(texts) == 1 else json.dumps(texts, ensure_ascii=False)
