"""transformers' Trainer, for a classifier: its head and its interventions are trained together.

A checkpoint is a folder that `Classifier.load` reads, with the Trainer's own state beside it.
Below: `folder_trainer`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from reft_interp.encoding import IGNORED, TokenizedBatch
from reft_interp.evaluation.metrics import Metric
from reft_interp.positions import Positions
from reft_interp.runtime.frozen import Region
from reft_interp.training.checkpoints import FINGERPRINT
from reft_interp.training.classifier import Classifier
from reft_interp.training.classifier_saving import weight_files
from reft_interp.training.collating import RowsDataset, collate_rows
from reft_interp.training.folder_trainer import FolderTrainer
from reft_interp.training.prepared_labels import PreparedLabels
from reft_interp.training.processes import check_processes


class Objective(nn.Module):
    """The loss of a classifier, as transformers' Trainer asks for it.

    Cross-entropy of the labels, or of a single score the squared error, averaged over rows; and
    what the interventions add to it while they train.

    Args:
        classifier: what is trained.
    """

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(
        self,
        labels: Shaped[Tensor, "batch"],
        states: Float[Tensor, "batch d"] | None = None,
        batch: TokenizedBatch | None = None,
        positions: Sequence[Positions] | None = None,
        frozen: Sequence[Region] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            labels: numbers of classes, or scores.
            states: what the head reads, where that is constant.
            batch: the texts, where it is not.
            positions: the tokens that each placement edits.
            frozen: the constants of each row, to run only what the edits can change.
            num_items_in_batch: rows in all batches of one optimiser step; the loss is then the
                sum over this batch divided by it.
        """
        there = labels != IGNORED  # not so of what fills up a step of several processes
        if states is None:
            assert batch is not None  # PreparedLabels gives one of the two
            states = self.classifier.state(batch, positions, frozen)
        outputs = self.classifier.head(states)
        if self.classifier.classes is None:
            total = mse_loss(outputs[there, 0], labels[there], reduction="sum")
        else:
            total = cross_entropy(outputs, labels, reduction="sum", ignore_index=IGNORED)
        rows = len(labels) if num_items_in_batch is None else num_items_in_batch
        loss = total / rows
        intervened = self.classifier.intervened
        penalty = None if intervened is None else intervened.penalty()
        if penalty is not None:
            # Once for each optimiser step, over however many batches its loss is summed.
            loss = loss + there.sum() / rows * penalty
        return {"loss": loss, "logits": outputs}

    def anneal(self, progress: float) -> None:
        """Tell the interventions which share of their training is done, in [0, 1]."""
        if self.classifier.intervened is not None:
            self.classifier.intervened.anneal(progress)


class ClassifierTrainer(FolderTrainer):
    """Trains the head and the interventions of a `Classifier`, in place.

    Args:
        objective: the classifier's loss.
        args: transformers' arguments.
        train_rows: what is trained on.
        development: rows that the metric is computed of each epoch, where `args` asks for it.
        metric: of predicted and gold labels.
        fingerprint: what a training that goes on from a checkpoint has to have in common with
            this one; kept with each.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.
    """

    def __init__(
        self,
        objective: Objective,
        args: TrainingArguments,
        train_rows: PreparedLabels,
        development: PreparedLabels | None,
        metric: Metric,
        fingerprint: Mapping[str, Any],
        callbacks: Sequence[TrainerCallback] = (),
    ):
        def computed(found: EvalPrediction) -> dict[str, float]:
            outputs: Any = found.predictions
            scores = objective.classifier.classes is None
            predicted = outputs[:, 0] if scores else outputs.argmax(1)
            return {"score": metric(predicted.tolist(), found.label_ids.tolist())}  # pyright: ignore[reportAttributeAccessIssue]

        check_processes(objective.classifier.model, args)
        super().__init__(
            objective,
            args,
            collate_rows,
            RowsDataset(train_rows),
            None if development is None else RowsDataset(development),
            bridge=objective.classifier.model,
            holding="The head and the interventions hold"
            if objective.classifier.intervened
            else "The head holds",
            tensors=weight_files(objective.classifier),
            anneal=objective.anneal,
            callbacks=callbacks,
            compute_metrics=computed,
        )
        self._classifier = objective.classifier
        self._fingerprint = dict(fingerprint)

    def trained(self) -> Classifier:
        return self._classifier

    def write(self, folder: str | Path) -> None:
        self._classifier.save(folder, {FINGERPRINT: self._fingerprint})

    def read(self, folder: str | Path) -> None:
        self._classifier.load_weights(folder)

    def scores(self) -> pd.DataFrame:
        """The metric on the development rows: epoch, score."""
        logged = [entry for entry in self.state.log_history if "eval_score" in entry]
        return pd.DataFrame(
            [{"epoch": entry["epoch"], "score": entry["eval_score"]} for entry in logged],
            columns=["epoch", "score"],
        )
