"""Finetuning of an encoder, which answers by telling classes apart: a head is trained beside
whatever the method trains.

Here: what such a finetuned model is, how it trains for so many steps, and the head alone. Next
door: `fit_classifier` trains one by itself, for epochs, the best of which it keeps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.evaluation.metrics import exact_match
from reft_interp.models.devices import device_of
from reft_interp.runtime import IntervenedModel
from reft_interp.training.class_answers import ClassAnswers, class_answers
from reft_interp.training.classifier import Classifier
from reft_interp.training.classifier_trainer import ClassifierTrainer, Objective
from reft_interp.training.finetuning import (
    Constants,
    Finetuned,
    FinetuningMethod,
    Fit,
    Preparation,
    Schedule,
    TextRow,
    places,
)
from reft_interp.training.folder_trainer import training_arguments
from reft_interp.training.loss_curve import LossCurve, development_curve
from reft_interp.training.memory import peak_memory
from reft_interp.training.prepared_labels import PreparedLabels
from reft_interp.training.seeding import seeded


class ClassFinetuned(Finetuned):
    """A trained classifier, which says the answer that its class is.

    Args:
        classifier: what was trained.
        answers: what its classes are called.
        constants: of the rows whose loss is asked for again and again.
    """

    def __init__(
        self, classifier: Classifier, answers: ClassAnswers, constants: Constants | None = None
    ):
        self.classifier, self.answers = classifier, answers
        self._constants = constants or Constants()

    @property
    def trained_parameters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.classifier.intervention_parameters

    @property
    def head_parameters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.classifier.head_parameters

    def prepare(self, rows: Sequence[TextRow]) -> Preparation[PreparedLabels]:
        """The rows with their classes, and what is constant about them."""
        classifier = self.classifier
        intervened = classifier.intervened
        where = None if intervened is None else places(intervened.placements)
        return self._constants.once(
            classifier.model,
            rows,
            ("classes", where, classifier.states_are_constant, classifier.max_length),
            lambda: PreparedLabels(classifier, rows, self.answers.labels(rows)),
        )

    def summed_loss(self, rows, group):
        inputs = self.prepare(rows).rows.inputs(group)
        self.classifier.eval()
        summed = Objective(self.classifier)(**inputs, num_items_in_batch=1)["loss"]
        return float(summed), len(group)

    def continued(self, rows, **_):
        return self.answers.said(self.classifier.predict(rows))

    def save(self, folder):
        self.classifier.save(folder)


def fit_classes(
    model: TransformerBridge,
    rows: Sequence[TextRow],
    schedule: Schedule,
    begin: Callable[[int | None], Classifier],
    *,
    development: Sequence[TextRow] | None,
    measured_after: Sequence[int],
    constants: Constants | None,
) -> Fit:
    """Train a classifier for so many steps, as `fit_classifier` does with `max_steps`.

    Args:
        model: the frozen one.
        rows: as `class_answers` reads them.
        schedule: how long, how fast.
        begin: makes the untrained classifier of so many classes (None for scores).
        development: rows whose loss is measured while it trains.
        measured_after: after which steps that is.
        constants: kept from one training to the next.

    Raises:
        ValueError: rows that are not of the same classes.
    """
    answers = class_answers(rows)
    if development:
        class_answers(development, "development", like=answers)
    finetuned = ClassFinetuned(begin(answers.classes), answers, constants)
    once = finetuned.prepare(rows)
    curve = development_curve(finetuned, development, measured_after)
    with peak_memory(device_of(model)) as peak:
        _train(finetuned.classifier, once.rows, schedule, curve)
    return Fit(finetuned, curve.seconds, once.seconds, curve.points, once.with_training(peak.bytes))


def _train(
    classifier: Classifier, rows: PreparedLabels, schedule: Schedule, curve: LossCurve
) -> None:
    objective = Objective(classifier)
    with training_arguments(
        {**schedule.arguments, "per_device_train_batch_size": schedule.batch_size},
        device=device_of(classifier.model),
        evaluates=False,
        progress=False,
        checkpoints=None,
    ) as arguments:
        # No epoch is chosen, so that the metric is not asked.
        trainer = ClassifierTrainer(objective, arguments, rows, None, exact_match(), {}, [curve])
        trainer.fit(objective, resume=False)


def begin_classifier(
    model: IntervenedModel | TransformerBridge, schedule: Schedule, classes: int | None
) -> Classifier:
    """The untrained classifier; the same seed begins with the same head, whatever is edited."""
    with seeded(schedule.seed):
        return Classifier(model, classes, max_length=schedule.max_length)


@dataclass(frozen=True, eq=False)
class HeadAlone(FinetuningMethod):
    """The head of a classifier on a frozen encoder: what the states of the untouched model give.

    It is the head that every other method trains on the encoder too; see `Classifier`.

    Args:
        candidates: learning rates to choose from, the best guess first.
        name: in tables.
    """

    candidates: tuple[float, ...] = (1e-3, 3e-3, 3e-4)
    name: str = "head alone"
    only_for = "encoders"

    def fit(self, model, rows, schedule, *, development=None, measured_after=(), constants=None):
        self.check_model(model)
        return fit_classes(
            model, rows, schedule, partial(begin_classifier, model, schedule),
            development=development, measured_after=measured_after, constants=constants,
        )  # fmt: skip
