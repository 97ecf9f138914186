"""transformers' Trainer, for interventions: only they are trained, saved and resumed.

Schedules, accumulation, evaluation, early stopping, checkpoints and exact resume are the
Trainer's. What differs: a checkpoint is a folder that `IntervenedModel.load` reads, with the
Trainer's own state beside it.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import Rows, device_of
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.saving import read_tensors
from reft_interp.training.collating import RowsDataset, check_trainable, collate


class InterventionTrainer(Trainer):
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
        # The interventions live where the model does; several devices would need several copies
        # of the model, which nn.DataParallel cannot make.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(
            model=intervened,
            args=args,
            data_collator=collate,
            train_dataset=RowsDataset(train_rows),
            eval_dataset=None if evaluation_rows is None else RowsDataset(evaluation_rows),
            callbacks=list(callbacks),
        )
        # `forward` divides by the answer tokens of a whole step, so that accumulating
        # gradients over small batches gives exactly the step of one large batch.
        self.model_accepts_loss_kwargs = True
        self.add_callback(_Anneal(intervened))
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Bar)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = output_dir or self.args.output_dir or "."
        if self.args.should_save:
            self._intervened().save(folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        tensors = read_tensors(resume_from_checkpoint)
        self._intervened().interventions.load_state_dict(tensors)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _intervened(self) -> IntervenedModel:
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, IntervenedModel):
            raise AssertionError("the Trainer trains an IntervenedModel")
        return model

    def losses(self) -> pd.DataFrame:
        """Logged training losses: step, epoch, loss."""
        logged = [entry for entry in self.state.log_history if "loss" in entry]
        return pd.DataFrame(
            [{name: entry[name] for name in ("step", "epoch", "loss")} for entry in logged],
            columns=["step", "epoch", "loss"],
        )


class _Anneal(TrainerCallback):
    """Tells interventions how far their training is, before each step."""

    def __init__(self, intervened: IntervenedModel):
        self._intervened = intervened

    def on_step_begin(self, args, state, control, **kwargs):
        self._intervened.anneal(state.global_step / state.max_steps)


class _Bar(ProgressCallback):
    """The Trainer's progress bar, without a dictionary printed above it at each logging."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            if "loss" in logs:
                self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


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

    with ExitStack() as stack:
        folder = checkpoints or stack.enter_context(tempfile.TemporaryDirectory())
        device = device_of(intervened.model)
        given: dict[str, Any] = {
            "output_dir": str(folder),
            "num_train_epochs": epochs,
            "learning_rate": learning_rate,
            "per_device_train_batch_size": batch_size,
            "per_device_eval_batch_size": batch_size,
            "seed": seed,
            "disable_tqdm": not progress,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,  # it would log something else in place of a NaN
            "save_strategy": "no" if checkpoints is None else "epoch",
            "eval_strategy": "no" if evaluation_rows is None else "epoch",
            "report_to": "none",
            "use_cpu": device.type == "cpu",
            "remove_unused_columns": False,
            "prediction_loss_only": True,
            "dataloader_pin_memory": False,
            "label_names": ["labels"],
        }
        trainer = InterventionTrainer(
            intervened,
            TrainingArguments(**(given | arguments)),
            prepared(rows),
            None if evaluation_rows is None else prepared(evaluation_rows),
            [*callbacks, _StopAtNaN()],
        )
        intervened.train()
        try:
            trainer.train(resume_from_checkpoint=resume or None)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise ValueError(
                f"the trained directions are no longer independent or no numbers at step "
                f"{trainer.state.global_step}: try a learning rate below "
                f"{trainer.args.learning_rate}"
            ) from error
        finally:
            intervened.eval()
            intervened.zero_grad()
        return trainer.losses()


class _StopAtNaN(TrainerCallback):
    """Ends a training whose loss is no number, rather than going on with ruined weights."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not torch.isfinite(torch.tensor(float(loss))):
            raise ValueError(
                f"the loss became {loss} at step {state.global_step}: "
                f"try a learning rate below {args.learning_rate}"
            )
