"""What is wrong with a file that was saved: said with the file, the part and what it should be.

Whoever reads a saved folder checks what it takes from there. Next door: `whole_files`, which
writes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is no JSON, or not text.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


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


def write_tensors(
    tensors: Mapping[str, Tensor], file: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Args:
        tensors: by name.
        file: in a folder that exists.
        notes: kept beside them, for `read_metadata`.

    Raises:
        OSError: it cannot be written, for instance as the disk is full; its folder is named.
    """
    try:
        save_file(dict(tensors), str(file), None if notes is None else dict(notes))
    except SafetensorError as error:
        raise OSError(f"cannot write the weights into {file.parent}: {error}") from error


def read_numbers(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: the file is damaged, or a tensor holds NaN.
    """
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if bad := int(tensor.isnan().sum()):
            raise ValueError(
                f"{path}: {bad} of the {tensor.numel()} numbers of {name!r} are NaN: what was "
                "saved is the end of a training that broke down, or damaged"
            )
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What was noted beside the tensors of a safetensors file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error


_IN_JSON = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}
