"""A hooked model with interventions placed in it: the object that a user runs.

It is thin: what it does is a function next door (`running`, `generation`, `saving`), given what
it needs. Its parameters are the interventions' alone; the base model is not part of its state.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import IGNORED, TokenizedBatch
from reft_interp.interventions import Intervention
from reft_interp.models.devices import device_of
from reft_interp.positions import Positions
from reft_interp.runtime.answer_loss import answer_loss
from reft_interp.runtime.batching import Rows, encode
from reft_interp.runtime.encoded_rows import EncodedRows, source_reads
from reft_interp.runtime.frozen import Region
from reft_interp.runtime.generation import When, generate
from reft_interp.runtime.placement import Edit, Placement, select
from reft_interp.runtime.planning import Engine, Plan, plan
from reft_interp.runtime.running import is_causal, run
from reft_interp.runtime.saving import CONFIG, load_placements, save_folder
from reft_interp.runtime.sources import Sources, record_source
from reft_interp.saved_files import reading
from reft_interp.showing import Shown, show


class IntervenedModel(nn.Module):
    """Interventions placed in a frozen model.

    Edits at different sites happen in the order in which the model computes the sites, each on
    what the ones before it left; edits at one site in the order of `placements`. Sources come
    from a run without any edit, unless they are an `EditedSource`; placements may read different
    ones (`Placement(..., source="left")`, and then a mapping of sources by name).

    Rows are prompts, or mappings with `prompt` and, where they are needed, `answer` and
    `spans` (named character ranges that position selectors can ask for), and `edits`: of the
    placements that have a name, those that edit this row. See `compose`.

    Args:
        model: a TransformerBridge, as `load_model` gives it.
        placements: one or several.

    Raises:
        TypeError: what is no placement, as an intervention by itself.
        ValueError: no placement; a site that the model lacks; an intervention that is not as
            wide as its site.
    """

    interventions: nn.ModuleList
    placements: tuple[Placement, ...]

    def __init__(self, model: TransformerBridge, placements: Placement | Sequence[Placement]):
        super().__init__()
        if isinstance(placements, Placement) or not isinstance(placements, Sequence):
            placements = [placements]
        if not placements:
            raise ValueError("placements must hold at least one placement, got none")
        for given in placements:
            if not isinstance(given, Placement):
                raise TypeError(
                    "placements must be Placement(intervention, site, on), which say where an "
                    f"intervention happens and on which tokens, got {type(given).__name__}"
                )
        # In a tuple, the bridge is no submodule: its weights stay out of parameters(),
        # state_dict() and .to().
        self._bridge = (model,)
        self.placements = tuple(placement.built_for(model) for placement in placements)
        self.interventions = nn.ModuleList(self._distinct())
        self.interventions.to(device_of(model))
        # Dropout is for training, and whoever trains says so.
        self.eval()

    def __repr__(self) -> str:
        name = getattr(self.model.cfg, "model_name", None) or "model"
        return f"IntervenedModel({name}: {'; '.join(map(str, self.placements))})"

    @property
    def model(self) -> TransformerBridge:
        """The frozen model underneath."""
        return self._bridge[0]

    @property
    def needs_source(self) -> bool:
        """Whether any intervention takes a source."""
        return any(placement.intervention.needs_source for placement in self.placements)

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def logits(
        self, rows: Rows, sources: Sources | None = None
    ) -> Float[Tensor, "batch pos vocab"]:
        """Next-token logits of the edited prompts, padded on the right.

        Args:
            rows: the prompts that are edited.
            sources: for each prompt the one that is read, where an intervention needs it.

        Raises:
            ValueError: sources are missing, superfluous, or select another number of tokens
                than their base (the message shows the row).
        """
        batch = encode(self.model, rows)
        with torch.no_grad():
            return run(self.model, batch, self.edits(batch, self.read_sources(batch, sources)))

    def loss(self, rows: Rows, sources: Sources | None = None) -> Float[Tensor, ""]:
        """Cross-entropy of the answer tokens, teacher forced, averaged over answer tokens.

        Args:
            rows: prompts with their `answer`.
            sources: for each prompt the one that is read, where an intervention needs it.
        """
        batch = encode(self.model, rows, answers=True)
        return answer_loss(self.model, batch, self.edits(batch, self.read_sources(batch, sources)))

    def generate(
        self,
        rows: Rows,
        sources: Sources | None = None,
        *,
        when: When = "prompt",
        max_new_tokens: int = 20,
        **options: Any,
    ) -> list[str]:
        """Continuations of the edited prompts; a list gives what one by one gives.

        Args:
            rows: the prompts.
            sources: for each prompt the one that is read, where an intervention needs it.
            when: "prompt" edits the prompt's positions once; "every token" edits each newly
                generated token too, whatever positions of the prompt a placement selects.
            max_new_tokens: at most so many tokens.
            options: of transformers' `generate`; greedy unless `do_sample=True`.

        Raises:
            ValueError: unknown `when`, or "every token" with an intervention that needs a
                source, which new tokens do not have; an encoder, which cannot continue a text.
        """
        if not is_causal(self.model):
            raise ValueError(
                f"{self.model.cfg.model_name} is no decoder: it cannot continue a prompt"
            )
        if when not in ("prompt", "every token"):
            raise ValueError(f'when must be "prompt" or "every token", got {when!r}')
        if when == "every token" and self.needs_source:
            raise ValueError(
                'when="every token": an intervention here needs a source, and new tokens have none'
            )
        batch = encode(self.model, rows, padding_side="left")
        return generate(
            self.model,
            batch,
            self.edits(batch, self.read_sources(batch, sources)),
            when=when,
            **({"max_new_tokens": max_new_tokens, "do_sample": False} | options),
        )

    def show(self, rows: Rows, placement: int = 0) -> Shown:
        """The prompts with the tokens marked that a placement edits.

        Args:
            rows: the prompts.
            placement: its number in `placements`.

        Raises:
            IndexError: there is none of that number.
        """
        count = len(self.placements)
        if not -count <= placement < count:
            raise IndexError(f"placement must be between 0 and {count - 1}, got {placement}")
        batch = encode(self.model, rows)
        return show(batch, self.placements[placement].on(batch), self.model.tokenizer)

    def plan(
        self, rows: Rows, *, engine: Engine = "auto", memory_budget: int | None = None
    ) -> Plan:
        """How training or scoring on some rows would run, and why; nothing is run.

        Args:
            rows: with `prompt` and `answer`.
            engine: "full" forces the plain run.
            memory_budget: bytes that constants may take; 40 % of the free memory by default.

        Raises:
            TypeError: rows that are none.
            ValueError: a row lacks its answer or what a placement selects; an unknown engine; a
                negative budget.
        """
        return plan(self.model, self.placements, rows, engine=engine, budget=memory_budget)

    def explain(
        self,
        rows: Rows | None = None,
        *,
        engine: Engine = "auto",
        memory_budget: int | None = None,
    ) -> str:
        """What is placed where, in the order in which it happens; with rows, how they would run.

        Args:
            rows: with `prompt` and `answer`. What is said of them: which layers and which share
                of the tokens run, what is kept and in how many bytes, which share of the
                full work is left; or why everything runs.
            engine: as for `plan`.
            memory_budget: as for `plan`.

        Raises:
            TypeError: as `plan`.
            ValueError: as `plan`.
        """
        lines = []
        for placement in sorted(self.placements, key=lambda p: p.site.depth):
            intervention = placement.intervention
            trained = sum(p.numel() for p in intervention.parameters() if p.requires_grad)
            lines.append(
                f"{placement} (width {intervention.width}, {trained:,} trained parameters)"
            )
        if rows is not None:
            lines.append(str(self.plan(rows, engine=engine, memory_budget=memory_budget)))
        return "\n".join(lines)

    def save(self, folder: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write `config.json` and `interventions.safetensors` into a folder."""
        save_folder(self, folder, notes)

    @classmethod
    def load(cls, folder: str | Path, model: TransformerBridge) -> "IntervenedModel":
        """Read a folder that `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no saved intervention.
            ValueError: it is damaged, holds NaN, or was made for a model of another width or
                depth. One made for a model of another name, or of another revision where both are
                known, is loaded with a warning.
        """
        placements = load_placements(folder, model)
        with reading(Path(folder) / CONFIG, "placements"):
            return cls(model, placements)

    def read_sources(
        self, batch: TokenizedBatch, sources: Sources | None
    ) -> list[Float[Tensor, "n d"] | None] | None:
        """What the source prompts hold where each placement reads; None where none needs it.

        Args:
            batch: the bases.
            sources: for each base the prompt that is read.

        Raises:
            ValueError: sources are missing, superfluous, of another number, or not aligned.
        """
        encoded = EncodedRows(self.model)
        reads = source_reads(self.placements, encoded, batch, lambda on: on(batch), sources)
        if not reads:
            return None
        held: list[Tensor | None] = [None] * len(self.placements)
        for read, readers in reads:
            at = list(zip(read.sites, read.positions, strict=True))
            parts = record_source(self.model, read.batch, at, read.edited, range(len(batch)))
            for i, part in zip(readers, parts, strict=True):
                held[i] = part
        return held

    def edits(
        self,
        batch: TokenizedBatch,
        sources: Sequence[Float[Tensor, "n d"] | None] | None = None,
        positions: Sequence[Positions] | None = None,
    ) -> list[Edit]:
        """The placements on a given batch.

        Args:
            batch: the bases.
            sources: what each placement's source holds.
            positions: the tokens that each placement selects in `batch`, where they are known.
        """
        given = [None] * len(self.placements) if sources is None else sources
        at = select(self.placements, batch) if positions is None else positions
        return [
            Edit(p.intervention, p.site, where, source)
            for p, where, source in zip(self.placements, at, given, strict=True)
        ]

    def forward(
        self,
        batch: TokenizedBatch,
        sources: Sequence[Float[Tensor, "n d"] | None] | None = None,
        frozen: Sequence[Region] | None = None,
        positions: Sequence[Positions] | None = None,
        choices: Int[Tensor, "batch k"] | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        recompute: bool = False,
    ) -> dict[Literal["loss"], Float[Tensor, ""]]:
        """The loss of a batch, as transformers' Trainer asks for it.

        Args:
            batch: prompts with answers.
            sources: what each placement's source holds, row by row.
            frozen: the constants of each row, to run only what the edits can change.
            positions: the tokens that each placement selects, where they are known.
            choices: the tokens that the answer, which is one of them, is compared with; all
                tokens by default.
            labels: those of `batch`, where the Trainer counts them.
            num_items_in_batch: answer tokens in all batches of one optimiser step; the loss
                is then the sum over this batch divided by it.
            recompute: keep only what enters each block, and compute what is inside again in the
                backward pass (gradient checkpointing); not with `frozen`.
        """
        edits = self.edits(batch, sources, positions)
        loss = answer_loss(
            self.model,
            batch,
            edits,
            frozen,
            num_items_in_batch,
            choices=choices,
            recompute=recompute,
        )
        penalty = self.penalty()
        if penalty is not None:
            # Once for each optimiser step, over however many batches its loss is summed.
            tokens = (batch.labels != IGNORED).sum()
            share = 1 if num_items_in_batch is None else tokens / num_items_in_batch
            loss = loss + share * penalty
        return {"loss": loss}

    def penalty(self) -> Float[Tensor, ""] | None:
        """What the interventions add to the loss while they train; None for nothing."""
        if not self.training:
            return None
        asked = [intervention.penalty() for intervention in self._distinct()]
        given = [one for one in asked if one is not None]
        return torch.stack(given).sum() if given else None

    def anneal(self, progress: float) -> None:
        """Tell the interventions which share of their training is done, in [0, 1]."""
        for intervention in self._distinct():
            intervention.anneal(progress)

    def _distinct(self) -> list[Intervention]:
        """Each intervention once, however many placements share it."""
        return list({id(p.intervention): p.intervention for p in self.placements}.values())


def common_model(argument: str, placed: Sequence[IntervenedModel]) -> TransformerBridge:
    """The frozen model that all of these are placed in.

    Raises:
        ValueError: they are placed in several (the message names the argument and the first
            that differs).
    """
    for i, intervened in enumerate(placed):
        if intervened.model is not placed[0].model:
            raise ValueError(f"{argument}: number {i} is placed in another model than number 0")
    return placed[0].model
