"""After a comparison: what the subspaces of its ReFTs encode, and have to do with each other.

Four questions, each beside what random subspaces of the same rank give: what of the task can be
read in a subspace; do seeds, methods and tasks write the same one; how much of what another method
does to the same layer lies in it; and is it, or the one that is read, one that DAS finds for the
task's label? Here they are asked; the answers are next door, in `subspace_comparison`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals
from reft_interp.evaluation import control_subspaces
from reft_interp.interop.adapted_states import adapted_states
from reft_interp.interop.plain_finetuning import REFT_FOLDER
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.running import is_causal
from reft_interp.runtime.saving import TENSORS
from reft_interp.subspace import Subspace
from reft_interp.sweeps import overlaps
from reft_interp.sweeps.comparison import MethodComparison
from reft_interp.sweeps.encoded_label import asked_rows, find_encoded, hold_rows
from reft_interp.sweeps.folder import read_json
from reft_interp.sweeps.label_subspaces import AtPlaces, Place, find_label_subspaces
from reft_interp.sweeps.subspace_comparison import SubspaceComparison
from reft_interp.tasks.suites import Suite
from reft_interp.training.classifier_saving import INTERVENTIONS

_ADAPTERS = "adapter_model.safetensors"
"""Where peft saves what it trained."""
_SETTINGS = "comparison.json"
"""What `compare` was called with, in its folder."""
_NO_WORDS = (
    "DAS was not trained, nor promoted tokens looked up: an encoder gives no answers in words"
)


def compare_subspaces(
    comparison: MethodComparison,
    model: TransformerBridge,
    suite: Suite,
    *,
    others: Sequence[MethodComparison] = (),
    pairs: int | Counterfactuals = 200,
    epochs: int = 3,
    learning_rate: float = 1e-2,
    draws: int = 5,
    seed: int = 0,
) -> SubspaceComparison:
    """Ask what the subspaces of a comparison's ReFTs encode, and have to do with each other.

    What a subspace encodes is asked of the untouched model, at the last of the tokens that the
    ReFT edits, on 500 test rows at most: is the label read inside by a linear probe, how much of
    what varies lies inside, which tokens do its directions promote? Where rows have no choices,
    there is no label, and a note says so.

    DAS is trained on pairs of training rows, half of them with different answers, to make the
    untouched model give the source's answer; where rows have no choices, or the model knows too
    few of them, that question is left out and a note says so. Where the model shows that it knows
    the label in another task, give that one's counterfactuals. An encoder says nothing in words:
    there neither DAS nor promoted tokens are asked for, the label is read at the first of the
    tokens that are edited, and effects are those on the first token, which the head reads.

    Effects are those of one training of each method, the first, at the last of the tokens that the
    ReFT edits, whose subspace it is, on 500 test rows at most. Of "LoRA and LoReFT" the effect is
    that of both together; its ReFT is compared like any other, and a note says where it stands
    without the adapters.

    Args:
        comparison: as `compare` gives it.
        model: the model that it was run on.
        suite: the suite that it was run on.
        others: comparisons on other suites, run on the same model: what a ReFT writes for them is
            compared with what the ReFT of the same name writes here.
        pairs: of training rows, and as many of test rows at most; or counterfactuals for the
            variable, whose prompts have the positions that the ReFTs edit.
        epochs: of DAS.
        learning_rate: of DAS.
        draws: random subspaces for each comparison; probes, which do not run the model, have 20 at
            least.
        seed: of pairs, DAS, probes and random subspaces.

    Raises:
        ValueError: no ReFT in the comparison was trained; it was run on another suite; one of the
            others is of the same suite or of another model; counterfactuals for an encoder; as
            `hold_rows`.
    """
    if not is_causal(model) and isinstance(pairs, Counterfactuals):
        raise ValueError(
            "pairs must be a number, as no DAS is trained on an encoder, got counterfactuals for "
            f"{model.cfg.model_name}"
        )
    if suite.name != comparison.suite:
        raise ValueError(
            f"suite must be the one that was compared on, {comparison.suite!r}, got {suite.name!r}"
        )
    _check_others(comparison, others)
    found, read = _written_and_read(comparison, model)
    if not found:
        raise ValueError("comparison holds no trained ReFT whose subspace could be compared")
    theirs = {other.suite: _written_and_read(other, model)[0] for other in others}
    # First what may fail: training DAS takes longest, and would be lost.
    cut = _max_length(comparison)
    effects = _effects(comparison, model, asked_rows(suite, seed), found, draws, seed, cut)
    places = list(dict.fromkeys(p for at in (*found.values(), *read.values()) for p in at))
    held = hold_rows(model, suite, places, seed=seed, max_length=cut)
    by_das, interchanges, unasked = {}, [], _NO_WORDS
    if is_causal(model):
        by_das, interchanges, unasked = find_label_subspaces(
            model, suite, {**found, **read}, pairs=pairs, epochs=epochs,
            learning_rate=learning_rate, draws=draws, seed=seed,
        )  # fmt: skip
    started = _started(comparison)
    among, alone = overlaps.among_themselves(found, started)
    for_both = {other.suite: started & _started(other) for other in others}
    between, apart = overlaps.between_tasks(found, comparison.suite, theirs, for_both)
    near_das = overlaps.with_das({**found, **read}, by_das)
    asked = {**found, **read, **({("DAS", seed): by_das} if by_das else {})}
    encoded, promoted = find_encoded(model, held, asked, draws=draws, seed=seed)
    notes = [one for one in (unasked, held.unread, *alone, *apart) if one is not None]
    if comparison.suite_hash not in (None, suite.hash):
        notes.append(
            f"The rows of {suite.name} are not those that the comparison was run on: what is "
            "tested here may have been trained on there"
        )
    if together := {name for name, seed in found if _has_adapters(comparison, name, seed)}:
        notes.append(
            "The label is read and swapped in the untouched model, without the adapters that the "
            f"ReFT of {', '.join(sorted(together))} was trained with"
        )
    return SubspaceComparison(
        encoded,
        promoted,
        pd.DataFrame([*among, *between, *near_das], columns=overlaps.COLUMNS),
        pd.DataFrame(effects),
        pd.DataFrame(interchanges),
        tuple(notes),
    )


def _check_others(comparison: MethodComparison, others: Sequence[MethodComparison]) -> None:
    names = [comparison.suite, *(other.suite for other in others)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"others must each be of a suite of its own, got {twice[0]!r} twice")


def _written_and_read(
    comparison: MethodComparison, model: TransformerBridge
) -> tuple[AtPlaces, AtPlaces]:
    """Of each ReFT, what it writes and what it reads; without what is no proper subspace."""
    written: dict[tuple[str, int], dict[Place, Subspace]] = {}
    read: dict[tuple[str, int], dict[Place, Subspace]] = {}
    for one in comparison.runs:
        for run in one["runs"]:
            method, seed = one["method"], run["seed"]
            folder = comparison.trained_folder(method, seed)
            beside = (folder, folder / REFT_FOLDER, folder / INTERVENTIONS)
            saved = [one for one in beside if (one / TENSORS).is_file()]
            if not saved:
                continue
            placements = IntervenedModel.load(saved[0], model).placements
            if writes := _proper({(p.site, p.on): p.intervention.subspace for p in placements}):
                written[method, seed] = writes
            if reads := _proper({(p.site, p.on): p.intervention.reads for p in placements}):
                read[f"{method} (read)", seed] = reads
    return written, read


def _has_adapters(comparison: MethodComparison, method: str, seed: int) -> bool:
    return (comparison.trained_folder(method, seed) / _ADAPTERS).is_file()


def _max_length(comparison: MethodComparison) -> int | None:
    """Tokens after which the comparison cut an encoder's texts."""
    return _settings(comparison).get("max_length")


def _started(comparison: MethodComparison) -> set[str]:
    """The ReFTs that had a width when they were given, and so one start for all seeds."""
    described = _settings(comparison).get("methods", [])
    refts = {one["name"]: one.get("reft") or one for one in described}
    return {
        name
        for name, one in refts.items()
        if "intervention" in one and one["intervention"][1]["width"] is not None
    }


def _settings(comparison: MethodComparison) -> dict[str, Any]:
    settings = comparison.folder / _SETTINGS
    return read_json(settings) if settings.is_file() else {}


def _proper(at: Mapping[Place, Subspace | None]) -> dict[Place, Subspace]:
    return {place: one for place, one in at.items() if one is not None and one.rank < one.width}


def _effects(
    comparison: MethodComparison,
    model: TransformerBridge,
    asked: Sequence[Mapping[str, Any]],
    found: AtPlaces,
    draws: int,
    seed: int,
    max_length: int | None,
) -> list[dict[str, Any]]:
    """How much of what the first training of each adapter changes lies in each subspace."""
    at_places = dict.fromkeys(place for at in found.values() for place in at)
    places = [(site.layer, on) for site, on in at_places if site.component == "resid_post"]
    untouched: Mapping[Any, Any] | None = None
    rows: list[dict[str, Any]] = []
    for one in comparison.runs:
        trained = [run["seed"] for run in one["runs"]]
        if not trained or not _has_adapters(comparison, one["method"], trained[0]):
            continue
        folder = comparison.trained_folder(one["method"], trained[0])
        if untouched is None:
            untouched = adapted_states(model, None, asked, places, max_length=max_length)
        states = adapted_states(model, folder, asked, places, max_length=max_length)
        moved = {place: states[place] - untouched[place] for place in places}
        for (name, at_seed), at in found.items():
            for (site, on), subspace in at.items():
                if site.component != "resid_post":
                    continue
                change = moved[site.layer, on]
                by_chance = [
                    _share(change, control)
                    for control in control_subspaces(
                        subspace.width, subspace.rank, draws, seed=seed
                    )
                ]
                rows.append(
                    {"effect of": one["method"], "seed": trained[0],
                     "subspace": f"{name} {at_seed}", "site": str(site), "tokens": str(on),
                     "share": _share(change, subspace),
                     "random": float(np.mean(by_chance)), "random high": max(by_chance)}
                )  # fmt: skip
    return rows


def _share(change: Any, subspace: Subspace) -> float:
    inside = subspace.coordinates(change.to(subspace.basis.dtype))
    return float(inside.square().sum() / change.square().sum())
