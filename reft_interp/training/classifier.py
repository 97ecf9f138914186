"""A classification head on a frozen model's last hidden state, with interventions or without.

Here: what a classifier computes. Next door: `heads`, `classifier_saving`, and `fit_classifier`,
which trains one. Not here: tasks that a model answers in words (`reft`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.models.devices import device_of
from reft_interp.positions import Positions
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import Rows, by_length, encode
from reft_interp.runtime.frozen import Region
from reft_interp.runtime.replaying import replay
from reft_interp.runtime.running import is_causal, prompt_ends, prompt_starts, run
from reft_interp.runtime.sources import evaluating
from reft_interp.training.classifier_saving import load_classifier, read_weights, save_classifier
from reft_interp.training.heads import DenseHead, LastTokenHead
from reft_interp.training.labelled_rows import texts_of
from reft_interp.whole_numbers import whole_number


class Classifier(nn.Module):
    """Scores of classes, or one score, from the last hidden state of a frozen model.

    An encoder's head is RoBERTa's, on the first token ([CLS]); a decoder's is a linear layer on
    the prompt's last token, behind the final norm. Rows are those of `IntervenedModel`; an encoder
    reads the raw texts `text_a` and `text_b` of a row that has them, as its tokenizer encodes
    pairs, a decoder the `prompt`. The model's own dropout stays off.

    Args:
        model: with interventions, or without any.
        classes: how many there are; None for a single score (regression).
        head_dropout: of the head, in training; by default that of the model's configuration on
            an encoder (0.1 on BERT and RoBERTa), none on a decoder.
        max_length: tokens after which an encoder's texts are cut, of a pair the longer one.

    Raises:
        TypeError: `classes` or `max_length` are no whole number.
        ValueError: fewer than two classes; interventions that need a source; a dropout that is
            no probability; `max_length` on a decoder, whose prompt ends with what is asked.
    """

    intervened: IntervenedModel | None
    head: DenseHead | LastTokenHead

    def __init__(
        self,
        model: IntervenedModel | TransformerBridge,
        classes: int | None,
        *,
        head_dropout: float | int | None = None,
        max_length: int | None = None,
    ):
        super().__init__()
        if classes is not None:
            wrong = f"classes must be a whole number, or None for a score, got {classes!r}"
            classes = whole_number(classes, wrong)
        if max_length is not None:
            wrong = f"max_length must be a whole number, got {max_length!r}"
            max_length = whole_number(max_length, wrong)
        if classes is not None and classes < 2:
            raise ValueError(f"classes must be at least 2, or None for a score, got {classes}")
        intervened = model if isinstance(model, IntervenedModel) else None
        if intervened is not None and intervened.needs_source:
            raise ValueError(
                "a classifier reads one text a row, but an intervention here needs a source"
            )
        bridge = model.model if isinstance(model, IntervenedModel) else model
        if is_causal(bridge) and max_length is not None:
            raise ValueError(
                f"max_length cuts the end of a text, and {bridge.cfg.model_name} is a decoder, "
                f"whose prompt ends with what is asked: shorten the prompts, got {max_length}"
            )
        # In a tuple, the bridge is no submodule: its weights stay out of parameters().
        self._bridge = (bridge,)
        self.intervened = intervened
        self.classes = classes
        self.max_length = max_length
        kind = LastTokenHead if is_causal(bridge) else DenseHead
        dropout = _configured_dropout(bridge) if head_dropout is None else head_dropout
        self.head = kind(bridge.cfg.d_model, classes or 1, dropout=dropout)
        self.head.to(device_of(bridge))
        self.eval()

    def __repr__(self) -> str:
        outputs = "a score" if self.classes is None else f"{self.classes} classes"
        return f"Classifier({outputs} from {self.intervened or self.model.cfg.model_name})"

    @property
    def model(self) -> TransformerBridge:
        """The frozen model underneath."""
        return self._bridge[0]

    @property
    def head_parameters(self) -> int:
        """How many numbers of the head are trained."""
        return sum(p.numel() for p in self.head.parameters())

    @property
    def intervention_parameters(self) -> int:
        """How many numbers are trained without the head: what Wu et al. 2024 count."""
        return 0 if self.intervened is None else self.intervened.trained_parameters

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained, those of the head among them."""
        return self.head_parameters + self.intervention_parameters

    @property
    def states_are_constant(self) -> bool:
        """Whether what the head reads of a row stays what it is while it trains."""
        return self.intervened is None

    def forward(self, rows: Rows) -> Float[Tensor, "batch outputs"]:
        """The head's outputs for some rows: a logit for each class, or one score.

        Args:
            rows: those of one batch.

        Raises:
            ValueError: a row lacks what is read, has no token that is edited, or is longer than
                the model can read.
        """
        return self.head(self.state(self._encode(texts_of(self.model, rows))))

    def predict(self, rows: Rows, *, batch_size: int = 64) -> list[int] | list[float]:
        """The class of each row, or its score.

        Args:
            rows: any number of them.
            batch_size: rows run at once.
        """
        outputs = self._each(rows, self.head, batch_size)
        if self.classes is None:
            return [float(output) for output in outputs[:, 0]]
        return [int(number) for number in outputs.argmax(1)]

    def check(self, rows: Rows, argument: str = "rows") -> None:
        """Raise where some rows cannot be classified; the model does not run.

        Args:
            rows: any number of them.
            argument: what they are called in the message, where they are no rows.

        Raises:
            TypeError: something that is no row.
            ValueError: as `forward`.
        """
        batch = self._encode(texts_of(self.model, rows, argument))
        if self.intervened is not None:
            self.intervened.edits(batch)

    def states(self, rows: Rows, *, batch_size: int = 64) -> Float[Tensor, "rows d"]:
        """The hidden states that the head reads, without gradient."""
        return self._each(rows, nn.Identity(), batch_size)

    def state(
        self,
        batch: TokenizedBatch,
        positions: Sequence[Positions] | None = None,
        frozen: Sequence[Region] | None = None,
    ) -> Float[Tensor, "batch d"]:
        """The hidden states that the head reads of a batch.

        Args:
            batch: the texts.
            positions: the tokens that each placement edits, where they are known.
            frozen: the constants of each row, to run only what the edits can change.
        """
        at = prompt_ends(batch) if is_causal(self.model) else prompt_starts(batch)
        edits = [] if self.intervened is None else self.intervened.edits(batch, None, positions)
        if frozen is None:
            return run(self.model, batch, edits, at=at, unembed=False)
        return replay(self.model, batch, edits, frozen, at, unembed=False)

    @torch.no_grad()
    def _each(self, rows: Rows, head: nn.Module, batch_size: int) -> Float[Tensor, "rows out"]:
        texts = texts_of(self.model, rows)
        groups = list(by_length(texts, batch_size))
        with evaluating(self):
            parts = [head(self.state(self._encode([texts[i] for i in group]))) for group in groups]
        order = torch.tensor([i for group in groups for i in group])
        return torch.cat(parts)[order.argsort()]

    def _encode(self, texts: Sequence[Mapping[str, Any]]) -> TokenizedBatch:
        return encode(self.model, texts, max_length=self.max_length)

    def save(self, folder: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write `config.json`, `head.safetensors` and, where there are any, `interventions/`.

        Args:
            folder: made if it does not exist; other files in it stay.
            notes: kept in `config.json`, for instance how it was trained. JSON.

        Raises:
            OSError: the folder cannot be written, for instance as the disk is full; what it held
                stays.
        """
        save_classifier(self, folder, notes)

    @classmethod
    def load(cls, folder: str | Path, model: TransformerBridge) -> "Classifier":
        """Read a folder that `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no saved classifier.
            ValueError: it is damaged, or was made for a model of another kind, width or depth.
        """
        return load_classifier(cls, folder, model)

    def load_weights(self, folder: str | Path) -> None:
        """Take the weights of the same classifier from a folder that `save` wrote.

        Raises:
            ValueError: the folder is damaged, or another classifier's.
        """
        read_weights(self, folder)


def _configured_dropout(model: TransformerBridge) -> float:
    if is_causal(model):
        return 0.0
    config = model.original_model.config
    own = getattr(config, "classifier_dropout", None)
    return float(getattr(config, "hidden_dropout_prob", 0.0) if own is None else own)
