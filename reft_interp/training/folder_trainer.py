"""transformers' Trainer for modules beside a frozen model, whose checkpoints are readable folders.

Schedules, accumulation, evaluation, early stopping, checkpoints and exact resume are the
Trainer's. What differs: a checkpoint holds what the trained module itself saves, with the
Trainer's own state beside it. `trainer` trains interventions with it, `classifier_trainer` a
classifier.
"""

import copy
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformer_lens.model_bridge import TransformerBridge
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy

from reft_interp.models.devices import device_of
from reft_interp.runtime.saving import TENSORS
from reft_interp.training.checkpoints import begin_anew, last_whole
from reft_interp.training.collating import check_precision
from reft_interp.training.processes import check_processes, even_sampler, share_of
from reft_interp.training.stopping_trainer import StoppingTrainer

_TEMPORARY = "reft-interp-training-"
"""How the name of a temporary folder for checkpoints begins."""

_WITHOUT = {
    # Their queue would be waited at for ever: a batch goes with its model, which none takes.
    "dataloader_num_workers": "batches are made of rows that are prepared beside the model, which "
    "other processes cannot do",
    "label_smoothing_factor": "what is trained computes its own loss, and smooths no labels",
    "neftune_noise_alpha": "the model is frozen, and what lies below the edits is computed once, "
    "so that its embeddings can have no noise",
    "use_liger_kernel": "what is trained is no model of transformers, whose parts the kernels "
    "would replace",
}
"""Arguments of transformers' that no training here can have, and why."""


class FolderTrainer(StoppingTrainer):
    """Trains a module that writes itself into a folder and reads itself from there.

    Args:
        module: what is trained. Its `forward` takes what `collator` makes and gives a `loss`
            that it divides by `num_items_in_batch`, so that accumulating gradients over small
            batches gives exactly the step of one large batch.
        args: transformers' arguments.
        collator: makes a batch of items.
        train_rows: what is trained on.
        evaluation_rows: what is evaluated, where `args` asks for it.
        bridge: the frozen model beside it.
        holding: what holds the weights, in messages, as "The interventions hold".
        tensors: the files of weights that a checkpoint has.
        anneal: told before each step which share of the training is done.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.
        options: further options of transformers' Trainer.

    Raises:
        ValueError: mixed precision.
    """

    def __init__(
        self,
        module: nn.Module,
        args: TrainingArguments,
        collator: Callable[[Sequence[Any]], dict[str, Any]],
        train_rows: Dataset,
        evaluation_rows: Dataset | None = None,
        *,
        bridge: TransformerBridge,
        holding: str,
        tensors: Sequence[str] = (TENSORS,),
        anneal: Callable[[float], None],
        callbacks: Sequence[TrainerCallback] = (),
        **options: Any,
    ):
        use_one_copy(args)
        super().__init__(
            module,
            bridge,
            holding,
            args=args,
            data_collator=collator,
            train_dataset=train_rows,
            eval_dataset=evaluation_rows,
            callbacks=list(callbacks),
            **options,
        )
        check_precision(self.accelerator.mixed_precision, args.device)
        self._tensors = tensors
        self.add_callback(_Anneal(anneal))
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Bar)

    def write(self, folder: str | Path) -> None:
        """Write what is trained into a folder."""
        raise NotImplementedError

    def read(self, folder: str | Path) -> None:
        """Read back what `write` wrote."""
        raise NotImplementedError

    def last_good_checkpoint(self) -> Path | None:
        """The newest checkpoint that stays; one of this step is removed, as it holds the weights
        that were just found to be ruined."""
        if self.args.save_strategy == "no":
            return None
        if self.args.should_save:
            begin_anew(self._checkpoint_folder())
        last = last_whole(self._checkpoint_folder().parent, self._tensors)
        return None if is_temporary(self.args) else last

    def _checkpoint_folder(self) -> Path:
        return Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}"

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        order = super()._get_train_sampler(train_dataset)
        return even_sampler(order, self.train_dataset, self.args, self._train_batch_size)  # pyright: ignore[reportArgumentType]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self._checkpoint_folder()
        if self.args.should_save:
            begin_anew(folder)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        # torch and safetensors report a full disk by errors of their own.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            message = (
                f"the checkpoint of step {self.state.global_step} could not be written to "
                f"{folder}: {error}"
            )
            if not is_temporary(self.args):
                last = last_whole(folder.parent, self._tensors)
                whole = f"{last} is whole: resume=True goes on from it"
                message += (
                    f". Of the checkpoints before it {whole if last else 'there is no other'}"
                )
            number = getattr(error, "errno", None)
            raise OSError(*(() if number is None else (number,)), message) from error

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            self.write(output_dir or self.args.output_dir or ".")

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        self.read(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self.read(self.state.best_model_checkpoint)

    def fit(self, module: nn.Module, *, resume: bool | str) -> pd.DataFrame:
        """Train, and leave `module` in evaluation mode and without gradients.

        Args:
            module: what is trained.
            resume: whether it goes on, from the newest checkpoint or from the folder of one.

        Returns:
            The logged losses: step, epoch, loss.

        Raises:
            TrainingStopped: the loss or the weights became NaN or infinite.
            OSError: a checkpoint could not be written; those before it are whole.
        """
        module.train()
        try:
            self.train(resume_from_checkpoint=resume or None)
        finally:
            module.eval()
            module.zero_grad()
        return self.losses()

    def losses(self) -> pd.DataFrame:
        """Logged training losses: step, epoch, loss."""
        logged = [entry for entry in self.state.log_history if "loss" in entry]
        return pd.DataFrame(
            [{name: entry[name] for name in ("step", "epoch", "loss")} for entry in logged],
            columns=["step", "epoch", "loss"],
        )


def is_temporary(args: TrainingArguments) -> bool:
    """Whether the folder for checkpoints goes when the training ends."""
    folder = Path(args.output_dir or ".")
    return folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith(_TEMPORARY)


def use_one_copy(args: TrainingArguments) -> None:
    """Keep the Trainer from nn.DataParallel where one process sees several GPUs: what is trained
    lives where the model does, and copies of it would share no frozen model."""
    args._n_gpu = min(args.n_gpu, 1)


@contextmanager
def training_arguments(
    arguments: Mapping[str, Any],
    *,
    device: torch.device,
    evaluates: bool,
    progress: bool,
    checkpoints: str | Path | None,
) -> Iterator[TrainingArguments]:
    """transformers' arguments, as trainings here need them; without a folder for checkpoints a
    temporary one serves as long as the context lasts.

    Args:
        arguments: of transformers' TrainingArguments; they win over the ones here.
        device: where the model is.
        evaluates: whether there is something to evaluate each epoch.
        progress: show a progress bar.
        checkpoints: a folder for checkpoints, one an epoch.

    Raises:
        ValueError: transformers takes no such arguments, or no training here can have them; the
            best of no evaluations.
    """
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY) as temporary:
        made = _made(arguments, device, evaluates, progress, checkpoints, temporary)
        if is_temporary(made) and made.world_size > 1:
            # One for all of them: the first writes checkpoints, and each reads the best.
            made.output_dir = broadcast_object_list([made.output_dir])[0]
        yield made
        if made.world_size > 1:
            PartialState().wait_for_everyone()  # it goes with the first that leaves


def check_training_arguments(
    arguments: Mapping[str, Any],
    model: TransformerBridge,
    *,
    batch_size: int | None,
    evaluates: bool,
    checkpoints: str | Path | None,
) -> None:
    """Raise, before rows are prepared, where `training_arguments` would, or no training could
    begin with what it makes.

    Args:
        arguments: of transformers' TrainingArguments.
        model: the frozen one.
        batch_size: rows of a step over all processes, where each takes its share.
        evaluates: whether there is something to evaluate each epoch.
        checkpoints: a folder for checkpoints.

    Raises:
        ValueError: as `training_arguments`, `check_processes` and `share_of`; mixed precision; an
            evaluation of nothing; what transformers cannot report to.
        ImportError: an optimiser whose package is missing.
        RuntimeError: one to report to is missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated, which the training itself says
        made = _made(
            copy.deepcopy(dict(arguments)),
            device_of(model),
            evaluates,
            False,
            checkpoints,
            tempfile.gettempdir(),
        )
        _check_packages(made)
    check_processes(model, made)
    if batch_size is not None:
        share_of(batch_size, made.world_size)
    # Set by `accelerate config`, for what `accelerate launch` starts.
    check_precision(os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower(), made.device)
    asked = IntervalStrategy(made.eval_strategy)
    if not evaluates and asked != IntervalStrategy.NO:
        raise ValueError(f"eval_strategy is {asked.value!r}, but there are no rows to evaluate on")


def _check_packages(args: TrainingArguments) -> None:
    """Let transformers raise where the optimiser, or what is reported to, needs a package that is
    missing, as it would when the training begins."""
    with suppress(ValueError):  # some ask for the model, which they get in the training
        Trainer.get_optimizer_cls_and_kwargs(args)
    for callback in get_reporting_integration_callbacks(args.report_to):
        callback()


def _made(
    arguments: Mapping[str, Any],
    device: torch.device,
    evaluates: bool,
    progress: bool,
    checkpoints: str | Path | None,
    temporary: str,
) -> TrainingArguments:
    for name, reason in _WITHOUT.items():
        if arguments.get(name):
            raise ValueError(f"{name}: {reason}: leave it out")
    if arguments.get("train_sampling_strategy") == "group_by_length":
        raise ValueError(
            'train_sampling_strategy="group_by_length": rows come by their numbers, so that '
            "transformers cannot know their lengths: leave it out"
        )
    if arguments.get("load_best_model_at_end") and not evaluates:
        raise ValueError(
            "load_best_model_at_end: there are no rows to evaluate on, by which the best would be "
            "told: give some, or leave it out"
        )
    given: dict[str, Any] = {
        "output_dir": str(checkpoints or temporary),
        "disable_tqdm": not progress,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log something else in place of a NaN
        "save_strategy": "no" if checkpoints is None else "epoch",
        "eval_strategy": "epoch" if evaluates else "no",
        "report_to": "none",
        "use_cpu": device.type == "cpu",
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "dataloader_pin_memory": False,
        "label_names": ["labels"],
    }
    return TrainingArguments(**(given | dict(arguments)))


class _Anneal(TrainerCallback):
    """Tells what is trained how far its training is, before each step."""

    def __init__(self, anneal: Callable[[float], None]):
        self._anneal = anneal

    def on_step_begin(self, args, state, control, **kwargs):
        self._anneal(state.global_step / state.max_steps)


class _Bar(ProgressCallback):
    """The Trainer's progress bar, without a dictionary printed above it at each logging."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            if "loss" in logs:
                self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")
