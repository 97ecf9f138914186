"""One training among many that share their steps: what is trained, on what, and how."""

from dataclasses import dataclass, field

from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.training.collating import check_trainable
from reft_interp.training.hyperparameters import check_hyperparameters
from reft_interp.whole_numbers import at_least_one, whole_number


@dataclass(frozen=True)
class Cell:
    """One training among many: what is trained, on what, and how.

    Args:
        intervened: trained in place. No two cells share an intervention.
        rows: what it is trained on, prepared for it (`prepare_each` shares constants).
        evaluation_rows: what early stopping looks at, once an epoch.
        epochs: passes over the rows.
        learning_rate: of AdamW.
        batch_size: rows a step.
        seed: of the order of rows.
        lr_scheduler_type: a schedule of transformers' `get_scheduler`.
        warmup_steps: steps in which the learning rate rises from zero.
        max_grad_norm: the gradient of this cell is scaled down to this norm; 0 for no limit.
        patience: stop after so many epochs without a lower evaluation loss, and go back to the
            best weights; never by default.

    Raises:
        TypeError: epochs, batch_size, warmup_steps or patience are no whole number.
        ValueError: nothing to train; rows that were prepared for other placements; early stopping
            without evaluation rows; a number out of range.
    """

    intervened: IntervenedModel
    rows: PreparedRows
    evaluation_rows: PreparedRows | None = None
    epochs: int = field(default=1, kw_only=True)
    learning_rate: float = field(default=4e-3, kw_only=True)
    batch_size: int = field(default=16, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    lr_scheduler_type: str = field(default="linear", kw_only=True)
    warmup_steps: int = field(default=0, kw_only=True)
    max_grad_norm: float = field(default=1.0, kw_only=True)
    patience: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_trainable(self.intervened)
        self.rows.check_made_for(self.intervened)
        if self.evaluation_rows is not None:
            self.evaluation_rows.check_made_for(self.intervened, "evaluation_rows")
        check_hyperparameters(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            whole_epochs=True,
        )
        steps = self.warmup_steps
        if whole_number(steps, f"warmup_steps must be a whole number, got {steps!r}") < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {steps}")
        if not self.max_grad_norm >= 0:  # not so for NaN
            raise ValueError(f"max_grad_norm must be at least 0, got {self.max_grad_norm}")
        if self.patience is not None:
            at_least_one(self.patience, "patience")
            if self.evaluation_rows is None:
                raise ValueError(f"patience={self.patience} needs evaluation_rows, got none")

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the rows; the last may be smaller."""
        return -(-len(self.rows) // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.steps_per_epoch * self.epochs
