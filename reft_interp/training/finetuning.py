"""Ways to adapt a frozen model to rows, behind one interface, so that they can be compared.

Here: what a method is, how long it trains, and what it leaves behind. Next door: `reft_method`
(interventions) and `prompting` (nothing is trained); `interop.peft_methods` has peft's. A decoder
learns to answer in words; an encoder to tell classes apart, by `class_finetuning`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.models.devices import device_of
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import Rows, as_list, by_length
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import is_causal
from reft_interp.training.hyperparameters import check_hyperparameters, check_warmup_and_decay
from reft_interp.training.memory import peak_memory

AT_ONCE = 32
"""Rows whose loss is computed at once."""

TextRow = Mapping[str, Any]
"""With `prompt`, and `answer` where it is trained on."""


@dataclass(frozen=True)
class Schedule:
    """How long a method trains, how fast, and how much of each text it reads.

    Raises:
        TypeError: steps, batch_size or seed are no whole number.
        ValueError: steps, batch_size or learning_rate are not above 0, or infinite; a warm-up that
            is no share, or a weight decay below 0.
    """

    steps: int
    batch_size: int = 16
    """Rows a step."""
    learning_rate: float = 4e-3
    """Of AdamW; falls linearly to zero after the warm-up."""
    warmup_ratio: float = 0.0
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    seed: int = 0
    """Of where the weights start, and of the order of rows."""
    max_length: int | None = None
    """Tokens after which an encoder's texts are cut; see `Classifier`."""

    def __post_init__(self) -> None:
        check_hyperparameters(
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        check_warmup_and_decay(warmup_ratio=self.warmup_ratio, weight_decay=self.weight_decay)

    @property
    def arguments(self) -> dict[str, Any]:
        """As arguments of transformers' TrainingArguments, but for the rows a step, which each
        process there has of its own."""
        return {
            "max_steps": self.steps,
            "learning_rate": self.learning_rate,
            "warmup_steps": round(self.warmup_ratio * self.steps),
            "weight_decay": self.weight_decay,
            "seed": self.seed,
        }


class Finetuned(ABC):
    """A model that a method has adapted."""

    trained_parameters: int
    """How many numbers were trained, without those of a classifier's head."""
    head_parameters: int = 0
    """How many numbers of a classifier's head were trained beside them."""

    def loss(self, rows: Sequence[TextRow]) -> float:
        """Cross-entropy of the answer tokens, in nats a token; of a classifier, that of the
        classes, in nats a row, or the squared error of scores."""
        with torch.no_grad():
            sums = [self.summed_loss(rows, group) for group in by_length(rows, AT_ONCE)]
        return sum(loss for loss, _ in sums) / sum(tokens for _, tokens in sums)

    def prepare(self, rows: Sequence[TextRow]) -> "Preparation[Any] | None":
        """Compute what is constant about rows whose loss will be asked for, if anything is.

        Args:
            rows: kept as they are, and as long as this is.
        """
        return None

    def generate(self, rows: Sequence[TextRow], *, batch_size: int, **options: Any) -> list[str]:
        """Continuations of the prompts, in their order.

        Args:
            rows: with `prompt`.
            batch_size: prompts run at once.
            options: of transformers' `generate`.
        """
        texts = [""] * len(rows)
        for group in self.groups(rows, batch_size):
            found = self.continued([rows[i] for i in group], **options)
            for i, text in zip(group, found, strict=True):
                texts[i] = text
        return texts

    @abstractmethod
    def summed_loss(self, rows: Sequence[TextRow], group: Sequence[int]) -> tuple[float, int]:
        """Cross-entropy of the answers of some of the rows (nats), and how many tokens they have;
        of a classifier, how many rows.

        Args:
            rows: all of them, which may be asked of again.
            group: the numbers of those that are asked of.
        """

    @abstractmethod
    def continued(self, rows: Sequence[TextRow], **options: Any) -> list[str]:
        """Continuations of some prompts, run at once.

        Args:
            rows: with `prompt`.
            options: of transformers' `generate`.
        """

    def groups(self, rows: Sequence[TextRow], size: int) -> Iterable[list[int]]:
        """Numbers of rows that may be continued at once, so many at most."""
        return by_length(rows, size)

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write what was trained, and nothing of the model."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A training: what it left, and what it cost."""

    finetuned: Finetuned
    seconds: float = 0.0
    """Of all training steps together."""
    preparation_seconds: float = 0.0
    """Once before the first step: constants of the frozen model, which trainings with the same
    placements share."""
    curve: Sequence[tuple[int, float, float]] = field(default=(), repr=False)
    """Steps done, seconds of training until then, loss on the development rows."""
    memory: int | None = None
    """Bytes at the peak, above what was held before, the constants of the rows trained on among
    them, whichever training prepared them, and not those of development rows. None where nothing is
    trained, or it cannot be known."""


@runtime_checkable
class Held(Protocol):
    """Rows with what is constant about them."""

    @property
    def nbytes(self) -> int:
        """Memory of the constants that are kept."""
        ...


H = TypeVar("H", bound=Held)


@dataclass(frozen=True, eq=False)
class Preparation(Generic[H]):
    """Rows with what is constant about them, and what that took."""

    rows: H
    seconds: float
    peak: int | None
    """Bytes while they were prepared."""

    def with_training(self, peak: int | None) -> int | None:
        """Bytes at the peak of a preparation and a training on what it left.

        Args:
            peak: bytes of the training.
        """
        if peak is None or self.peak is None:
            return None
        return max(self.peak, self.rows.nbytes + peak)


class Constants:
    """What is constant about rows, computed once for all trainings with the same placements.

    Rows are told apart by identity, so they must be kept as long as this is.
    """

    def __init__(self) -> None:
        self._held: dict[Any, tuple[Any, Preparation[Any]]] = {}

    def of(
        self, intervened: IntervenedModel, rows: Sequence[TextRow], at_once: int
    ) -> Preparation[PreparedRows]:
        """The rows as they are prepared for these placements, whenever that was.

        Args:
            intervened: with the placements.
            rows: what is prepared.
            at_once: rows that run together while they are prepared.
        """
        return self.once(
            intervened.model,
            rows,
            places(intervened.placements),
            lambda: PreparedRows(intervened, rows, batch_size=at_once),
        )

    def once(
        self,
        model: TransformerBridge,
        rows: Sequence[TextRow],
        where: Hashable,
        prepare: Callable[[], H],
    ) -> Preparation[H]:
        """The rows as they are prepared, whenever that was.

        Args:
            model: the frozen one.
            rows: what is prepared.
            where: what else decides what is constant.
            prepare: does it.
        """
        key = id(model), id(rows), where
        if key not in self._held:
            with peak_memory(device_of(model)) as peak:
                began = time.perf_counter()
                prepared = prepare()
                seconds = time.perf_counter() - began
            self._held[key] = rows, Preparation(prepared, seconds, peak.bytes)
        return self._held[key][1]


def places(placements: Sequence[Placement]) -> Hashable:
    """Which sites and tokens of a model are edited, however they are."""
    return tuple((str(p.site), p.on) for p in placements)


class FinetuningMethod(ABC):
    """A way to adapt a model, with one setting that is tuned on development rows."""

    name: str
    candidates: tuple[float, ...] = ()
    """Values of the tuned setting, the best guess first; none where nothing is trained."""
    tuned: Literal["learning rate", "C"] = "learning rate"
    """Which setting it is."""
    varies: bool = True
    """Whether another seed gives another result."""
    only_for: Literal["decoders", "encoders"] | None = None
    """Which models it adapts, where those are not both."""

    @abstractmethod
    def fit(
        self,
        model: TransformerBridge,
        rows: Sequence[TextRow],
        schedule: Schedule,
        *,
        development: Sequence[TextRow] | None = None,
        measured_after: Sequence[int] = (),
        constants: Constants | None = None,
    ) -> Fit:
        """Train on rows with `prompt` and `answer`; those of an encoder have classes besides, as
        `class_answers` reads them.

        Args:
            model: a TransformerBridge, whose weights stay as they are.
            rows: what is trained on.
            schedule: how long, how fast.
            development: rows whose loss is measured while it trains.
            measured_after: after which steps that is; the clock stands meanwhile.
            constants: kept from one training to the next.
        """

    def edited_places(self, model: TransformerBridge) -> Hashable:
        """Where it edits the frozen model: methods for which this is the same can share
        `Constants`. None where it keeps none that another method could use.

        Args:
            model: a TransformerBridge.
        """
        return None

    def check_model(self, model: TransformerBridge) -> None:
        """Raise where the method is not for a model.

        Raises:
            ValueError: it is an encoder, and the method generates text; or it is a decoder, and
                the method trains a classifier's head.
        """
        name, causal = model.cfg.model_name, is_causal(model)
        if self.only_for == "decoders" and not causal:
            raise ValueError(
                f"methods: {self.name!r} is for decoders, and {name} is an encoder, which gives "
                "no text: what its untouched states give is 'head alone', which compare always "
                "puts beside the others"
            )
        if self.only_for == "encoders" and causal:
            raise ValueError(
                f"methods: {self.name!r} is for encoders, and {name} is a decoder, which answers "
                "in words: 'linear head' is a readout of its last state"
            )

    def describe(self) -> dict[str, Any]:
        """What makes it another method, as JSON."""
        return {"name": self.name, "tuned": self.tuned, "candidates": list(self.candidates)}


def plain_rows(rows: Rows) -> list[TextRow]:
    """Rows of a data set as a list, each with `prompt`, and `answer` where it has one."""
    return [dict(row) for row in as_list(rows)]


def end_of_text(model: TransformerBridge) -> str:
    """What ends an answer, so that a continuation ends by itself; nothing where there is no such
    token."""
    return model.tokenizer.eos_token or ""
