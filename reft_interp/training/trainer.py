"""transformers' Trainer, for interventions: only they are trained, saved and resumed.

A checkpoint is a folder that `IntervenedModel.load` reads, with the Trainer's own state beside it.
Below: `folder_trainer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import TrainerCallback, TrainingArguments

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import Rows, device_of
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.saving import read_tensors
from reft_interp.training.collating import RowsDataset, check_trainable, collate
from reft_interp.training.folder_trainer import FolderTrainer, training_arguments


class InterventionTrainer(FolderTrainer):
    """Trains the interventions of an `IntervenedModel` on its answer loss.

    Args:
        intervened: the model; its interventions are trained in place.
        args: transformers' arguments.
        train_rows: what is trained on.
        evaluation_rows: what the evaluation loss is of, where `args` asks for one.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.

    Raises:
        ValueError: nothing in `intervened` is trainable.
    """

    def __init__(
        self,
        intervened: IntervenedModel,
        args: TrainingArguments,
        train_rows: PreparedRows,
        evaluation_rows: PreparedRows | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        check_trainable(intervened)
        super().__init__(
            intervened,
            args,
            collate,
            RowsDataset(train_rows),
            None if evaluation_rows is None else RowsDataset(evaluation_rows),
            anneal=intervened.anneal,
            callbacks=callbacks,
        )

    def write(self, folder: str | Path) -> None:
        self._intervened().save(folder)

    def read(self, folder: str | Path) -> None:
        self._intervened().interventions.load_state_dict(read_tensors(folder))

    def _intervened(self) -> IntervenedModel:
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, IntervenedModel):
            raise AssertionError("the Trainer trains an IntervenedModel")
        return model


def check_arguments(epochs: int | float, arguments: Mapping[str, Any]) -> None:
    """Raise, before anything runs, where training could not begin.

    Raises:
        TypeError: an argument that transformers' TrainingArguments does not know.
        ValueError: no epochs.
    """
    known = {one.name for one in fields(TrainingArguments)} | set(signature(train).parameters)
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise TypeError(
            f"{unknown[0]!r} is neither an argument here nor one of transformers' TrainingArguments"
        )
    if epochs <= 0:
        raise ValueError(f"epochs must be above 0, got {epochs}")


def train(
    intervened: IntervenedModel,
    rows: PreparedRows | Rows,
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
            interventions that need sources take.
        evaluation_rows: what the evaluation loss is of; evaluated each epoch if given.
        epochs: passes over the rows.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: rows a step.
        seed: of the order of rows, and of dropout. As with every transformers Trainer, the
            generators of Python, NumPy and torch are set to it.
        progress: show a progress bar.
        checkpoints: a folder for checkpoints, one an epoch; none by default.
        resume: go on from the newest checkpoint there, exactly as if never interrupted.
        callbacks: transformers' callbacks.
        arguments: further arguments of transformers' TrainingArguments
            (`gradient_accumulation_steps`, `lr_scheduler_type`, `warmup_steps`,
            `load_best_model_at_end`, ...); they win over the ones above.

    Returns:
        The logged losses: step, epoch, loss.

    Raises:
        ValueError: nothing to train; resume without a folder for checkpoints; the loss or the
            weights became NaN or infinite.
    """
    check_arguments(epochs, arguments)
    if resume and checkpoints is None:
        raise ValueError("resume=True needs checkpoints=, the folder to resume from")

    def prepared(given: PreparedRows | Rows) -> PreparedRows:
        return given if isinstance(given, PreparedRows) else PreparedRows(intervened, given)

    given: dict[str, Any] = {
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "seed": seed,
    }
    with training_arguments(
        given | arguments,
        device=device_of(intervened.model),
        evaluates=evaluation_rows is not None,
        progress=progress,
        checkpoints=checkpoints,
    ) as of_trainer:
        trainer = InterventionTrainer(
            intervened,
            of_trainer,
            prepared(rows),
            None if evaluation_rows is None else prepared(evaluation_rows),
            callbacks,
        )
        return trainer.fit(intervened, resume=resume)
