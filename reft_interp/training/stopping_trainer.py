"""transformers' Trainer, stopped at the first loss that is no number, with the last good weights.

Where a whole batch has none, the batch before it tells whether its rows or the weights are at
fault. What the last step did is seen in no further loss, so its batch is run once more.

Below: `failures`, which finds the rows at fault. Above: `folder_trainer`, which also saves and
resumes.
"""

from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import Trainer

from reft_interp.models.sharding import is_sharded
from reft_interp.training.collating import RowsOfBatch
from reft_interp.training.failures import (
    GoodWeights,
    TrainingStopped,
    gives_number,
    rows_without_number,
)

_NO_DIRECTIONS = "the trained directions are no longer independent or no numbers"


class StoppingTrainer(Trainer):
    """Trains a module on batches that say which rows they hold, as `RowsOfBatch` under "rows".

    Args:
        module: what is trained.
        bridge: the frozen model underneath.
        holding: what holds the weights, in messages, as "The interventions hold".
        options: of transformers' Trainer.
    """

    def __init__(self, module: nn.Module, bridge: TransformerBridge, holding: str, **options: Any):
        super().__init__(model=module, **options)
        # `forward` divides by what a whole step holds.
        self.model_accepts_loss_kwargs = True
        self._bridge = bridge
        self._holding = holding
        self._good = GoodWeights(module)
        self._last: RowsOfBatch | None = None  # whose loss was a number

    def trained(self) -> nn.Module:
        """What is trained, as it is handed on with a `TrainingStopped`."""
        return self._module()

    def last_good_checkpoint(self) -> Path | None:
        """The newest checkpoint that is no part of a step without a number, if any is kept."""
        return None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; a last step, or one before an evaluation, that ruined the weights ends it.

        Raises:
            TrainingStopped: the weights are no numbers, or the last batch gives none with them.
        """
        try:
            found = super().train(*args, **kwargs)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise self._ruined(_NO_DIRECTIONS) from error  # in an evaluation
        if not self._good.are_finite():
            raise self._ruined("the weights became NaN or infinite")
        if not self._last_gives_number():
            raise self._ruined("the weights became such that the loss is no number")
        return found

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The Trainer's step, which ends the training where it gives no number.

        Raises:
            TrainingStopped: the loss is no number; the rows at fault are named.
        """
        self._good.begin(self.state.global_step)
        chosen: RowsOfBatch = inputs["rows"]
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise self._stopped(
                _NO_DIRECTIONS, chosen.numbers, self.state.global_step + 1
            ) from error
        losses = self._of_all_processes(loss)
        if not torch.isfinite(losses).all():
            self._stop(float(losses[~torch.isfinite(losses)].flatten()[0]), chosen)
        if chosen.numbers or self._last is None:
            self._last = chosen
        return loss

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any):
        """The Trainer's, of a batch without its row numbers."""
        inputs = {name: value for name, value in inputs.items() if name != "rows"}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _module(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def _of_all_processes(self, loss: Tensor) -> Tensor:
        return cast("Tensor", self.accelerator.gather(loss))

    def _stop(self, loss: float, chosen: RowsOfBatch) -> None:
        """End a training whose loss is no number, in all processes."""
        every = gather_object(list(chosen.numbers))
        runs = max(gather_object([len(chosen.numbers)])) if is_sharded(self._bridge) else 0
        bad = gather_object(rows_without_number(self._module(), chosen, runs))
        step = self.state.global_step + 1
        some = 0 < len(bad) < len(every)
        # Where no row gives a number, those of the batch before tell whether the weights can.
        if some or (bad and self._good.are_finite() and self._last_gives_number()):
            if some:
                rest = "the others give numbers, so look at what is in these rows"
            elif self._last is not None:
                rest = "those before them give numbers, so look at what is in these rows"
            else:
                rest = (
                    "no batch came before it, so look at what is in these rows, or whether the "
                    "model gives numbers at all"
                )
            raise TrainingStopped(
                f"the loss became {loss} at step {step}, in row(s) {_numbers(bad)} of the batch of "
                f"rows {_numbers(every)}; {rest}. {self._holding} the weights before it",
                self.trained(),
                step,
                bad,
            )
        raise self._stopped(f"the loss became {loss}", every, step)

    def _last_gives_number(self) -> bool:
        """Whether the last batch whose loss was a number has one with the present weights, in all
        processes. Before the first there is nothing against the weights."""
        if self._last is None:
            return True
        return all(gather_object([gives_number(self._module(), self._last)]))

    def _ruined(self, what: str) -> TrainingStopped:
        """Go back to the weights before the step that was taken last."""
        step = self.state.global_step
        self._good.begin(step)
        rows = gather_object([] if self._last is None else list(self._last.numbers))
        return self._stopped(what, rows, step)

    def _stopped(self, what: str, rows: list[int], step: int) -> TrainingStopped:
        """Go back to the weights at which the loss was a number."""
        self._good.restore()
        last = self.last_good_checkpoint()
        kept = f"; the last good checkpoint is {last}" if last else ""
        return TrainingStopped(
            f"{what} at step {step}: try a learning rate below {self.args.learning_rate}. (In "
            f"the batch of rows {_numbers(rows)}. {self._holding} the weights of "
            f"step {self._good.step} again{kept}.)",
            self.trained(),
            step,
            rows,
        )


def _numbers(rows: list[int]) -> str:
    return ", ".join(map(str, rows))
