"""transformers' Trainer, for interventions: only they are trained, saved and resumed.

A checkpoint is a folder that `IntervenedModel.load` reads, with the Trainer's own state beside it.
Below: `folder_trainer`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback, TrainingArguments

from reft_interp.models.sharding import is_sharded
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.planning import Plan
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.saving import read_notes, read_tensors
from reft_interp.training.checkpoints import FINGERPRINT, identify_training
from reft_interp.training.collating import (
    RowsDataset,
    RowsOfBatch,
    check_trainable,
    collate,
    without_rows,
)
from reft_interp.training.failures import memory_advice
from reft_interp.training.folder_trainer import FolderTrainer
from reft_interp.training.processes import check_processes, even_sampler
from reft_interp.training.streaming import StreamedRows, StreamPosition, check_stream

POSITION = "position in the stream"
"""Where the notes of a checkpoint say how far a stream was read."""


class InterventionTrainer(FolderTrainer):
    """Trains the interventions of an `IntervenedModel` on its answer loss.

    Args:
        intervened: the model; its interventions are trained in place.
        args: transformers' arguments.
        train_rows: what is trained on; a stream with `max_steps` in `args`.
        evaluation_rows: what the evaluation loss is of, where `args` asks for one.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.

    Raises:
        ValueError: nothing in `intervened` is trainable; rows that were prepared for other
            placements; the model is on another device than `args` says, or on several that nothing
            moves between; FSDP, DeepSpeed or mixed precision; gradient checkpointing of rows that
            are replayed.
    """

    def __init__(
        self,
        intervened: IntervenedModel,
        args: TrainingArguments,
        train_rows: PreparedRows | StreamedRows,
        evaluation_rows: PreparedRows | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        check_trainable(intervened)
        check_processes(intervened.model, args)
        if isinstance(train_rows, StreamedRows):
            check_stream(args)
        else:
            train_rows.check_made_for(intervened)
        if evaluation_rows is not None:
            evaluation_rows.check_made_for(intervened, "evaluation_rows")
        recompute = _recompute(args, train_rows.plan)
        super().__init__(
            intervened,
            args,
            collate,
            train_rows if isinstance(train_rows, StreamedRows) else RowsDataset(train_rows),
            None if evaluation_rows is None else RowsDataset(evaluation_rows),
            bridge=intervened.model,
            holding="The interventions hold",
            anneal=intervened.anneal,
            callbacks=callbacks,
        )
        self._intervened = intervened
        self.fingerprint = identify_training(train_rows, evaluation_rows, args)
        self._recompute = recompute
        self._position = StreamPosition() if isinstance(train_rows, StreamedRows) else None
        if self._position is not None:
            self.add_callback(self._position)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Any]:
        """The Trainer's batches of a step; where a stream ends among them, empty ones fill it up.

        A Trainer that knows no length takes no step on fewer, and would add their gradients to the
        next pass's.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._position is not None and batches:
            batches += [without_rows(batches[0]) for _ in range(num_batches - len(batches))]
        return batches, items

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Passes, and batches of the next, that a training which goes on has behind it.

        Of a stream, whose length it does not know, the Trainer takes all steps for one pass.
        """
        done = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if self._position is None or resume_from_checkpoint is None:
            return done
        notes = read_notes(resume_from_checkpoint).get(POSITION)
        if notes is None:
            raise ValueError(
                f"resume=True: {resume_from_checkpoint} does not say how far its training had read "
                "the stream, so which rows come next is unknown. Begin anew in another folder"
            )
        self._position.go_on_from(notes)
        batches = self._position.steps * self.args.gradient_accumulation_steps
        return self._position.passes, 0 if self.args.ignore_data_skip else batches

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The Trainer's step, which ends the training where it gives no number.

        Raises:
            TrainingStopped: the loss is no number; the rows at fault are named.
            torch.OutOfMemoryError: with the number of rows that would fit.
        """
        chosen: RowsOfBatch = inputs["rows"]
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        except torch.OutOfMemoryError as error:
            if self.args.auto_find_batch_size or is_sharded(self._bridge):
                raise  # the other processes do not run what advice would have to try
            said = str(error)
        # Not in the except clause: there the error still holds the memory of the failed step.
        inputs.clear()
        advice = memory_advice(self._intervened, chosen, self.args, recompute=self._recompute)
        raise torch.OutOfMemoryError(
            f"no memory for a step of {len(chosen.numbers)} rows: {advice}. ({said})"
        )

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any):
        """The Trainer's, with blocks that run again in the backward pass where that was asked."""
        if self._recompute and model.training:
            inputs = {**inputs, "recompute": True}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def prediction_step(self, *args: Any, **kwargs: Any):
        """The Trainer's; in several processes the loss is that of all of them."""
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        return None if loss is None else self._of_all_processes(loss).mean(), logits, labels

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        if self.args.world_size > 1:
            order = SequentialSampler(eval_dataset)
            return even_sampler(order, eval_dataset, self.args, self.args.eval_batch_size)
        return super()._get_eval_sampler(eval_dataset)

    def write(self, folder: str | Path) -> None:
        notes = {FINGERPRINT: self.fingerprint}
        if self._position is not None:
            notes[POSITION] = self._position.to_notes()
        self._intervened.save(folder, notes)

    def read(self, folder: str | Path) -> None:
        self._intervened.interventions.load_state_dict(read_tensors(folder))


def _recompute(args: TrainingArguments, plan: Plan) -> bool:
    """Whether blocks run again in the backward pass; the Trainer no longer asks the model to."""
    # The second is transformers' older name, and the only one in its older releases.
    names = ("activation_checkpointing", "gradient_checkpointing")
    asked = any(getattr(args, name, None) for name in names)
    for name in names:
        if getattr(args, f"{name}_kwargs", None):
            raise ValueError(f"{name}_kwargs: each block runs again, and nothing can be set")
        if hasattr(args, name):
            setattr(args, name, False)
    if asked and plan.replays:
        raise ValueError(
            'gradient_checkpointing=True needs engine="full": these rows are replayed on the keys '
            "and values of the tokens before the edits, and a block that ran again in the "
            "backward pass would append its own to them a second time"
        )
    return asked
