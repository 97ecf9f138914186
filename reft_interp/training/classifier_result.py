"""What a trained classifier is, how it scores, and how the training went.

Next door: `fit_classifier` makes these.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.evaluation.metric_scores import Score, score
from reft_interp.evaluation.metrics import Metric, exact_match, pearson
from reft_interp.runtime.batching import Rows
from reft_interp.saved_files import reading
from reft_interp.training.classifier import Classifier
from reft_interp.training.classifier_saving import CONFIG, read_config
from reft_interp.training.labelled_rows import labels_of
from reft_interp.whole_files import write_whole


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
        found = None if self.score is None else asdict(self.score)
        self.classifier.save(folder, {"training": self.settings, "score": found})
        write_whole(Path(folder) / "losses.csv", self.losses.to_csv(index=False))
        write_whole(Path(folder) / "epochs.csv", self.epochs.to_csv(index=False))

    @classmethod
    def load(
        cls, folder: str | Path, model: TransformerBridge, metric: Metric | None = None
    ) -> "ClassifierResult":
        """Read what `save` wrote.

        Args:
            folder: that it was saved in.
            model: that it was trained on.
            metric: that chose the epoch; accuracy for classes and Pearson's correlation for
                scores by default.

        Raises:
            FileNotFoundError: the folder holds no saved result.
            ValueError: it does not fit the model, says nothing of a training, or its epoch was
                chosen by another metric.
        """
        folder = Path(folder)
        classifier = Classifier.load(folder, model)
        notes = read_config(folder)["notes"]
        if "training" not in notes:
            raise ValueError(
                f"{folder} holds a classifier, but nothing of how it was trained: read it with "
                "Classifier.load"
            )
        metric = metric or default_metric(classifier.classes)
        with reading(folder / CONFIG, "the training"):
            settings, found = notes["training"], notes["score"]
            chosen_by = settings["metric"]
            held = found and Score(**found | {"interval": tuple(found["interval"])})
        if chosen_by != metric.name:
            raise ValueError(
                f"metric must be {chosen_by}, by which the classifier in {folder} was chosen, got "
                f"{metric.name}"
            )
        losses, epochs = (pd.read_csv(folder / name) for name in ("losses.csv", "epochs.csv"))
        return cls(classifier, metric, held, losses, epochs, settings)


def default_metric(classes: int | None) -> Metric:
    """Accuracy of classes, Pearson's correlation of scores."""
    return exact_match() if classes is not None else pearson()
