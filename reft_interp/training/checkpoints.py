"""Which checkpoint a training goes on from: the newest that is whole and of this training.

transformers' Trainer writes the files of a checkpoint one after the other, `trainer_state.json`
last, and takes the folder of the highest number for the newest, whatever is in it. A training that
was killed while it wrote leaves such a folder incomplete.
"""

import json
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from warnings import warn
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import as_list
from reft_interp.runtime.placement import SOURCE
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.saving import TENSORS, check_same_placements, read_notes
from reft_interp.runtime.sources import EditedSource, Sources
from reft_interp.training.streaming import StreamedRows

FINGERPRINT = "training that goes on"
"""Where the notes of a checkpoint say what it can be gone on with."""

CHOOSING = "rows to choose an epoch on"
"""What a fingerprint calls the rows whose scores, or losses, the best epoch is told by."""

_RANDOM = "rng_state*.pth"
"""The states of the random number generators, a file for each process."""

_NAME = re.compile(r"checkpoint-(\d+)")


def newest_checkpoint(folder: str | Path, intervened: IntervenedModel) -> Path:
    """The newest whole checkpoint in a folder; newer ones that are not whole are told of.

    Args:
        folder: what `train` was given as `checkpoints`.
        intervened: what will go on from it.

    Raises:
        ValueError: no checkpoint there is whole; the newest is of another model or of other
            interventions than these.
    """
    checkpoint = newest_whole(folder)
    check_same_placements(checkpoint, intervened)
    return checkpoint


def newest_whole(folder: str | Path, tensors: Sequence[str] = (TENSORS,)) -> Path:
    """The newest whole checkpoint in a folder; newer ones that are not whole are told of.

    Args:
        folder: of checkpoints.
        tensors: the files of weights that one has.

    Raises:
        ValueError: no checkpoint there is whole.
    """
    faults: list[str] = []
    for checkpoint in _checkpoints(folder):
        fault = _fault(checkpoint, tensors)
        if fault is None:
            if faults:
                warn(
                    f"going on from {checkpoint}, as {'; '.join(faults)} (a training that is "
                    "killed while it writes leaves such a folder)",
                    stacklevel=4,
                )
            return checkpoint
        faults.append(f"{checkpoint.name} cannot be used: {fault}")
    found = "; ".join(faults) or "there is no folder checkpoint-N in it"
    raise ValueError(f"resume=True: No valid checkpoint in {folder}: {found}")


def refuse_other_training(folder: str | Path, tensors: Sequence[str] = (TENSORS,)) -> None:
    """Raise where checkpoints of an earlier training would be mixed with those of a new one.

    Args:
        folder: of checkpoints.
        tensors: the files of weights that one has.

    Raises:
        ValueError: there is a whole checkpoint in the folder.
    """
    for checkpoint in _checkpoints(folder):
        if _fault(checkpoint, tensors) is None:
            raise ValueError(
                f"checkpoints: {folder} holds {checkpoint.name} of an earlier training. "
                "resume=True goes on from it; for a new training give another folder, or empty "
                "this one"
            )


def check_folder(folder: str | Path, *, resume: bool, tensors: Sequence[str] = (TENSORS,)) -> None:
    """Raise where a training cannot begin in a folder, or not go on from there: before its rows are
    prepared, which takes longer.

    Args:
        folder: of checkpoints.
        resume: whether it goes on.
        tensors: the files of weights that a checkpoint has.

    Raises:
        ValueError: it goes on, and no checkpoint there is whole; it begins, and one is.
    """
    if not resume:
        refuse_other_training(folder, tensors)
    elif last_whole(folder, tensors) is None:
        newest_whole(folder, tensors)  # which says why not


def last_whole(folder: str | Path, tensors: Sequence[str] = (TENSORS,)) -> Path | None:
    """The newest whole checkpoint, if there is one.

    Args:
        folder: of checkpoints.
        tensors: the files of weights that one has.
    """
    return next((one for one in _checkpoints(folder) if _fault(one, tensors) is None), None)


def identify_training(
    rows: PreparedRows | StreamedRows,
    evaluation_rows: PreparedRows | None,
    args: TrainingArguments,
) -> dict[str, Any]:
    """What a training that goes on has to have in common with the one that wrote a checkpoint, so
    that the steps before and after are of one training. Epochs and learning rate may change, and so
    may evaluation rows that nothing is chosen by."""
    held = isinstance(rows, PreparedRows)
    choosing = None if args.metric_for_best_model is None else evaluation_rows
    return {
        "rows": hash_of(rows.rows) if held else None,
        "sources": hash_of(_described(rows.sources)) if held else None,
        "over=": rows.over if held else "vocabulary",
        "rows a step": rows_a_step(args),
        "seed": args.seed,
        CHOOSING: None
        if choosing is None
        else hash_of([choosing.rows, _described(choosing.sources)]),
    }


def rows_a_step(args: TrainingArguments) -> int:
    """Rows of one step of the optimiser, over all processes."""
    processes = args.world_size * args.gradient_accumulation_steps
    return args.per_device_train_batch_size * processes


def hash_of(held: Any) -> str:
    """The same number for the same rows, in whatever process.

    Args:
        held: texts, numbers, lists and mappings; anything else as it prints.
    """
    written = json.dumps(held, default=_as_json, skipkeys=True)
    return sha256(written.encode("utf-8")).hexdigest()


def _as_json(held: Any) -> Any:
    return dict(held) if isinstance(held, Mapping) else str(held)


def _described(sources: Sources | None) -> Any:
    if isinstance(sources, Mapping):
        if set(sources) == {SOURCE}:  # the same by another spelling
            return _described(sources[SOURCE])
        return {name: _described(source) for name, source in sorted(sources.items())}
    if isinstance(sources, EditedSource):
        placed = [str(placement) for placement in sources.intervened.placements]
        return {
            "placements": placed,
            "rows": as_list(sources.rows),
            "sources": _described(sources.sources),
        }
    return None if sources is None else as_list(sources)


def check_same_training(
    checkpoint: Path, here: Mapping[str, Any], notes: Mapping[str, Any] | None = None
) -> None:
    """Raise where a checkpoint is of a training on other rows, in other steps or another order;
    warn of what it does not say, having been written before that was kept.

    Args:
        checkpoint: what would be gone on from.
        here: what the training that goes on is, as `identify_training` has it.
        notes: of the checkpoint; by default those of its interventions.

    Raises:
        ValueError: the first that differs is named.
    """
    saved = (read_notes(checkpoint) if notes is None else notes).get(FINGERPRINT, {})
    for name, value in here.items():
        if saved.get(name, value) != value:
            raise ValueError(
                f"resume=True: {checkpoint} was written by a training with other {name} "
                f"({saved[name]}, here {value}), so it cannot go on as if never interrupted"
            )
    unknown = [name for name, value in here.items() if value is not None and name not in saved]
    if unknown:
        warn(
            f"{checkpoint} was written by an earlier version, which did not keep its "
            f"{', '.join(unknown)}: taken to be the same as here",
            stacklevel=4,
        )


def begin_anew(checkpoint: Path) -> None:
    """Remove what an earlier training left in the place of a checkpoint that is to be written: its
    files together with some of the new ones would pass for whole."""
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def _checkpoints(folder: str | Path) -> list[Path]:
    """Newest first."""
    found = [one for one in Path(folder).glob("checkpoint-*") if _NAME.fullmatch(one.name)]
    return sorted(found, key=lambda one: -int(one.name.split("-")[1]))


def _fault(checkpoint: Path, tensors: Sequence[str] = (TENSORS,)) -> str | None:
    """Why a checkpoint cannot be gone on from; None if it can.

    All files are read: they are small, and a machine that lost power can leave whole names with
    half of the bytes.
    """
    for name in (*tensors, OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME):
        if not (checkpoint / name).is_file():
            return f"it lacks {name}"
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except ValueError:
        return f"{TRAINER_STATE_NAME} is cut off or damaged"
    for name in tensors:
        try:
            load_file(str(checkpoint / name))
        except SafetensorError:
            return f"{name} is damaged"
    for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
        try:
            torch.load(checkpoint / name, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError):
            return f"{name} is cut off or damaged"
    random = sorted(checkpoint.glob(_RANDOM))
    if not random:
        return f"it lacks {_RANDOM}"
    for file in random:
        try:
            with ZipFile(file) as parts:
                whole = parts.testzip() is None
        except (BadZipFile, OSError):
            whole = False
        if not whole:
            return f"{file.name} is cut off or damaged"
    return None
