"""What is wrong with a `config.json`: said with the file, the part and what it should be.

Whoever reads a saved folder checks what it takes from there; `saving` and the classifier's saving
do.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODEL: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "architecture": (str,),
    "n_layers": (int,),
    "d_model": (int,),
}
"""What is read of the model that something was saved for."""


def check_fields(
    path: Path, held: Any, fields: Mapping[str, tuple[type, ...]], part: str = ""
) -> None:
    """Raise unless a part of a configuration is a mapping that holds these fields.

    Args:
        path: the file, for the message.
        held: the part.
        fields: which types each may have; `type(None)` where it may be null.
        part: what it is called; nothing of the whole file.

    Raises:
        ValueError: it is no mapping, or a field is missing or of another type.
    """
    inside = f"{part} " if part else ""
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} is damaged: {inside}must be a mapping, got {held!r}")
    if missing := set(fields) - set(held):
        raise ValueError(f"{path} is damaged: {part or 'it'} lacks {', '.join(sorted(missing))}")
    for name, kinds in fields.items():
        value = held[name]
        # In Python True is a number.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(_IN_JSON[kind] for kind in kinds)
            of = f" of {part}" if part else ""
            raise ValueError(f"{path} is damaged: {name!r}{of} must be {expected}, got {value!r}")


@contextmanager
def reading(path: Path, part: str) -> Iterator[None]:
    """Whatever cannot be made of a part of a configuration is told of with the file and the part.

    Raises:
        ValueError: for any error that a wrong value can lead to.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} is damaged: {part} lacks {error}") from error
    except (
        AttributeError, IndexError, OverflowError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} cannot be read: {part}: {error}") from error


_IN_JSON = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}
