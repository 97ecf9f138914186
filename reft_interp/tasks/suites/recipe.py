"""Recipes: with which settings a ReFT is trained on a suite, and how its outputs are decoded.

Here: what a recipe is. Next door: `paper_recipes` has those of Wu et al. 2024.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reft_interp.positions import parse_positions

Method = Literal["LoReFT", "DiReFT"]


@dataclass(frozen=True)
class Decoding:
    """How a continuation is generated: fields are named as transformers' `generate` names them.

    None leaves a setting to the model's own generation configuration.
    """

    max_new_tokens: int
    do_sample: bool = False
    num_beams: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings that are given, as arguments of `generate`."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        given = self.arguments
        searched = "greedy" if self.num_beams == 1 else "beam search"
        how = "sampling" if given.pop("do_sample") else searched
        return ", ".join([how, *(f"{name} {value:g}" for name, value in given.items())])


@dataclass(frozen=True)
class Recipe:
    """Settings of one method on one suite and model; `str(recipe)` prints all of them.

    Raises:
        ValueError: a setting that no training can have (it is named), or positions that are none.
    """

    suite: str
    method: Method
    model: str
    positions: str
    """Which tokens of the prompt are edited, as in "f7+l7"."""
    tied: bool
    """One intervention a layer for the first and the last tokens, rather than one for each."""
    rank: int
    layers: Literal["all"] | tuple[int, ...]
    """Edited blocks, by their outputs; the first block is 0."""
    batch_size: int
    """Rows a step, gradient accumulation included."""
    epochs: int
    learning_rate: float
    warmup_ratio: float
    """Share of the steps in which the learning rate rises."""
    weight_decay: float
    dropout: float
    max_length: int
    """Tokens of prompt and answer after which training rows are cut, and so the end of the answer:
    `fit_reft(max_length=..., truncate="answer")`."""
    seeds: tuple[int, ...]
    """Seeds that the reported scores are means over."""
    source: str
    """Where the settings are printed."""
    decoding: Decoding | None = None
    """None: a classification head, nothing is generated."""
    optimizer: str = "AdamW"
    schedule: str = "linear"
    remarks: tuple[str, ...] = ()
    """What is not stated in the source, or stated in two ways."""

    def __post_init__(self) -> None:
        for name in ("rank", "batch_size", "epochs", "learning_rate", "max_length"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)!r}")
        for name in ("warmup_ratio", "weight_decay", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 0 and less than 1, got {getattr(self, name)!r}"
                )
        if not self.layers or (self.layers != "all" and min(self.layers) < 0):
            raise ValueError(
                f'layers must be "all" or numbers of layers from 0, got {self.layers!r}'
            )
        parse_positions(self.positions)

    @property
    def title(self) -> str:
        """Which recipe it is, as in "LoReFT on commonsense with LLaMA-7B"."""
        return f"{self.method} on {self.suite} with {self.model}"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        layers = self.layers if self.layers == "all" else ", ".join(map(str, self.layers))
        yield self.title
        yield f"positions      {self.positions}, {'tied' if self.tied else 'untied'} weights"
        yield f"rank           {self.rank}"
        yield f"layers         {layers}"
        yield f"batch size     {self.batch_size}"
        yield f"epochs         {self.epochs}"
        yield f"learning rate  {self.learning_rate:g}"
        yield f"warmup ratio   {self.warmup_ratio:g}"
        yield f"weight decay   {self.weight_decay:g}"
        yield f"dropout        {self.dropout:g}"
        yield f"optimizer      {self.optimizer}"
        yield f"schedule       {self.schedule}"
        yield f"max length     {self.max_length} tokens"
        yield f"seeds          {', '.join(map(str, self.seeds)) or 'not stated'}"
        yield f"decoding       {self.decoding or 'none: a classification head'}"
        yield f"source         {self.source}"
        for remark in self.remarks:
            yield f"remark         {remark}"
