"""Fit a representation finetuning to labelled rows, in one call, and score it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

from datasets import IterableDataset
from transformer_lens.model_bridge import TransformerBridge
from transformers import TrainerCallback

from reft_interp.evaluation import Comparison, accuracy, named_metric
from reft_interp.interventions import Intervention
from reft_interp.positions import PositionSelector
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import Rows, as_list, warn_of_two_spaces
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import Over, PreparedRows
from reft_interp.runtime.truncating import Part, Side, truncate_answers, truncate_prompts
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training.in_place import (
    check_checkpoints,
    check_trainer,
    checked_settings,
    train,
)
from reft_interp.training.processes import check_devices
from reft_interp.training.results import TrainingResult, saved_settings
from reft_interp.training.seeding import seeded

_STREAM = "a stream of rows"
_ENDS: dict[Side, str] = {"left": "beginning", "right": "end"}


@dataclass(frozen=True)
class ReFTResult(TrainingResult):
    """A trained ReFT: the model with it in place, and how the training went."""

    @property
    def name(self) -> str:
        """The class of the intervention, as in "LoReFT"."""
        return type(self.intervened.placements[0].intervention).__name__

    @property
    def subspace(self) -> Subspace:
        """What is written, where there is one placement.

        Raises:
            ValueError: there are several; ask the interventions of `intervened.placements`.
        """
        first, *others = self.intervened.placements
        if others:
            raise ValueError(
                f"there are {1 + len(others)} placements, each with a subspace: ask "
                "result.intervened.placements[i].intervention.subspace"
            )
        return first.intervention.subspace

    def evaluate(self, rows: Rows, *, batch_size: int = 64) -> Comparison:
        """Accuracy on held-out rows, beside the untouched model.

        Args:
            rows: with `prompt`, `answer` and, where the answer is one of several, `choices`.
            batch_size: rows run at once.
        """
        untouched = accuracy(self.intervened.model, rows, batch_size=batch_size)
        trained = accuracy(self.intervened, rows, batch_size=batch_size)
        return Comparison(
            named_metric("accuracy", rows),
            (("untouched model", (untouched,)), (self.name, (trained,))),
        )


def place_reft(
    model: TransformerBridge,
    intervention: Intervention,
    site: Site | Sequence[Site],
    on: str | int | Sequence[int] | PositionSelector,
    *,
    shared: bool,
    seed: int,
) -> IntervenedModel:
    """The untrained ReFT in its places, as `fit_reft` begins with it.

    Raises:
        ValueError: no site, or one that the model lacks; weights on several devices
            that nothing moves between.
        TypeError: what is no site.
    """
    check_devices(model)
    sites = [site] if isinstance(site, Site) or not isinstance(site, Sequence) else list(site)
    if any(not isinstance(one, Site) for one in sites):
        raise TypeError(
            f'site must be a Site, as Site("resid_post", 8), or several of them, got {site!r}'
        )
    if not sites:
        raise ValueError("site must be at least one Site, got none")
    with seeded(seed):
        if shared:
            intervention = intervention.for_width(sites[0].width(model))
        # A template becomes a module of its own at each site, one with a width does not.
        apart = len(sites) > 1 and not shared
        each = [copy.deepcopy(intervention) if apart else intervention for _ in sites]
        placed = [Placement(one, s, on) for one, s in zip(each, sites, strict=True)]
        return IntervenedModel(model, placed)


def fit_reft(
    model: TransformerBridge,
    rows: Rows | IterableDataset,
    intervention: Intervention,
    site: Site | Sequence[Site],
    on: str | int | Sequence[int] | PositionSelector = "f3+l3",
    *,
    shared: bool = False,
    max_length: int | None = None,
    truncate: Part = "prompt",
    truncation_side: Side = "right",
    epochs: int | float = 3,
    learning_rate: float = 4e-3,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
    evaluation: Rows | None = None,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    over: Over = "vocabulary",
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> ReFTResult:
    """Train a ReFT by cross-entropy of the answer tokens, the model frozen.

    Wu et al. 2024 (arXiv:2404.03592), section 3. Only the answer is learned: no end-of-text
    token is added to it, so for generation that ends by itself put one into the answers.

    Args:
        model: a TransformerBridge, as `load_model` gives it.
        rows: with `prompt` and `answer`. A stream (`load_dataset(..., streaming=True)`) needs
            `max_steps`, and runs in full.
        intervention: a template, as `LoReFT(rank=4)`, or one that has begun elsewhere: it goes on
            itself, or, at several sites that are not `shared`, a copy of it at each.
        site: where; one or several.
        on: which tokens of the prompt are edited.
        shared: one module for all sites, rather than one for each.
        max_length: rows are cut until prompt and answer have this many tokens together, and a
            warning counts them (not those of a stream); without it a row that the model cannot read
            as a whole is an error.
        truncate: "prompt" cuts prompts and never an answer, as `truncate_prompts` does to rows
            that are scored; "answer" cuts the ends of answers and never a prompt, which is what
            the paper's code does: its `max_length` (see `Recipe`) is meant with it.
        truncation_side: which end of a prompt is cut.
        epochs: passes over the rows.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: rows a step, over all processes.
        seed: of where the weights start, the order of rows, and dropout.
        progress: show a progress bar.
        evaluation: rows whose loss is computed each epoch, for early stopping.
        checkpoints: a folder for checkpoints, one an epoch; none by default.
        resume: go on from the newest checkpoint there.
        engine: "full" forces the plain run; see `PreparedRows`.
        memory_budget: bytes that constants of the rows may take; see `PreparedRows`.
        over: "vocabulary" compares the answer with all tokens, "choices" with the row's choices
            alone: another loss, and less work.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.
        arguments: further arguments of transformers' TrainingArguments, as `train` takes them;
            they are saved with the result.

    Raises:
        TypeError: an argument that nobody knows, or that cannot be saved as JSON; rows a step or a
            seed that are no whole number.
        ValueError: a site that the model lacks, a row without answer, positions that a row
            does not have, arguments that transformers refuses: all before the first step.
        ImportError: an optimiser whose package is missing.
        RuntimeError: a package to report to is missing.
        TrainingStopped: the loss or the weights became NaN or infinite, as in `train`.
        OSError: a checkpoint could not be written; those before it are whole.
        torch.OutOfMemoryError: with the number of rows a step that would fit.
    """
    trained_with = checked_settings(
        epochs,
        arguments,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        caller=fit_reft,
    )
    if truncate not in ("prompt", "answer"):
        raise ValueError(f'truncate must be "prompt" or "answer", got {truncate!r}')
    if truncate == "answer" and max_length is None:
        raise ValueError('truncate="answer" cuts at max_length, which is not given')
    if truncate == "answer" and truncation_side != "right":
        raise ValueError(
            f'truncate="answer" cuts the ends of answers and no prompt, so truncation_side must be '
            f"left out, got {truncation_side!r}"
        )
    streamed = isinstance(rows, IterableDataset)
    if streamed and over != "vocabulary":
        raise ValueError(f'over must be "vocabulary" where rows are a stream, got {over!r}')
    listed = None if streamed else as_list(rows)
    if listed is not None:
        warn_of_two_spaces(listed)
    count = None if listed is None else len(listed)
    settings = trained_with | saved_settings(
        rows=count,
        shared=shared,
        engine=engine,
        over=over,
        **(
            {}
            if max_length is None
            else {
                "max_length": max_length,
                "truncate": truncate,
                "truncation_side": truncation_side,
            }
        ),
    )
    intervened = place_reft(model, intervention, site, on, shared=shared, seed=trained_with["seed"])
    check_checkpoints(intervened, checkpoints, resume)
    check_trainer(
        intervened, trained_with, evaluates=evaluation is not None, checkpoints=checkpoints
    )

    def fitting(given: Rows, name: str) -> Rows:
        if max_length is None:
            return given
        if truncate == "answer":
            cut = truncate_answers(model, given, max_length)
        else:
            cut = truncate_prompts(model, given, max_length, truncation_side=truncation_side)
        _tell_of_cuts(given, cut, name, max_length, truncate, truncation_side)
        return cut

    def prepare(given: Rows, name: str) -> PreparedRows:
        return PreparedRows(
            intervened, fitting(given, name), engine=engine, memory_budget=memory_budget, over=over
        )

    losses = train(
        intervened,
        rows.map(lambda row: fitting([row], _STREAM)[0]) if streamed else prepare(rows, "rows"),
        None if evaluation is None else prepare(evaluation, "evaluation"),
        progress=progress,
        checkpoints=checkpoints,
        resume=resume,
        callbacks=callbacks,
        **trained_with,
    )
    return ReFTResult(intervened.eval(), losses, settings)


def _tell_of_cuts(
    given: Rows, cut: Rows, name: str, max_length: int, part: Part, side: Side
) -> None:
    """Warn where rows lost something, and of how many did."""
    pairs = list(zip(as_list(given), as_list(cut), strict=True))
    count = sum(before[part] != after[part] for before, after in pairs)
    if not count:
        return
    # The rows of a stream pass one by one: of each the same, which Python says once.
    many = f"some {part}s" if name == _STREAM else f"{count} of {len(pairs)} {part}s"
    told = f"{name}: max_length={max_length} cut the {_ENDS[side]} of {many}"
    if part == "prompt":
        told += '. No answer was cut; truncate="answer" cuts the ends of answers and no prompt'
    warn(told, stacklevel=5)
