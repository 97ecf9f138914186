"""Train the interventions of a model in place, with as few arguments as that needs.

Next door: `trainer`, whose Trainer runs the steps; `reft`, which places the interventions too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import IterableDataset
from transformers import TrainerCallback, TrainingArguments

from reft_interp.interventions.rows import PartOfRows
from reft_interp.models.devices import device_of
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import Rows
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.saving import check_same_placements
from reft_interp.training.checkpoints import (
    check_folder,
    check_same_training,
    last_whole,
    newest_checkpoint,
)
from reft_interp.training.collating import check_precision, check_trainable
from reft_interp.training.folder_trainer import check_training_arguments, training_arguments
from reft_interp.training.hyperparameters import check_hyperparameters, plain_values
from reft_interp.training.processes import check_processes, share_of
from reft_interp.training.results import saved_settings
from reft_interp.training.streaming import StreamedRows
from reft_interp.training.trainer import InterventionTrainer


def check_arguments(
    epochs: int | float,
    arguments: Mapping[str, Any],
    *,
    learning_rate: float,
    batch_size: int,
    seed: int = 0,
    caller: Callable[..., Any] | None = None,
) -> None:
    """Raise, before anything runs, where training could not begin.

    Args:
        epochs: passes over the rows.
        arguments: those that are for transformers' TrainingArguments.
        learning_rate: of the optimiser.
        batch_size: rows a step.
        seed: of what is drawn.
        caller: whose own arguments an unknown one may have meant; `train` by default.

    Raises:
        TypeError: an argument that transformers' TrainingArguments does not know; rows a step or a
            seed that are no whole number.
        ValueError: epochs, rows a step or a learning rate that are not above 0; mixed precision.
    """
    known = {one.name for one in fields(TrainingArguments) if one.init}
    unknown = [name for name in arguments if name not in known]
    if unknown:
        own = signature(caller or train).parameters.values()
        named = known | {one.name for one in own if one.kind != one.VAR_KEYWORD}
        # What it is called in torch's optimisers.
        close = {"lr": ["learning_rate"]}.get(unknown[0]) or get_close_matches(unknown[0], named, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(
            f"{unknown[0]!r} is neither an argument here nor one of transformers' "
            f"TrainingArguments{meant}"
        )
    check_hyperparameters(
        epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed
    )
    for name in ("bf16", "fp16"):
        if arguments.get(name):
            check_precision(name)


def checked_settings(
    epochs: int | float,
    arguments: Mapping[str, Any],
    *,
    learning_rate: float,
    batch_size: int,
    seed: int,
    caller: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """What a training is told, as a result is saved with it, after `check_arguments`.

    Args:
        epochs: as for `check_arguments`, and so are the others.
        arguments: those that are for transformers' TrainingArguments.
        learning_rate: of the optimiser.
        batch_size: rows a step.
        seed: of what is drawn.
        caller: whose own arguments an unknown one may have meant; `train` by default.

    Raises:
        TypeError: as `check_arguments` and `saved_settings`.
        ValueError: as `check_arguments`.
    """
    told = {"learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    check_arguments(epochs, arguments, **told, caller=caller)
    return saved_settings(epochs=epochs, **told, **arguments)


def check_trainer(
    intervened: IntervenedModel,
    trained_with: Mapping[str, Any],
    *,
    evaluates: bool = False,
    checkpoints: str | Path | None,
) -> None:
    """Raise, before rows are prepared, where transformers' Trainer could not train so.

    Args:
        intervened: what would be trained.
        trained_with: as `checked_settings` gives it.
        evaluates: whether there are rows to evaluate on.
        checkpoints: a folder for checkpoints.

    Raises:
        ValueError: nothing to train; as `check_training_arguments`, as are the others.
        ImportError: an optimiser whose package is missing.
        RuntimeError: one to report to is missing.
    """
    check_trainable(intervened)
    given = dict(trained_with)
    own = {name: given.pop(name) for name in ("epochs", "learning_rate", "batch_size", "seed")}
    shared = not {"per_device_train_batch_size", "per_device_eval_batch_size"} <= given.keys()
    check_training_arguments(
        _of_trainer(**own, arguments=given),
        intervened.model,
        batch_size=own["batch_size"] if shared else None,
        evaluates=evaluates,
        checkpoints=checkpoints,
    )


def _of_trainer(
    epochs: int | float,
    learning_rate: float,
    batch_size: int,
    seed: int,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """What transformers calls the settings of a training."""
    return plain_values(
        {
            "num_train_epochs": epochs,
            "learning_rate": learning_rate,
            "per_device_train_batch_size": batch_size,
            "per_device_eval_batch_size": batch_size,
            "seed": seed,
            **arguments,
        }
    )


def check_checkpoints(
    intervened: IntervenedModel, checkpoints: str | Path | None, resume: bool
) -> None:
    """Raise where a training could not begin in a folder for checkpoints, or not go on from there.

    Raises:
        ValueError: `resume` without a folder, without a whole checkpoint there, with one of other
            interventions, or for `orthogonal_parts`; else checkpoints of an earlier training.
    """
    if resume and checkpoints is None:
        raise ValueError("resume=True needs checkpoints=, the folder to resume from")
    if resume and any(isinstance(module, PartOfRows) for module in intervened.modules()):
        raise ValueError(
            "resume=True: an intervention here shares its basis with others (orthogonal_parts), "
            "and a checkpoint holds each by itself, so training could not go on as if never "
            "interrupted. IntervenedModel.load(checkpoint, model) reads what it holds"
        )
    if checkpoints is None:
        return
    check_folder(checkpoints, resume=resume)
    if resume and (last := last_whole(checkpoints)) is not None:
        check_same_placements(last, intervened)


def train(
    intervened: IntervenedModel,
    rows: PreparedRows | Rows | IterableDataset,
    evaluation_rows: PreparedRows | Rows | None = None,
    *,
    epochs: int | float = 1,
    learning_rate: float = 4e-3,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> pd.DataFrame:
    """Train the interventions of a model in place.

    Args:
        intervened: the model.
        rows: what is trained on: rows with `prompt` and `answer`, or `PreparedRows`, which
            interventions that need sources take. A stream needs `max_steps`, and runs in full.
        evaluation_rows: what the evaluation loss is of; evaluated each epoch if given.
        epochs: passes over the rows.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: rows a step, over all processes: launched by torchrun or `accelerate launch`,
            each takes its share, and the weights are those of one process.
        seed: of the order of rows, and of dropout. As with every transformers Trainer, the
            generators of Python, NumPy and torch are set to it.
        progress: show a progress bar.
        checkpoints: a folder for checkpoints, one an epoch; none by default.
        resume: go on from the newest whole checkpoint there, exactly as if never interrupted.
        callbacks: transformers' callbacks.
        arguments: further arguments of transformers' TrainingArguments
            (`gradient_accumulation_steps`, `lr_scheduler_type`, `warmup_steps`,
            `load_best_model_at_end`, ...); they win over the ones above.

    Returns:
        The logged losses: step, epoch, loss.

    Raises:
        TrainingStopped: the loss or the weights became NaN or infinite. It names the rows; the
            model holds the last good weights.
        ValueError: nothing to train; rows that were prepared for other placements; what
            `check_checkpoints`, `training_arguments` and `InterventionTrainer` refuse.
        OSError: a checkpoint could not be written; those before it are whole.
        torch.OutOfMemoryError: with the number of rows a step that would fit.
    """
    check_arguments(epochs, arguments, learning_rate=learning_rate, batch_size=batch_size)
    check_trainable(intervened)
    check_checkpoints(intervened, checkpoints, resume)

    def prepared(given: PreparedRows | Rows) -> PreparedRows:
        return given if isinstance(given, PreparedRows) else PreparedRows(intervened, given)

    device = device_of(intervened.model)
    with training_arguments(
        _of_trainer(epochs, learning_rate, batch_size, seed, arguments),
        device=device,
        evaluates=evaluation_rows is not None,
        progress=progress,
        checkpoints=checkpoints,
    ) as settings:
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if name not in arguments:
                setattr(settings, name, share_of(batch_size, settings.world_size))
        check_processes(intervened.model, settings)
        start = newest_checkpoint(checkpoints, intervened) if resume and checkpoints else None
        trainer = InterventionTrainer(
            intervened,
            settings,
            StreamedRows(intervened, rows) if isinstance(rows, IterableDataset) else prepared(rows),
            None if evaluation_rows is None else prepared(evaluation_rows),
            callbacks,
        )
        if start is not None:
            check_same_training(start, trainer.fingerprint)
        return trainer.fit(intervened, resume=False if start is None else str(start))
