"""transformers' Trainer for modules beside a frozen model, whose checkpoints are readable folders.

Schedules, accumulation, evaluation, early stopping, checkpoints and exact resume are the
Trainer's. What differs: a checkpoint holds what the trained module itself saves, with the
Trainer's own state beside it. `trainer` trains interventions with it, `classifier_trainer` a
classifier.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback


class FolderTrainer(Trainer):
    """Trains a module that writes itself into a folder and reads itself from there.

    Args:
        module: what is trained. Its `forward` takes what `collator` makes and gives a `loss`
            that it divides by `num_items_in_batch`, so that accumulating gradients over small
            batches gives exactly the step of one large batch.
        args: transformers' arguments.
        collator: makes a batch of items.
        train_rows: what is trained on.
        evaluation_rows: what is evaluated, where `args` asks for it.
        anneal: told before each step which share of the training is done.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.
        options: further options of transformers' Trainer.
    """

    def __init__(
        self,
        module: nn.Module,
        args: TrainingArguments,
        collator: Callable[[Sequence[Any]], dict[str, Any]],
        train_rows: Dataset,
        evaluation_rows: Dataset | None = None,
        *,
        anneal: Callable[[float], None],
        callbacks: Sequence[TrainerCallback] = (),
        **options: Any,
    ):
        use_one_copy(args)
        super().__init__(
            model=module,
            args=args,
            data_collator=collator,
            train_dataset=train_rows,
            eval_dataset=evaluation_rows,
            callbacks=[*callbacks, _StopAtNaN()],
            **options,
        )
        self.model_accepts_loss_kwargs = True
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
            ValueError: the loss or the weights became NaN or infinite.
        """
        module.train()
        try:
            self.train(resume_from_checkpoint=resume or None)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise ValueError(
                f"the trained directions are no longer independent or no numbers at step "
                f"{self.state.global_step}: try a learning rate below {self.args.learning_rate}"
            ) from error
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
    """
    with tempfile.TemporaryDirectory() as temporary:
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
        yield TrainingArguments(**(given | dict(arguments)))


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


class _StopAtNaN(TrainerCallback):
    """Ends a training whose loss is no number, rather than going on with ruined weights."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not torch.isfinite(torch.tensor(float(loss))):
            raise ValueError(
                f"the loss became {loss} at step {state.global_step}: "
                f"try a learning rate below {args.learning_rate}"
            )
