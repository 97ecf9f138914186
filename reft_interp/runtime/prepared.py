"""Rows with all that is constant about them: what sources hold, what lies below the edits.

It is computed once and serves every training step and every intervention that is scored at the
same sites and positions. `prepare_each` prepares rows for several models with interventions at
once, which then share what they can.
"""

from collections.abc import Sequence
from typing import Any, Literal
from warnings import warn

import torch
from jaxtyping import Float
from torch import Tensor

from reft_interp.models.sharding import is_sharded
from reft_interp.positions import Positions, PositionSelector
from reft_interp.runtime.batching import Rows, run_what_fits
from reft_interp.runtime.constants import FrozenRows, RecordedSources, regions_of
from reft_interp.runtime.encoded_rows import EncodedRows, source_reads
from reft_interp.runtime.intervened import IntervenedModel, common_model
from reft_interp.runtime.placement import Placement, check_names
from reft_interp.runtime.planning import (
    Engine,
    Plan,
    check_engine,
    disagreement,
    granted,
    reason_against_replaying,
    reason_against_replays,
    replay_plan,
)
from reft_interp.runtime.regions import first_block
from reft_interp.runtime.sources import Sources, evaluating

Over = Literal["vocabulary", "choices"]
"""What an answer is compared with in training."""

# Rows on which a replay is compared with a plain run, once.
_CHECKED = 8
# What a replay raises on an architecture that works in a way that is not known here.
_FAILURES = (RuntimeError, IndexError, TypeError, ValueError)


class PreparedRows:
    """Rows with `prompt` and `answer`, their recorded sources and frozen constants.

    Args:
        intervened: decides which sources are recorded, and where.
        rows: what is trained on or scored.
        sources: for each row the prompt that is read, where an intervention needs it.
        batch_size: rows recorded and frozen at once, fewer where memory does not hold so many.
        engine: "auto" runs only what the edits can change, where that is possible and
            saves something; "full" forces the plain run. `plan` says what was decided.
        memory_budget: bytes that frozen constants may take together with what sources hold;
            40 % of the memory that is free beside those by default. Rows past it are frozen again
            for each batch that needs them; what sources hold is kept in any case.
        over: what an answer is compared with in training: "vocabulary", all tokens, or
            "choices", those of the row alone, which spares most of the output layer.
        answers: whether rows have an `answer`. Without, what runs ends with the prompt.
        max_length: tokens after which the tokenizer cuts a prompt; nothing is cut by default.

    Raises:
        ValueError: a row has no answer where it should, or with `over="choices"` no choices of
            one token each, as many in all rows; sources are missing, superfluous or not aligned;
            a position selector finds nothing on a row; an unknown `engine` or `over`. All is
            checked before any step.
    """

    def __init__(
        self,
        intervened: IntervenedModel,
        rows: Rows,
        sources: Sources | None = None,
        *,
        batch_size: int = 64,
        engine: Engine = "auto",
        memory_budget: int | None = None,
        over: Over = "vocabulary",
        answers: bool = True,
        max_length: int | None = None,
    ):
        _check_names(engine, over)
        encoded = EncodedRows(intervened.model, max_length)
        self._encode(intervened, encoded, rows, sources, over, answers)
        _fill([self], [intervened], batch_size, engine, memory_budget)

    @classmethod
    def _encoded(
        cls,
        intervened: IntervenedModel,
        encoded: EncodedRows,
        rows: Rows,
        sources: Sources | None,
        over: Over,
    ) -> "PreparedRows":
        prepared = cls.__new__(cls)
        prepared._encode(intervened, encoded, rows, sources, over)
        return prepared

    def _encode(
        self,
        intervened: IntervenedModel,
        encoded: EncodedRows,
        rows: Rows,
        sources: Sources | None,
        over: Over,
        answers: bool = True,
    ) -> None:
        self.model = intervened.model
        self.rows = encoded.listed(rows)
        self.sources, self.over = sources, over
        self.plan = Plan(False, "nothing has been decided yet")
        self._batch = encoded.batch(rows, answers=answers)
        self._choices = encoded.choices(rows) if over == "choices" else None
        check_names(intervened.placements, self._batch)
        positions = [encoded.positions(p.on, rows, answers) for p in intervened.placements]
        self._selectors = tuple(placement.on for placement in intervened.placements)
        self._sites = tuple(placement.site for placement in intervened.placements)
        self._columns = {
            on: [columns.tolist() for columns in at.split(len(self.rows))]
            for on, at in zip(self._selectors, positions, strict=True)
        }
        self._reads = source_reads(
            intervened.placements,
            encoded,
            self._batch,
            lambda on: encoded.positions(on, rows, answers),
            sources,
        )
        self._held: list[list[Float[Tensor, "k d"]] | None] = [None] * len(positions)
        self._regions = regions_of(
            self.model, [p.site for p in intervened.placements], positions, self._batch
        )
        self._frozen: FrozenRows | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Memory of the constants and of what sources hold, as they are kept."""
        parts = [part for held in self._held for part in held or ()]
        # A source that several rows share is held once.
        return self.plan.nbytes + sum({id(part): part.nbytes for part in parts}.values())

    @property
    def first_block(self) -> int:
        """The first block that edits of these rows change."""
        return self._regions.layer

    def region_length(self, rows: Sequence[int]) -> int:
        """Tokens that run of the longest of some rows."""
        if self._frozen is None:
            batch = self._batch
            return int((batch.answer_end - batch.prompt_start)[list(rows)].max())
        return int((self._regions.ends - self._regions.starts)[list(rows)].max())

    def check_made_for(self, intervened: IntervenedModel, argument: str = "rows") -> None:
        """Raise unless these rows were prepared for edits like those of a model with interventions.

        Args:
            intervened: what will run them, as it is.
            argument: what the rows are called in the message.

        Raises:
            ValueError: another model, or placements at other tokens, in another order, below the
                layers, or with sources that were read at other sites, than they were prepared for.
        """
        if intervened.model is not self.model:
            raise ValueError(
                f"{argument}: these were prepared for another model than the one that runs them"
            )
        placements = intervened.placements
        if tuple(placement.on for placement in placements) != self._selectors:
            raise ValueError(
                f"{argument}: these were prepared for edits on {_listed(self._selectors)}, but the "
                f"placements are on {_listed([placement.on for placement in placements])}"
            )
        self._selected(placements)
        for placement, site, held in zip(placements, self._sites, self._held, strict=True):
            if held is not None and placement.site != site:
                raise ValueError(
                    f"{argument}: the sources of {placement} were read at {site}; it needs rows "
                    "that were prepared for it"
                )

    def inputs(
        self, rows: Sequence[int], placements: Sequence[Placement] | None = None
    ) -> dict[str, Any]:
        """Some of the rows, in that order, as `IntervenedModel.forward` takes them.

        Args:
            rows: their numbers.
            placements: of the model that will run them; those that the rows were prepared for by
                default.

        Raises:
            ValueError: placements at other tokens, or below the layers, that the rows were
                prepared for.
        """
        batch = self._batch.take(rows)
        selectors = self._selectors if placements is None else self._selected(placements)
        device = batch.input_ids.device
        positions = [
            Positions.of([self._columns[on][i] for i in rows], device=device) for on in selectors
        ]
        sources = [
            None if held is None else torch.cat([held[i] for i in rows]) for held in self._held
        ]
        return {
            "batch": batch,
            "positions": positions,
            # Rows without sources serve any number of edits where they were prepared.
            "sources": sources if any(part is not None for part in sources) else None,
            "frozen": None if self._frozen is None else self._frozen.regions(self._regions, rows),
            "choices": None if self._choices is None else self._choices[list(rows)],
            "labels": batch.labels,
        }

    def _selected(self, placements: Sequence[Placement]) -> list[PositionSelector]:
        for placement in placements:
            block = first_block(placement.site, self.model.cfg.n_layers)
            if placement.on not in self._columns or block < self._regions.layer:
                known = ", ".join(map(str, self._columns))
                raise ValueError(
                    f"{placement} needs rows that were prepared for it; these are for edits from "
                    f"block {self._regions.layer} on, on {known}"
                )
        return [placement.on for placement in placements]


def prepare_each(
    wanted: Sequence[tuple[IntervenedModel, Rows, Sources | None]],
    *,
    batch_size: int = 64,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    over: Over = "vocabulary",
    progress: bool = False,
) -> list[PreparedRows]:
    """`PreparedRows` for several models with interventions: each prompt is frozen once for all.

    Args:
        wanted: each with its rows and sources, as `PreparedRows` takes them. Rows that are the
            same object are tokenized once.
        batch_size: rows recorded and frozen at once, fewer where memory does not hold so many.
        engine: as for `PreparedRows`.
        memory_budget: bytes that frozen constants and sources of all together may take.
        over: as for `PreparedRows`.
        progress: show progress bars.

    Raises:
        ValueError: as `PreparedRows`; none given; not all of one model.
    """
    if not wanted:
        raise ValueError("wanted must hold at least one model with interventions, got none")
    _check_names(engine, over)
    placed = [intervened for intervened, _, _ in wanted]
    encoded = EncodedRows(common_model("wanted", placed))
    prepared = [
        PreparedRows._encoded(intervened, encoded, rows, sources, over)
        for intervened, rows, sources in wanted
    ]
    _fill(prepared, placed, batch_size, engine, memory_budget, progress)
    return prepared


def _listed(selectors: Sequence[PositionSelector]) -> str:
    return ", ".join(repr(str(selector)) for selector in selectors)


def _check_names(engine: Engine, over: Over) -> None:
    check_engine(engine)
    if over not in ("vocabulary", "choices"):
        raise ValueError(f'over must be "vocabulary" or "choices", got {over!r}')


def preparation_errors(
    wanted: Sequence[tuple[IntervenedModel, Rows, Sources | None]],
) -> list[ValueError | None]:
    """Of each, what `prepare_each` would raise about its rows, found without running the model.

    Args:
        wanted: as `prepare_each` takes them, all of one model.
    """
    if not wanted:
        return []
    encoded = EncodedRows(common_model("wanted", [intervened for intervened, _, _ in wanted]))
    found: list[ValueError | None] = []
    for intervened, rows, sources in wanted:
        try:
            PreparedRows._encoded(intervened, encoded, rows, sources, "vocabulary")
            found.append(None)
        except ValueError as error:
            found.append(error)
    return found


def _fill(
    prepared: Sequence[PreparedRows],
    intervened: Sequence[IntervenedModel],
    batch_size: int,
    engine: Engine,
    memory_budget: int | None,
    progress: bool = False,
) -> None:
    """Record the sources and freeze the rows of all together."""
    model = prepared[0].model
    reads = [reads for one in prepared for reads, _ in one._reads]
    recorded = RecordedSources()
    recorded.record(model, reads, batch_size=batch_size, progress=progress)
    for one in prepared:
        for of_source, readers in one._reads:
            for i, held in zip(readers, recorded.of(of_source), strict=True):
                one._held[i] = held
    replayed: list[PreparedRows] = []
    of_all = reason_against_replays(model, engine)
    for one in prepared:
        reason = of_all or reason_against_replaying(model, one._regions)
        one.plan = Plan(False, reason or "")
        if reason is None:
            replayed.append(one)
    if not replayed:
        return
    budget = granted(model, memory_budget)
    if memory_budget is not None:
        budget = max(0, budget - recorded.nbytes)
    frozen = FrozenRows(model, [one._regions for one in replayed], budget)
    for one in replayed:
        one.plan = replay_plan(model, one._regions, frozen)
    if not replayed[0].plan.replays:
        return
    for one in replayed:
        one._frozen = frozen
    lowest = min(replayed, key=lambda one: one._regions.layer)
    try:
        frozen.fill(batch_size=batch_size, progress=progress)
        told = _against_the_plain_run(intervened[list(prepared).index(lowest)], lowest)
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, but to freeze a row takes no more than its plain run
    except _FAILURES as error:
        # If the edits are at fault, the plain run will say so.
        told = f"a replay failed with {type(error).__name__}: {error}"
    if told is not None:
        warn(f"{told}; running in full, which is slower", stacklevel=4)
        for one in replayed:
            one.plan = Plan(False, told)
            one._frozen = None


def _against_the_plain_run(intervened: IntervenedModel, prepared: PreparedRows) -> str | None:
    """What a replay of a few rows does that the plain run does not; None if nothing."""
    model, found = intervened.model, []

    def compare(rows: Sequence[int]) -> None:
        inputs = prepared.inputs(rows)
        edits = intervened.edits(inputs["batch"], inputs["sources"], inputs["positions"])
        found.append(disagreement(model, inputs["batch"], edits, inputs["frozen"]))

    rows = range(min(_CHECKED, len(prepared)))
    try:
        # Two runs under dropout differ, which says nothing of the replay.
        with evaluating(intervened):
            run_what_fits(model, rows, _CHECKED, compare, description="comparing")
    except torch.OutOfMemoryError as error:
        if is_sharded(model):
            raise  # other processes have the memory, and would replay what this one runs in full
        # A plain run may fit where the constants are gone; if not, it will say so.
        return f"memory does not hold a run of one row beside what is kept for replays: {error}"
    return next((told for told in found if told is not None), None)
