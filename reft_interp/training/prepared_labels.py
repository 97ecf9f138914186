"""Labelled rows with all that is constant about them while a classifier trains.

With interventions that is what `PreparedRows` holds; without, the hidden state that the head
reads, since nothing below it changes. Where the model's own weights are adapted, nothing is.
"""

from collections.abc import Sequence
from typing import Any

import torch

from reft_interp.encoding import IGNORED
from reft_interp.models.devices import device_of
from reft_interp.runtime.batching import Rows, encode
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.training.classifier import Classifier
from reft_interp.training.labelled_rows import texts_of


class PreparedLabels:
    """Rows as a classifier trains on them.

    Args:
        classifier: whose interventions decide what is constant.
        rows: what is read.
        labels: one for each row: numbers of classes, or scores.
        engine: "full" forces the plain run; see `PreparedRows`.
        memory_budget: bytes that constants may take; see `PreparedRows`.

    Raises:
        ValueError: a row that cannot be read, or has no token that is edited; not as many labels
            as rows; a label that is no class of the classifier's, or a score of -100.
    """

    def __init__(
        self,
        classifier: Classifier,
        rows: Rows,
        labels: Sequence[int] | Sequence[float],
        *,
        engine: Engine = "auto",
        memory_budget: int | None = None,
    ):
        texts = texts_of(classifier.model, rows)
        if len(labels) != len(texts):
            raise ValueError(f"labels: {len(labels)} for {len(texts)} rows; one for each")
        if classifier.classes is not None and max(labels) >= classifier.classes:
            raise ValueError(
                f"labels must be below {classifier.classes}, the number of classes, got "
                f"{max(labels)}"
            )
        if classifier.classes is None and IGNORED in labels:
            raise ValueError(
                f"labels: the score of row {list(labels).index(IGNORED)} is {IGNORED}, by which "
                "training marks a row that has none: shift or scale the scores"
            )
        kind = torch.float32 if classifier.classes is None else torch.long
        self.labels = torch.tensor(labels, dtype=kind, device=device_of(classifier.model))
        self._states = self._prepared = None
        # Not the classifier: what is trained in it goes when the training does.
        self._model, self._texts, self._max_length = classifier.model, texts, classifier.max_length
        if classifier.states_are_constant:
            self._states = classifier.states(rows)
        elif classifier.intervened is not None:
            self._prepared = PreparedRows(
                classifier.intervened,
                texts,
                engine=engine,
                memory_budget=memory_budget,
                answers=False,
                max_length=classifier.max_length,
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def plan(self) -> str:
        """What runs in each step, and why."""
        if self._states is not None:
            return "the head alone: hidden states are constants, computed once"
        if self._prepared is None:
            return "full run: the model itself is adapted"
        return str(self._prepared.plan)

    @property
    def nbytes(self) -> int:
        """Memory of the constants that are kept."""
        if self._states is not None:
            return self._states.nbytes
        return 0 if self._prepared is None else self._prepared.nbytes

    def inputs(self, rows: Sequence[int]) -> dict[str, Any]:
        """Some of the rows, in that order, as the classifier's trainer takes them."""
        labels = self.labels[list(rows)]
        if self._states is not None:
            return {"labels": labels, "states": self._states[list(rows)]}
        if self._prepared is None:
            texts = [self._texts[i] for i in rows]
            batch = encode(self._model, texts, max_length=self._max_length)
            return {"labels": labels, "batch": batch}
        inputs = self._prepared.inputs(rows)
        return {"labels": labels} | {
            name: inputs[name] for name in ("batch", "positions", "frozen")
        }
