"""What a trained classifier is, how it scores, and how the training went.

Next door: `fit_classifier` makes these.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reft_interp.evaluation.metric_scores import Score, score
from reft_interp.evaluation.metrics import Metric
from reft_interp.runtime.batching import Rows
from reft_interp.training.classifier import Classifier
from reft_interp.training.labelled_rows import labels_of


@dataclass(frozen=True)
class ClassifierResult:
    """A trained classifier, and how the training went."""

    classifier: Classifier
    metric: Metric = field(repr=False)
    score: Score | None
    """On rows that neither trained it nor chose its epoch; None where there were none."""
    losses: pd.DataFrame = field(repr=False)
    """Training losses: step, epoch, loss."""
    epochs: pd.DataFrame = field(repr=False)
    """The metric on the development rows: epoch, score. The classifier is that of the best."""
    settings: dict[str, Any] = field(repr=False)
    """What it was trained with."""

    @property
    def name(self) -> str:
        """What is trained, as in "LoReFT and head" or "head alone"."""
        intervened = self.classifier.intervened
        if intervened is None:
            return "head alone"
        return f"{type(intervened.placements[0].intervention).__name__} and head"

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose weights were kept; None where there were no rows to choose on."""
        if self.epochs.empty:
            return None
        best = int(self.epochs["score"].to_numpy().argmax())
        return round(float(self.epochs["epoch"].to_numpy()[best]))

    def evaluate(
        self, rows: Rows, metric: Metric | None = None, *, batch_size: int = 64, seed: int = 0
    ) -> Score:
        """A metric on further rows, with its interval.

        Args:
            rows: with `label`.
            metric: instead of the one that chose the epoch.
            batch_size: rows run at once.
            seed: of the interval's resamples, where the metric is no share of rows.
        """
        gold = labels_of(rows)
        predicted = self.classifier.predict(rows, batch_size=batch_size)
        return score(metric or self.metric, predicted, gold, seed=seed)

    def __str__(self) -> str:
        classifier = self.classifier
        chosen = "" if self.best_epoch is None else f", epoch {self.best_epoch} chosen"
        return (
            f"{self.name}: {self.score or 'not scored'} "
            f"({classifier.intervention_parameters:,} parameters without the head, "
            f"{classifier.trained_parameters:,} with it{chosen})"
        )

    def save(self, folder: str | Path) -> None:
        """Write the classifier, its losses, and in the notes what it was trained with."""
        found = None if self.score is None else str(self.score)
        self.classifier.save(folder, {"training": self.settings, "score": found})
        self.losses.to_csv(Path(folder) / "losses.csv", index=False)
        self.epochs.to_csv(Path(folder) / "epochs.csv", index=False)
