"""Gather evidence: fit a method with its controls, and score them on the same held-out pairs.

What the numbers say is `evidence`'s. DAS and its controls train together, in joint replays.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.claim import (
    CONTROLS,
    NONE,
    PLACEBO,
    RANDOM,
    SHUFFLED,
    UNTRAINED,
    WHOLE,
    Hits,
    resampled,
)
from reft_interp.causal.counterfactuals import Counterfactuals, check_counterfactuals
from reft_interp.causal.das_cells import DASCell, fit_das_each
from reft_interp.causal.effects import effects
from reft_interp.causal.evidence import Evidence, Found, interchange_of
from reft_interp.causal.interchanges import (
    On,
    check_tokens,
    interchange_rows,
    prepare_interchanges,
)
from reft_interp.causal.method_comparison import check_methods, is_method
from reft_interp.causal.methods import DAS, FullVector, Method, RandomSubspace, check_isolated
from reft_interp.causal.readable_split import has_split, readable_split
from reft_interp.causal.rows import Pairs
from reft_interp.causal.shuffling import resample, resample_seeds, shuffled_pairs
from reft_interp.causal.task_done import check_does_task, task_accuracy
from reft_interp.evaluation import answers_correctly, control_subspaces, prepared_correct
from reft_interp.interventions import (
    DistributedInterchange,
    Interchange,
    Intervention,
    PlaceboInterchange,
)
from reft_interp.models import identify, untrained_copy
from reft_interp.positions import parse_positions
from reft_interp.sites import Site, check_site
from reft_interp.training.hyperparameters import hyperparameters_of
from reft_interp.whole_numbers import at_least

Scored = TypeVar("Scored")


def gather_evidence(
    model: TransformerBridge,
    pairs: Counterfactuals,
    site: Site,
    on: On,
    *,
    method: Method | None = None,
    rank: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    seeds: int = 3,
    resamples: int = 2,
    random_subspaces: int = 10,
    untrained: TransformerBridge | None = None,
    minimum_accuracy: float | int = 0.7,
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Fit DAS, or another method, with its controls, and score them on held-out pairs.

    The same method is fitted with several seeds, on resampled pairs, on pairs whose labels (and
    values of the variable, for methods that read activations) are shuffled, and at the same budget
    on an untrained copy of the model. DAS trains all of them on a model in joint replays; other
    methods one by one.

    Args:
        model: the hooked model.
        pairs: fitted to `pairs.train`, scored on `pairs.test`.
        site: where.
        on: which tokens of base and source.
        method: as `compare_methods` takes them, `BoundlessDAS()` for instance; DAS by default. One
            that has a seed is fitted with that and those that follow; one without is fitted once.
            A `DAS` must have whole epochs here, as searches train together, and with `isolate` some
            training pairs of kind "isolate".
        rank: of DAS, 1 by default. A method has its own settings: give this and the three that
            follow without `method`.
        epochs: of DAS, passes over the pairs; 3 by default.
        learning_rate: of DAS, AdamW's; 5e-3 by default.
        batch_size: of DAS, pairs a step; 16 by default.
        seeds: how often the method is fitted from another start, with the true labels, with
            shuffled ones and in the untrained model each.
        resamples: how often it is fitted to pairs drawn again with replacement, each from a start
            of its own, after those of `seeds`.
        random_subspaces: how many, and as many placebos.
        untrained: a model to take as the untrained one; `untrained_copy(model)` by default.
        minimum_accuracy: share of held-out bases that the model must get right without an
            intervention, where the pairs were made for another model, or of rows without asking
            any; 0 asks nothing.
        seed: of DAS's first start (further ones follow), of shuffled labels (likewise), of
            resampled pairs, of random subspaces and of the untrained copy.
        progress: show progress bars of DAS.

    Returns:
        The evidence. Methods that look at no labels (PCA) have no control with shuffled ones.

    Raises:
        TypeError: `pairs` are no `Counterfactuals`, `site` no Site, `method` no method, or a `DAS`
            with part of an epoch; a number of searches or draws, or a seed, that is not whole.
        ValueError: no seeds, negative resamples, no random subspaces, a negative seed; pairs with
            several sources (for `gather_joint_evidence`), or of which the model gets too few bases
            right; a method that is itself one of the controls, or whose map is free
            (`NonlinearAlignment`); settings of DAS beside a method; nothing found; as the method's
            `fit`.
    """
    check_counterfactuals(pairs)
    check_site(site)
    check_draws(seeds, resamples, random_subspaces, seed)
    settings = {
        "rank": rank,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    }
    method = _method(method, {k: v for k, v in settings.items() if v is not None}, seed)
    check_methods([method], site.width(model))
    if getattr(method, "isolate", False):
        check_isolated(method.name, pairs.train)
    on = parse_positions(on)
    check_tokens(model, pairs, on)
    done = check_does_task(model, pairs, minimum_accuracy)
    starts = _starts(method, seeds + resamples)
    starts, others = starts[:seeds], starts[seeds:] or starts
    runs = [_Run(start) for start in starts]
    shuffled = [
        _Run(starts[i % len(starts)], shuffled=seed + i) for i in range(seeds) if _reads(method)
    ]
    again = [
        _Run(others[i % len(others)], resampled=drawn)
        for i, drawn in enumerate(resample_seeds(seed, resamples))
    ]
    # Before anything is fitted, which would be lost where there is no copy, or no room for it. It
    # takes its memory the longer for it, but must fit beside the model in any case.
    fresh = untrained_copy(model, seed=seed) if untrained is None else untrained
    site.check(fresh)
    fitting = _Fitting(pairs.train, pairs.variable, site, on, progress)
    fitted = fitting.each(model, [*runs, *shuffled, *again])
    first = next(fitted)
    subspace = first.subspace  # before more is fitted: a mask may have chosen nothing
    found = (first, *(next(fitted) for _ in runs[1:]))
    of_shuffled, of_again = (tuple(next(fitted) for _ in some) for some in (shuffled, again))
    of_fresh = list(fitting.each(fresh, runs))

    claim = interchange_of(found[0])
    controls = control_subspaces(subspace.width, subspace.rank, random_subspaces, seed=seed)
    edits: dict[str, list[Intervention]] = {
        method.name: [interchange_of(one) for one in found],
        WHOLE: [Interchange()],
        RANDOM: [DistributedInterchange(control) for control in controls],
        PLACEBO: [PlaceboInterchange(subspace, control) for control in controls],
        SHUFFLED: [interchange_of(one) for one in of_shuffled],
        resampled(method.name): [interchange_of(one) for one in of_again],
    }
    hits = hits_by_name(edits, lambda all_of_them: _hits(model, pairs.test, all_of_them, site, on))
    hits[NONE] = (answers_correctly(model, interchange_rows(pairs.test)[0]),)
    hits[UNTRAINED] = tuple(
        _hits(fresh, pairs.test, [interchange_of(one) for one in of_fresh], site, on)
    )
    order = (
        method.name, WHOLE, NONE, RANDOM, PLACEBO, SHUFFLED, UNTRAINED, resampled(method.name),
    )  # fmt: skip
    split = None
    if has_split(site, pairs.test):
        split = readable_split(model, pairs.test, subspace, site, on)
    return Evidence(
        variable=pairs.variable,
        site=site,
        on=str(on),
        method=method.name,
        found=found,
        resampled=of_again,
        hits={name: hits[name] for name in order if hits[name]},
        train_hits=tuple(_hits(model, pairs.train, edits[method.name], site, on)),
        effects=effects(model, pairs.test, {method.name: claim, WHOLE: Interchange()}, site, on),
        split=split,
        model=identify(model).name,
        task_accuracy=done or task_accuracy(model, pairs),
        seen=pairs.seen,
    )


def check_draws(seeds: int, resamples: int, random_subspaces: int, seed: int) -> None:
    """Raise where evidence would lack a search or a control, or could not draw them.

    Raises:
        TypeError: one is no whole number.
        ValueError: no seeds, negative resamples, no random subspaces, a negative seed.
    """
    for name, number, least in (
        ("seeds", seeds, 1),
        ("resamples", resamples, 0),
        ("random_subspaces", random_subspaces, 1),
        ("seed", seed, 0),
    ):
        at_least(number, least, name)


def hits_by_name(
    edits: Mapping[str, Sequence[Scored]], score: Callable[[list[Scored]], list[Hits]]
) -> dict[str, tuple[Hits, ...]]:
    """What each of several groups hits, all scored together.

    Args:
        edits: the groups, by name.
        score: gives the hits of each of a list.
    """
    scored = iter(score([one for some in edits.values() for one in some]))
    return {name: tuple(next(scored) for _ in some) for name, some in edits.items()}


@dataclass(frozen=True)
class _Run:
    """A method to fit, and the pairs that it is fitted to, by the seeds of what is drawn."""

    method: Any
    shuffled: int | None = None
    resampled: int | None = None


@dataclass(frozen=True)
class _Fitting:
    """What all runs share but for the model."""

    pairs: Pairs
    variable: str
    site: Site
    on: On
    progress: bool

    def each(self, model: TransformerBridge, runs: Sequence[_Run]) -> Iterator[Found]:
        """What each run finds; of methods that are fitted one by one, when it is asked for."""
        if all(type(run.method) is DAS for run in runs):
            cells = [self._cell(run) for run in runs]
            yield from fit_das_each(model, self.pairs, cells, progress=self.progress)
            return
        drawn = [self._drawn(run) for run in runs]  # labels that cannot be shuffled raise here
        for run, pairs in zip(runs, drawn, strict=True):
            yield run.method.fit(model, pairs, self.variable, self.site, self.on)

    def _cell(self, run: _Run) -> DASCell:
        das: DAS = run.method
        return DASCell(
            self.site,
            self.on,
            das.rank,
            **hyperparameters_of(das),
            shuffled_labels=run.shuffled is not None,
            resampled_pairs=run.resampled,
        )

    def _drawn(self, run: _Run) -> Pairs:
        if run.shuffled is not None:
            return shuffled_pairs(self.pairs, self.variable, run.shuffled)
        rows = list(cast("Sequence[Any]", self.pairs))
        if run.resampled is not None:
            return [rows[i] for i in resample(len(rows), run.resampled)]
        return rows


def _method(method: Method | None, settings: dict[str, Any], seed: int) -> Method:
    if method is None:
        return DAS(**settings, seed=seed)
    if not is_method(method):
        raise TypeError(f"method must be a method, as BoundlessDAS(), got {method!r}")
    if settings:
        named, kind = ", ".join(settings), type(method).__name__
        raise ValueError(f"{named}: a method has its own settings; give them to {kind}")
    if getattr(method, "beside_untrained", False):
        raise ValueError(
            f"method must find a subspace: {method.name}'s map is free, and such maps reach full "
            "accuracy also where the variable only happens to be readable, so that no control "
            "makes a claim of it; compare_methods shows it beside the untrained model"
        )
    reserved = {*CONTROLS, WHOLE, PLACEBO}
    if isinstance(method, FullVector | RandomSubspace) or method.name in reserved:
        raise ValueError(f"method must be one that finds something, {method.name!r} is a control")
    return method


def _starts(method: Any, n: int) -> list[Any]:
    """The method with n seeds, its own and those that follow; one without is there once."""
    first = getattr(method, "seed", None)
    if first is None or not dataclasses.is_dataclass(method):
        return [method]
    return [dataclasses.replace(cast("Any", method), seed=first + i) for i in range(n)]


def _reads(method: Any) -> bool:
    """Whether it looks at labels, or at values, that can be shuffled."""
    return getattr(method, "reads_values", True)


def _hits(
    model: TransformerBridge,
    pairs: Pairs,
    interventions: Sequence[Intervention],
    site: Site,
    on: On,
) -> list[Hits]:
    """Which pairs give the expected label under each interchange."""
    return prepared_correct(
        prepare_interchanges(model, pairs, [(one, site, on) for one in interventions])
    )
