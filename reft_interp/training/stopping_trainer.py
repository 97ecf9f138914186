"""transformers' Trainer, stopped at the first loss that is no number, with the last good weights.

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
from reft_interp.training.failures import GoodWeights, TrainingStopped, rows_without_number


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

    def trained(self) -> nn.Module:
        """What is trained, as it is handed on with a `TrainingStopped`."""
        return self._module()

    def last_good_checkpoint(self) -> Path | None:
        """The newest checkpoint that is no part of a step without a number, if any is kept."""
        return None

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
                "the trained directions are no longer independent or no numbers", chosen.numbers
            ) from error
        losses = self._of_all_processes(loss)
        if not torch.isfinite(losses).all():
            self._stop(float(losses[~torch.isfinite(losses)].flatten()[0]), chosen)
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
        if 0 < len(bad) < len(every):
            raise TrainingStopped(
                f"the loss became {loss} at step {self.state.global_step + 1}, in row(s) "
                f"{_numbers(bad)} of the batch of rows {_numbers(every)}; the others give numbers, "
                f"so look at what is in these rows. {self._holding} the weights "
                "before it",
                self.trained(),
                self.state.global_step + 1,
                bad,
            )
        raise self._stopped(f"the loss became {loss}", every)

    def _stopped(self, what: str, rows: list[int]) -> TrainingStopped:
        """Go back to the weights at which the loss was a number."""
        self._good.restore()
        step, last = self.state.global_step, self.last_good_checkpoint()
        kept = f"; the last good checkpoint is {last}" if last else ""
        return TrainingStopped(
            f"{what} at step {step + 1}: try a learning rate below {self.args.learning_rate}. (In "
            f"the batch of rows {_numbers(rows)}. {self._holding} the weights of "
            f"step {self._good.step} again{kept}.)",
            self.trained(),
            step + 1,
            rows,
        )


def _numbers(rows: list[int]) -> str:
    return ", ".join(map(str, rows))
