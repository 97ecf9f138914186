"""A linear readout of the frozen model's last hidden state: the least that finetuning can be."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.models.devices import device_of
from reft_interp.runtime.activations import activations
from reft_interp.saved_files import write_tensors
from reft_interp.sites import Site
from reft_interp.training.finetuning import Finetuned, FinetuningMethod, Fit, TextRow, end_of_text
from reft_interp.training.memory import peak_memory
from reft_interp.whole_files import replacing, write_whole


class ReadOut(Finetuned):
    """A fitted readout, which answers with one of the answers that it was trained on."""

    def __init__(
        self, model: TransformerBridge, scaler: StandardScaler, readout: LogisticRegression
    ):
        self.model, self.scaler, self.readout = model, scaler, readout

    @property
    def trained_parameters(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return np.size(self.readout.coef_) + np.size(self.readout.intercept_)

    def loss(self, rows):
        """Over the rows whose answer was trained on: of another one the loss is infinite, with
        every C. Infinite where there are none."""
        known = [row for row in rows if row["answer"] in self.readout.classes_]
        return super().loss(known) if known else math.inf

    def summed_loss(self, rows, group):
        """In nats a row: an answer is one choice, whatever its tokens."""
        asked = [rows[i] for i in group]
        scores = self.readout.predict_log_proba(self._features(asked))
        known = list(self.readout.classes_)
        chosen = [known.index(row["answer"]) for row in asked]
        return float(-np.sum(scores[np.arange(len(asked)), chosen])), len(asked)

    def continued(self, rows, **options):
        end = end_of_text(self.model)
        return [
            str(answer).removesuffix(end) for answer in self.readout.predict(self._features(rows))
        ]

    def save(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "weight": self.readout.coef_,
            "bias": self.readout.intercept_,
            "mean": self.scaler.mean_,
            "scale": self.scaler.scale_,
        }
        tensors = {name: torch.tensor(held, dtype=torch.float32) for name, held in arrays.items()}
        with replacing(folder / "readout.safetensors") as beside:
            write_tensors(tensors, beside)
        write_whole(folder / "answers.json", json.dumps(list(self.readout.classes_)) + "\n")

    def _features(self, rows: Sequence[TextRow]) -> Float[np.ndarray, "rows d"]:
        return np.asarray(self.scaler.transform(last_states(self.model, rows)))


@dataclass(frozen=True, eq=False)
class LinearHead(FinetuningMethod):
    """Logistic regression (scikit-learn's) on the last block's output at the last prompt token.

    For suites whose answers are a few choices. Steps and batches do not apply to it. It never
    gives an answer that no training row has: rows with one count as wrong, and are no part of the
    loss by which C is chosen.

    Args:
        candidates: values of C, the inverse strength of its L2 penalty.
        name: in tables.
    """

    candidates: tuple[float, ...] = (0.01, 0.1, 0.001)
    name: str = "linear head"
    tuned: Literal["learning rate", "C"] = "C"
    varies: bool = False  # the regression has one optimum, wherever it starts
    only_for = "decoders"

    def fit(self, model, rows, schedule, **_: Any):
        """See `FinetuningMethod.fit`.

        Raises:
            ValueError: fewer than two answers, or so many that most stand in one row alone.
        """
        answers = sorted({row["answer"] for row in rows})
        if not 2 <= len(answers) <= len(rows) / 2:
            raise ValueError(
                f"{self.name} needs a few answers that recur, got {len(answers)} different ones in "
                f"{len(rows)} rows"
            )
        with peak_memory(device_of(model)) as peak:
            states = last_states(model, rows)
            scaler = StandardScaler().fit(states)
            readout = LogisticRegression(C=schedule.learning_rate, max_iter=2000)
            readout.fit(scaler.transform(states), [row["answer"] for row in rows])
        return Fit(ReadOut(model, scaler, readout), memory=peak.bytes)


def last_states(
    model: TransformerBridge, rows: Sequence[TextRow], *, batch_size: int = 32
) -> Float[np.ndarray, "rows d"]:
    """The last block's output at each prompt's last token."""
    site = Site("resid_post", int(model.cfg.n_layers) - 1)
    states = torch.cat(activations(model, rows, site, "last", batch_size=batch_size))
    return states.double().cpu().numpy()
