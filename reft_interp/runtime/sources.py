"""What interventions read: a prompt for each row, several of them by name, or edited runs.

A source that is edited itself nests one interchange in another; with several sources by name, each
placement reads its own. Together they make interventions on paths: what a site holds once another
was swapped and all else was held at its base.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import TokenizedBatch
from reft_interp.models import identify
from reft_interp.positions import Positions
from reft_interp.runtime.batching import Rows, as_list
from reft_interp.runtime.placement import SOURCE, Edit, Placement
from reft_interp.runtime.running import record
from reft_interp.sites import Site

if TYPE_CHECKING:
    from reft_interp.runtime.intervened import IntervenedModel


@dataclass(frozen=True, eq=False)
class EditedSource:
    """Prompts that are run under interventions of their own, to be read as a source.

    What they hold is a constant of the run that reads them: the interventions here are not trained
    with it.

        patched = EditedSource(IntervenedModel(model, upstream), bases, sources)
        IntervenedModel(model, downstream).logits(bases, patched)

    Args:
        intervened: in the model that reads, too.
        rows: the prompts.
        sources: for each prompt the one that `intervened` reads, where it needs it; edited
            themselves or not.

    Raises:
        ValueError: `sources` are missing, superfluous, or of another number.
    """

    intervened: "IntervenedModel"
    rows: Rows
    sources: "Sources | None" = None

    def __post_init__(self) -> None:
        named_sources(self.intervened.placements, len(self.rows), self.sources)

    def __len__(self) -> int:
        return len(self.rows)

    def edits(self, batch: TokenizedBatch, rows: Sequence[int]) -> list[Edit]:
        """What is done to some of the prompts.

        Args:
            batch: the prompts.
            rows: their numbers.
        """
        sources = None if self.sources is None else take_sources(self.sources, rows)
        return self.intervened.edits(batch, self.intervened.read_sources(batch, sources))


Source = Rows | EditedSource
Sources = Source | Mapping[str, Source]
"""For each row the prompt that is read; or several by name, for placements that say which."""


def named_sources(
    placements: Sequence[Placement], rows: int, sources: Sources | None
) -> dict[str, Source]:
    """The sources by the name under which placements read them; none where nothing is read.

    Args:
        placements: those that read, among others.
        rows: how many there are.
        sources: what was given.

    Raises:
        ValueError: sources are missing, superfluous, or of another number.
    """
    readers = [p for p in placements if p.intervention.needs_source]
    if not readers:
        if sources is not None:
            kinds = ", ".join(sorted({type(p.intervention).__name__ for p in placements}))
            raise ValueError(
                f"sources were given, but no intervention here takes a source ({kinds or 'none'}): "
                "leave them out"
            )
        return {}
    if sources is None:
        raise ValueError(
            f"sources are missing: {readers[0]} reads another run (train one with fit_das; with "
            "fit_reft, an intervention that learns what it writes, as LoReFT)"
        )
    wanted = {p.source for p in readers}
    given = dict(sources) if isinstance(sources, Mapping) else {SOURCE: sources}
    if set(given) != wanted:
        raise ValueError(
            f"sources must be {_shown(wanted)}, which the placements read, got {_shown(set(given))}"
        )
    for name, source in given.items():
        if len(source) != rows:
            called = "" if name == SOURCE else f" {name!r}"
            raise ValueError(
                f"sources{called}: {len(source)} for {rows} rows; one for each is needed"
            )
    return given


def readers_of(placements: Sequence[Placement], name: str) -> list[int]:
    """The numbers of the placements that read the source of that name."""
    return [
        i
        for i, placement in enumerate(placements)
        if placement.intervention.needs_source and placement.source == name
    ]


def listed_sources(sources: Sources) -> Sources:
    """The same sources, their prompts checked and listed, from which `take_sources` is cheap.

    Raises:
        TypeError: what is no list of rows, or a row that is none.
        ValueError: a row without a prompt.
    """
    if isinstance(sources, Mapping):
        return {name: _listed(source) for name, source in sources.items()}
    return _listed(sources)


def take_sources(sources: Sources, rows: Sequence[int]) -> Sources:
    """Of the sources those of some rows, in that order."""
    if isinstance(sources, Mapping):
        return {name: _take(source, rows) for name, source in sources.items()}
    return _take(sources, rows)


def prompts_of(source: Source) -> Rows:
    """The prompts of a source, whether they are edited or not."""
    return source.rows if isinstance(source, EditedSource) else source


def record_source(
    model: TransformerBridge,
    batch: TokenizedBatch,
    at: Sequence[tuple[Site, Positions]],
    edited: EditedSource | None,
    rows: Sequence[int],
) -> list[Float[Tensor, "n d"]]:
    """What prompts of a source hold, under the edits of their own if they have any.

    Args:
        model: the hooked model.
        batch: the prompts.
        at: the sites and positions that are read.
        edited: where the edits are from.
        rows: the numbers of the prompts there.

    Raises:
        ValueError: the prompts are edited in another model.
    """
    if edited is None:
        return record(model, batch, at)
    if edited.intervened.model is not model:
        ours, theirs = identify(model).name, identify(edited.intervened.model).name
        raise ValueError(
            f"sources: an EditedSource must be of the model that reads it, which is {ours}; it is "
            f"of {'another copy' if ours == theirs else 'the model'} {theirs}"
        )
    with evaluating(edited.intervened):
        return record(model, batch, at, edited.edits(batch, rows))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it, a module is in evaluation mode: no dropout, no soft masks."""
    training = module.training
    try:
        module.eval()
        yield
    finally:
        module.train(training)


def _listed(source: Source) -> Source:
    if isinstance(source, EditedSource):
        inner = None if source.sources is None else listed_sources(source.sources)
        return EditedSource(source.intervened, as_list(source.rows, "sources"), inner)
    return as_list(source, "sources")


def _take(source: Source, rows: Sequence[int]) -> Source:
    if isinstance(source, EditedSource):
        inner = None if source.sources is None else take_sources(source.sources, rows)
        return EditedSource(source.intervened, [source.rows[i] for i in rows], inner)
    return [source[i] for i in rows]


def _shown(names: set[str]) -> str:
    if names == {SOURCE}:
        return "one list of rows"
    return f"a mapping with rows for {', '.join(map(repr, sorted(names)))}"
