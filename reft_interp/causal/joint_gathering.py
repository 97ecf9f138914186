"""Gather evidence for several variables at once: joint DAS with its controls, on held-out pairs.

What the numbers say is `joint_evidence`'s. The searches on a model train together, in joint
replays. Next door, `gathering` is that for one variable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.claim import (
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
from reft_interp.causal.effects import effects_of
from reft_interp.causal.gathering import check_draws, hits_by_name
from reft_interp.causal.interchanges import check_tokens, interchange_rows
from reft_interp.causal.joint_cells import JointCell, fit_das_jointly_each
from reft_interp.causal.joint_controls import (
    placebos,
    random_interchanges,
    random_parts,
    whole_vectors,
)
from reft_interp.causal.joint_das import Places, check_places, place_jointly
from reft_interp.causal.joint_evidence import JointEvidence, alone
from reft_interp.causal.rows import Pairs
from reft_interp.causal.shared_tokens import sharing
from reft_interp.causal.shuffling import resample_seeds
from reft_interp.causal.task_done import check_gets_bases_right, task_accuracy
from reft_interp.evaluation import answers_correctly, prepared_correct
from reft_interp.models import identify, untrained_copy
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import prepare_each
from reft_interp.training.in_place import check_arguments

METHOD = "DAS"


def gather_joint_evidence(
    model: TransformerBridge,
    pairs: Counterfactuals,
    places: Places,
    *,
    epochs: int = 3,
    learning_rate: float = 5e-3,
    batch_size: int = 16,
    seeds: int = 3,
    resamples: int = 2,
    random_subspaces: int = 10,
    untrained: TransformerBridge | None = None,
    minimum_accuracy: float | int = 0.7,
    seed: int = 0,
    progress: bool = True,
) -> JointEvidence:
    """Find subspaces of several variables at once, with controls, and score all on held-out pairs.

    Joint DAS runs with several seeds, on resampled pairs, on pairs whose labels are shuffled, and
    at the same budget on an untrained copy of the model. Beside them: each variable swapped alone,
    in what was found for it; random subspaces; changes of the same size along random directions;
    and whole vectors, where no two variables share tokens of a site.

    Args:
        model: the hooked model.
        pairs: with a source for each variable
            (`CausalTask.counterfactuals(..., own_sources=True)`). Fitted to `pairs.train`, scored
            on `pairs.test`.
        places: for each variable where to look: site, tokens, rank; as `fit_das_jointly`.
        epochs: passes over the pairs.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: pairs a step.
        seeds: how often it is fitted from another start, with the true labels, with shuffled ones
            and in the untrained model each.
        resamples: how often it is fitted to pairs drawn again with replacement, each from a start
            of its own, after those of `seeds`.
        random_subspaces: how many, and as many placebos.
        untrained: a model to take as the untrained one; `untrained_copy(model)` by default.
        minimum_accuracy: share of held-out bases that the model must get right without an
            intervention, where the pairs were made for another model, or of rows without asking
            any; 0 asks nothing.
        seed: of the first start (further ones follow), of resampled pairs, of random subspaces and
            of the untrained copy.
        progress: show progress bars.

    Raises:
        TypeError: `pairs` are no `Counterfactuals`, a place is no site with tokens and rank.
        ValueError: no seeds, negative resamples, no random subspaces; pairs with one source, or of
            which the model gets too few bases right; as `fit_das_jointly`.
    """
    check_counterfactuals(pairs)
    check_draws(seeds, resamples, random_subspaces, seed)
    check_arguments(epochs, {}, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
    for rows in (pairs.train, pairs.test):
        _, sources = interchange_rows(rows)
        if not isinstance(sources, dict) or len(sources) < 2:
            raise ValueError(
                "pairs must have several sources, one for each variable (own_sources=True), got "
                "one; gather_evidence takes pairs with one source"
            )
        places = check_places(places, sources)
    place_jointly(model, places, seed)  # before the model is asked: sites, and ranks that fit
    for name, (_, on, _) in places.items():
        check_tokens(model, pairs, on, source=name)
    done = check_gets_bases_right(model, pairs, minimum_accuracy)
    first = JointCell(
        places, seed, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size
    )
    runs = [replace(first, seed=seed + i) for i in range(seeds)]
    shuffled = [replace(run, shuffled_labels=True) for run in runs]
    again = [
        replace(first, seed=seed + seeds + i, resampled_pairs=drawn)
        for i, drawn in enumerate(resample_seeds(seed, resamples))
    ]
    # Before anything is fitted, which would be lost where there is no copy, or no room for it. It
    # takes its memory the longer for it, but must fit beside the model in any case.
    fresh = untrained_copy(model, seed=seed) if untrained is None else untrained
    place_jointly(fresh, places, seed)
    fitted = fit_das_jointly_each(model, pairs.train, [*runs, *shuffled, *again], progress=progress)
    found, of_shuffled, of_again = fitted[:seeds], fitted[seeds : 2 * seeds], fitted[2 * seeds :]
    of_fresh = fit_das_jointly_each(fresh, pairs.train, runs, progress=progress)

    claim = found[0].intervened
    bases = interchange_rows(pairs.test)[0]
    shared = sharing(claim, bases)
    drawn = random_parts(claim, random_subspaces, seed)
    edits: dict[str, list[IntervenedModel]] = {
        METHOD: [one.intervened for one in found],
        WHOLE: [] if shared else [whole_vectors(claim)],
        RANDOM: [random_interchanges(claim, along) for along in drawn],
        PLACEBO: [placebos(claim, along) for along in drawn],
        **{alone(name): [_only(claim, name)] for name in places},
        SHUFFLED: [one.intervened for one in of_shuffled],
        resampled(METHOD): [one.intervened for one in of_again],
    }
    hits = hits_by_name(edits, lambda all_of_them: _hits(pairs.test, all_of_them))
    hits[NONE] = (answers_correctly(model, bases),)
    hits[UNTRAINED] = tuple(_hits(pairs.test, [one.intervened for one in of_fresh]))
    order = (
        METHOD, WHOLE, NONE, RANDOM, PLACEBO, *map(alone, places), SHUFFLED, UNTRAINED,
        resampled(METHOD),
    )  # fmt: skip
    moved = {name: edits[name][0] for name in (METHOD, WHOLE) if edits[name]}
    return JointEvidence(
        places={one.source: (one.site, str(one.on)) for one in claim.placements},
        method=METHOD,
        found=tuple(found),
        resampled=tuple(of_again),
        hits={name: hits[name] for name in order if hits[name]},
        train_hits=tuple(_hits(pairs.train, edits[METHOD])),
        effects=effects_of(model, pairs.test, moved),
        sharing=shared,
        model=identify(model).name,
        task_accuracy=done or task_accuracy(model, pairs),
        seen=pairs.seen,
    )


def _only(claim: IntervenedModel, variable: str) -> IntervenedModel:
    """The interchange of one variable, the others left as they are."""
    (placement,) = (one for one in claim.placements if one.source == variable)
    return IntervenedModel(
        claim.model,
        Placement(placement.intervention, placement.site, placement.on, source=variable),
    )


def _hits(pairs: Pairs, placed: Sequence[IntervenedModel]) -> list[Hits]:
    """Which pairs give the expected label under each, reading the sources that it asks for."""
    bases, sources = interchange_rows(pairs)
    assert isinstance(sources, Mapping)  # as was checked
    wanted = [(one, bases, {p.source: sources[p.source] for p in one.placements}) for one in placed]
    return prepared_correct(list(zip(placed, prepare_each(wanted), strict=True)))
