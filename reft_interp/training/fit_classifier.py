"""Fit a classification head and interventions in a frozen model together, in one call.

As Wu et al. 2024 do it on GLUE (arXiv:2404.03592, section 4.5 and appendix D). Next door:
`reft` trains a model to answer in words.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from datasets import Dataset
from transformer_lens.model_bridge import TransformerBridge
from transformers import TrainerCallback

from reft_interp.evaluation.metric_scores import score
from reft_interp.evaluation.metrics import Metric
from reft_interp.interventions import Intervention
from reft_interp.models.devices import device_of
from reft_interp.positions import PositionSelector
from reft_interp.runtime.batching import Row, Rows
from reft_interp.runtime.planning import Engine
from reft_interp.sites import Site
from reft_interp.training.checkpoints import (
    CHOOSING,
    FINGERPRINT,
    check_folder,
    check_same_training,
    hash_of,
    newest_whole,
    rows_a_step,
)
from reft_interp.training.classifier import Classifier
from reft_interp.training.classifier_result import ClassifierResult, default_metric
from reft_interp.training.classifier_saving import HEAD, read_config, weight_files
from reft_interp.training.classifier_trainer import ClassifierTrainer, Objective
from reft_interp.training.folder_trainer import check_training_arguments, training_arguments
from reft_interp.training.hyperparameters import check_warmup_and_decay
from reft_interp.training.in_place import checked_settings
from reft_interp.training.labelled_rows import (
    classes_of,
    halve,
    labels_of,
    warn_of_whole_scores,
)
from reft_interp.training.prepared_labels import PreparedLabels
from reft_interp.training.processes import share_of
from reft_interp.training.reft import place_reft
from reft_interp.training.results import saved_settings
from reft_interp.training.seeding import seeded


@runtime_checkable
class LabelledSplits(Protocol):
    """Rows in splits, with their metric, as `reft_interp.tasks.suites.glue` makes them."""

    @property
    def train(self) -> Dataset | None: ...

    @property
    def development(self) -> Dataset | None:
        """Rows to choose an epoch on."""
        ...

    @property
    def tests(self) -> Mapping[str, Dataset]:
        """Rows to report on."""
        ...

    @property
    def metric(self) -> Metric: ...


def fit_classifier(
    model: TransformerBridge,
    rows: Rows | LabelledSplits,
    intervention: Intervention | None,
    site: Site | Sequence[Site] | None = None,
    on: str | int | Sequence[int] | PositionSelector = "f3+l3",
    *,
    validation: Rows | None = None,
    metric: Metric | None = None,
    shared: bool = False,
    epochs: int | float = 10,
    learning_rate: float = 6e-4,
    batch_size: int = 32,
    warmup_ratio: float | int = 0.0,
    weight_decay: float | int = 0.0,
    head_dropout: float | int | None = None,
    max_length: int | None = None,
    classes: int | None = None,
    seed: int = 42,
    shuffled_labels: bool = False,
    progress: bool = True,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> ClassifierResult:
    """Train a head on a frozen model's last hidden state, and interventions with it.

    Wu et al. 2024 (arXiv:2404.03592), section 4.5 and appendix D: cross-entropy of the labels, or
    the squared error where they are scores (STS-B); of the validation rows one part chooses the
    best epoch, and the score is reported on the other, which nothing has seen. Theirs draw the
    parts anew for each of the seeds 42 to 46, and so do plain rows here; a suite of GLUE is halved
    by its own seed: `glue("rte", seed=43)`. In their script the frozen model's own dropout is on
    while it trains, and here it is off.

    Args:
        model: a TransformerBridge, as `load_model` gives it: an encoder (BERT, RoBERTa) or a
            decoder. See `Classifier` for what is read of a row, and which head it gets.
        rows: what is trained on: a suite of GLUE, or rows with `label`, the number of a class or
            (a float) a score.
        intervention: a template, as `LoReFT(rank=1)`, or one that has begun elsewhere: it goes on
            itself, or, at several sites that are not `shared`, a copy of it at each. None for the
            head alone, a probe of the frozen model.
        site: where; one or several.
        on: which tokens are edited. On GLUE the paper's are the first, as "f3"; a decoder's head
            reads the last.
        validation: rows to be halved by the seed, where `rows` are no suite. Without any, the
            last epoch is kept and nothing is scored.
        metric: what chooses the epoch and is reported; the suite's, else accuracy, or of scores
            Pearson's correlation.
        shared: one module for all sites, rather than one for each.
        epochs: passes over the rows.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: rows a step, over all processes: launched by torchrun or `accelerate launch`,
            each takes its share, and the weights are those of one process; but with dropout
            (an encoder's head has it by default) each draws its own, as another seed would.
        warmup_ratio: share of the steps in which the learning rate rises.
        weight_decay: of AdamW.
        head_dropout: of the head; see `Classifier`. That of an edit is `LoReFT(dropout=...)`.
        max_length: tokens after which an encoder's texts are cut.
        classes: how many there are, where the rows at hand may not have all of them.
        seed: of where the weights start, the order of rows, the halves, and dropout.
        shuffled_labels: a control: the training rows' labels are permuted by the seed.
        progress: show a progress bar.
        checkpoints: a folder for checkpoints, one an epoch; a temporary one by default.
        resume: go on from the newest whole checkpoint there, which must be of a training of the
            same interventions, rows, labels, metric, max_length, rows a step and seed.
        engine: "full" forces the plain run; see `PreparedRows`.
        memory_budget: bytes that constants of the rows may take; see `PreparedRows`.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.
        arguments: further arguments of transformers' TrainingArguments; they win over those here.

    Raises:
        TypeError: an argument that nobody knows, or that cannot be saved as JSON; a label that is
            no number.
        ValueError: a site that the model lacks, a row without label, texts or tokens to edit,
            labels that are not finite, or of which nobody can say whether they are classes or
            scores, validation rows beside a suite, settings that no training can have, checkpoints
            of another training: all before the first step.
        ImportError: an optimiser whose package is missing.
        RuntimeError: a package to report to is missing.
        TrainingStopped: the loss became NaN or infinite. It names the rows; the classifier, its
            `trained`, holds the last good weights.
    """
    trained_with = checked_settings(
        epochs,
        arguments,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        caller=fit_classifier,
    )
    check_warmup_and_decay(warmup_ratio=warmup_ratio, weight_decay=weight_decay)
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if arguments.get(name):
            raise ValueError(
                f"{name}: blocks run again for interventions alone (fit_reft). For less memory "
                "give a smaller per_device_train_batch_size, and gradient_accumulation_steps"
            )
    told = trained_with | saved_settings(
        warmup_ratio=warmup_ratio,
        weight_decay=weight_decay,
        shuffled_labels=shuffled_labels,
        shared=shared,
        engine=engine,
    )
    seed, batch_size = told["seed"], told["batch_size"]
    if resume and checkpoints is None:
        raise ValueError("resume=True needs checkpoints=, the folder to resume from")
    if checkpoints is not None:
        check_folder(checkpoints, resume=resume, tensors=[HEAD])
    train, development, test = _splits(rows, validation, seed)
    labels = [labels_of(train, "rows")]
    labels += [labels_of(some, "validation") for some in (development, test) if some is not None]
    known = classes_of(labels)
    if classes is not None and (known is None or classes < known):
        has = "scores" if known is None else f"labels up to {known - 1}"
        raise ValueError(f"classes: {classes} were given, but the rows have {has}")
    if known is None:
        warn_of_whole_scores(labels)
        labels = [[float(label) for label in some] for some in labels]
    if shuffled_labels:
        random.Random(f"shuffled labels {seed}").shuffle(labels[0])
    given = _of_trainer(told, arguments, development is not None, checkpoints)
    check_training_arguments(
        given,
        model,
        batch_size=None if "per_device_train_batch_size" in arguments else batch_size,
        evaluates=development is not None,
        checkpoints=checkpoints,
    )
    classifier = _begin(
        model, intervention, site, on, shared, classes or known, head_dropout, max_length, seed
    )
    chosen = metric or _metric_of(rows, known)

    def prepared(some: Rows, of_rows: list[int] | list[float]) -> PreparedLabels:
        return PreparedLabels(classifier, some, of_rows, engine=engine, memory_budget=memory_budget)

    if test is not None:
        # What is wrong with them should not come out when the training is done.
        classifier.check(test, "validation")
    for gold in labels[1:]:
        chosen(gold, gold)
    train_rows = prepared(train, labels[0])
    held_out = None if development is None else prepared(development, labels[1])
    settings = told | {"rows": [len(some) for some in labels], "metric": chosen.name}
    with training_arguments(
        given,
        device=device_of(model),
        evaluates=held_out is not None,
        progress=progress,
        checkpoints=checkpoints,
    ) as of_trainer:
        if "per_device_train_batch_size" not in arguments:
            share = share_of(batch_size, of_trainer.world_size)
            of_trainer.per_device_train_batch_size = share
        objective = Objective(classifier)
        here = {
            "interventions": _places(classifier),
            "rows": _hash(train, labels[0]),
            CHOOSING: None if development is None else _hash(development, labels[1]),
            "metric": None if development is None else chosen.name,
            "max_length": classifier.max_length,
            "rows a step": rows_a_step(of_trainer),
            "seed": seed,
        }
        trainer = ClassifierTrainer(
            objective, of_trainer, train_rows, held_out, chosen, here, callbacks
        )
        start = None
        if resume and checkpoints is not None:
            start = newest_whole(checkpoints, weight_files(classifier))
            check_same_training(start, here, _notes_of(start))
        losses = trainer.fit(objective, resume=False if start is None else str(start))
    found = None
    if test is not None:
        found = score(chosen, classifier.predict(test), labels[-1])
    return ClassifierResult(classifier, chosen, found, losses, trainer.scores(), settings)


def _of_trainer(
    told: Mapping[str, Any],
    arguments: Iterable[str],
    chooses: bool,
    checkpoints: str | Path | None,
) -> dict[str, Any]:
    """What transformers calls the settings; an epoch is chosen where there are rows for that."""
    given: dict[str, Any] = {
        "num_train_epochs": told["epochs"],
        "learning_rate": told["learning_rate"],
        "per_device_train_batch_size": told["batch_size"],
        "per_device_eval_batch_size": max(told["batch_size"], 64),
        "warmup_steps": told["warmup_ratio"],
        "weight_decay": told["weight_decay"],
        "seed": told["seed"],
        "prediction_loss_only": False,
    }
    if chooses:
        given |= {
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "score",
            "greater_is_better": True,
            # Of a temporary folder nobody needs more than the best.
            "save_total_limit": 1 if checkpoints is None else None,
        }
    return given | {name: told[name] for name in arguments}


def _begin(
    model: TransformerBridge,
    intervention: Intervention | None,
    site: Site | Sequence[Site] | None,
    on: str | int | Sequence[int] | PositionSelector,
    shared: bool,
    classes: int | None,
    head_dropout: float | int | None,
    max_length: int | None,
    seed: int,
) -> Classifier:
    """The untrained classifier; the same seed begins with the same head, whatever is edited."""
    if intervention is None and site is not None:
        raise ValueError(f"intervention is None, the head alone, so site must be too, got {site}")
    if intervention is not None and site is None:
        raise ValueError("site must be at least one Site, got none")
    placed = (
        model
        if intervention is None or site is None
        else place_reft(model, intervention, site, on, shared=shared, seed=seed)
    )
    with seeded(seed):
        return Classifier(placed, classes, head_dropout=head_dropout, max_length=max_length)


def _places(classifier: Classifier) -> list[str]:
    intervened = classifier.intervened
    return [] if intervened is None else [str(placement) for placement in intervened.placements]


def _notes_of(checkpoint: Path) -> dict[str, Any]:
    """The notes of a checkpoint; `max_length` is told of all of them, at least beside the notes."""
    config = read_config(checkpoint)
    saved = {"max_length": config["max_length"], **config["notes"].get(FINGERPRINT, {})}
    return {**config["notes"], FINGERPRINT: saved}


def _hash(rows: Rows, labels: Sequence[int | float]) -> str:
    # As they were given: an encoder may read other columns than the prompt.
    given = cast("Iterable[Row]", rows)
    return hash_of([[row, label] for row, label in zip(given, labels, strict=True)])


def _splits(
    rows: Rows | LabelledSplits, validation: Rows | None, seed: int
) -> tuple[Rows, Rows | None, Rows | None]:
    """Rows to train on, to choose an epoch on, and to report on."""
    if not isinstance(rows, LabelledSplits):
        if validation is None:
            return rows, None, None
        return rows, *halve(validation, seed)
    if validation is not None:
        raise ValueError("validation: the suite has its own, which are its development and tests")
    if rows.train is None:
        raise ValueError("rows: the suite has no rows to train on")
    if len(rows.tests) > 1:
        raise ValueError(
            f"rows: the suite has {len(rows.tests)} test sets, and one is reported on: give its "
            "train, and the other rows as validation"
        )
    return rows.train, rows.development, next(iter(rows.tests.values()), None)


def _metric_of(rows: Rows | LabelledSplits, classes: int | None) -> Metric:
    if isinstance(rows, LabelledSplits):
        return rows.metric
    return default_metric(classes)
