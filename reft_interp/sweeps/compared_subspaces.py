"""After a comparison: what the subspaces of its ReFTs have to do with each other, and with others.

Three questions, each beside what random subspaces of the same rank give: do seeds and methods
write the same subspace; how much of what another method does to the same layer lies in it; and is
it, or the one that is read, one that DAS finds for the task's label?
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals
from reft_interp.evaluation import control_subspaces
from reft_interp.interop.adapted_states import adapted_states
from reft_interp.interop.plain_finetuning import REFT_FOLDER
from reft_interp.probing.geometry import overlap_beside_chance
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import as_list
from reft_interp.runtime.saving import TENSORS
from reft_interp.subspace import Subspace
from reft_interp.sweeps.comparison import MethodComparison
from reft_interp.sweeps.label_subspaces import AtPlaces, Place, find_label_subspaces
from reft_interp.tasks.suites import Suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ADAPTERS = "adapter_model.safetensors"
"""Where peft saves what it trained."""

_OVERLAPS = [
    "question", "first", "second", "site", "tokens",
    "overlap", "expected at random", "random low", "random high",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class SubspaceComparison:
    """What the ReFTs of a comparison write, against each other and against controls; and what they
    read, against DAS. "LoReFT" is what it writes, "LoReFT (read)" what it reads."""

    overlaps: pd.DataFrame = field(repr=False)
    """Mean squared cosine of the principal angles, of different seeds (the same one starts all
    methods in one subspace): question, first, second, site, tokens,
    overlap, expected at random, random low, random high (the middle 95 % of draws)."""
    effects: pd.DataFrame = field(repr=False)
    """How much of what a method changes in the residual stream lies in a subspace (a share of the
    squared length, summed over the rows of the first test set, at each prompt's last token): effect
    of, seed (the one training whose effect it is, the first), subspace, site, share, random (mean
    of draws), random high (the highest). Methods of peft's have a row, with the ReFT that was
    trained together with them, if any, in place too."""
    interchanges: pd.DataFrame = field(repr=False)
    """Does swapping what is inside swap the label? IIA on held-out pairs: subspace, site, tokens,
    iia, low, high, n."""
    notes: tuple[str, ...] = ()
    """What could not be asked, and why."""

    def summary(self) -> pd.DataFrame:
        """Overlaps over places and pairs: question, overlap (mean), low, high (their range),
        expected (at random), pairs."""
        rows: list[dict[str, Any]] = []
        for question, some in self.overlaps.groupby("question", sort=False):
            values = some["overlap"]
            rows.append(
                {
                    "question": question,
                    "overlap": values.mean(),
                    "low": values.min(),
                    "high": values.max(),
                    "expected": some["expected at random"].mean(),
                    "random high": some["random high"].max(),
                    "pairs": len(some),
                }
            )
        columns = ["question", "overlap", "low", "high", "expected", "random high", "pairs"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """Overlaps, their range over places and pairs, beside what random subspaces have."""
        from reft_interp import plotting

        shown = self.summary()
        return plotting.intervals(
            shown, value="overlap", label="question", reference=shown["expected"].to_numpy().mean(),
            reference_label="random subspaces", xlabel="overlap (mean squared cosine)",
            title="Do they write the same subspace?", ax=ax,
        )  # fmt: skip

    def save(self, folder: str | Path) -> Path:
        """Write the tables as CSV and the figure as PNG; gives the figure's path."""
        from reft_interp import plotting

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name in ("overlaps", "effects", "interchanges"):
            getattr(self, name).to_csv(place / f"subspace-{name}.csv", index=False)
        picture = place / "subspace-overlaps.png"
        plotting.save_figure(self.plot(), picture)
        return picture

    def __str__(self) -> str:
        tables = [("Overlap of what is written", self.summary())]
        if len(self.effects):
            tables.append(
                (
                    "Share of the effect of a method's first training in a subspace",
                    _means(self.effects),
                )
            )
        if len(self.interchanges):
            wide = self.interchanges.pivot_table(index="subspace", columns="site", values="iia",
                                                 sort=False).reset_index()  # fmt: skip
            tables.append(("IIA of the label, swapped inside each subspace", wide))
        texts = [
            f"{heading}\n{frame.to_string(index=False, float_format='{:.3f}'.format)}"
            for heading, frame in tables
        ]
        return "\n\n".join([*texts, *self.notes])

    def _repr_html_(self) -> str:
        return self.summary().to_html(index=False, float_format="{:.3f}".format)


def compare_subspaces(
    comparison: MethodComparison,
    model: TransformerBridge,
    suite: Suite,
    *,
    pairs: int | Counterfactuals = 200,
    epochs: int = 3,
    learning_rate: float = 1e-2,
    draws: int = 5,
    seed: int = 0,
) -> SubspaceComparison:
    """Ask what the subspaces of a comparison's ReFTs have to do with each other, and with DAS's.

    DAS is trained on pairs of training rows with different answers, to make the untouched model
    give the source's answer; where rows have no choices, or the model knows too few of them, that
    question is left out and a note says so. Where the model shows that it knows the label in
    another task, give that one's counterfactuals.

    Effects are those of one training of each method, the first. Of "LoRA and LoReFT" the effect is
    that of both together; its ReFT is compared like any other, and a note says where it stands
    without the adapters.

    Args:
        comparison: as `compare` gives it.
        model: the model that it was run on.
        suite: the suite that it was run on.
        pairs: of training rows, and as many of test rows at most; or counterfactuals for the
            variable, whose prompts have the positions that the ReFTs edit.
        epochs: of DAS.
        learning_rate: of DAS.
        draws: random subspaces for each comparison.
        seed: of pairs, DAS and random subspaces.

    Raises:
        ValueError: no ReFT in the comparison was trained.
    """
    found, read = _written_and_read(comparison, model)
    if not found:
        raise ValueError("comparison holds no trained ReFT whose subspace could be compared")
    by_das, interchanges, unasked = find_label_subspaces(
        model, suite, {**found, **read}, pairs=pairs, epochs=epochs, learning_rate=learning_rate,
        draws=draws, seed=seed,
    )  # fmt: skip
    overlaps = [*_among_themselves(found), *_with_das({**found, **read}, by_das)]
    notes = [] if unasked is None else [unasked]
    together = {name for name, seed in found if _has_adapters(comparison, name, seed)}
    if together and interchanges:
        notes.append(
            f"The label is swapped in the untouched model, without the adapters that the ReFT of "
            f"{', '.join(sorted(together))} was trained with"
        )
    return SubspaceComparison(
        pd.DataFrame(overlaps, columns=_OVERLAPS),
        pd.DataFrame(_effects(comparison, model, suite, found, draws, seed)),
        pd.DataFrame(interchanges),
        tuple(notes),
    )


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
            saved = [one for one in (folder, folder / REFT_FOLDER) if (one / TENSORS).is_file()]
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


def _proper(at: Mapping[Place, Subspace | None]) -> dict[Place, Subspace]:
    return {place: one for place, one in at.items() if one is not None and one.rank < one.width}


def _overlap(question: str, first: str, second: str, place: Place, a: Subspace, b: Subspace):
    site, on = place
    named = {"question": question, "first": first, "second": second}
    return {**named, "site": str(site), "tokens": str(on), **overlap_beside_chance(a, b)}


def _among_themselves(found: AtPlaces) -> list[dict[str, Any]]:
    rows = []
    for (one, at), (other, there) in itertools.combinations(found.items(), 2):
        same = one[0] == other[0]
        if not same and one[1] == other[1]:
            continue  # they begin in one subspace, and would be near it and each other anyway
        question = f"{one[0]}: two seeds" if same else f"{one[0]} and {other[0]}"
        rows += [
            _overlap(question, f"{one[0]} {one[1]}", f"{other[0]} {other[1]}", p, at[p], there[p])
            for p in at
            if p in there
        ]
    return rows


def _with_das(found: AtPlaces, by_das: Mapping[Place, Subspace]) -> list[dict[str, Any]]:
    return [
        _overlap(f"{name} and DAS", f"{name} {seed}", "DAS", place, subspace, by_das[place])
        for (name, seed), at in found.items()
        for place, subspace in at.items()
        if place in by_das
    ]


def _effects(
    comparison: MethodComparison,
    model: TransformerBridge,
    suite: Suite,
    found: AtPlaces,
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """How much of what the first training of each adapter changes lies in each subspace."""
    rows_of_test = as_list(next(iter(suite.tests.values())))
    sites = sorted({site for at in found.values() for site, _ in at}, key=lambda s: s.layer)
    layers = [site.layer for site in sites if site.component == "resid_post"]
    rows: list[dict[str, Any]] = []
    for one in comparison.runs:
        trained = [run["seed"] for run in one["runs"]]
        if not trained or not _has_adapters(comparison, one["method"], trained[0]):
            continue
        folder = comparison.trained_folder(one["method"], trained[0])
        states = adapted_states(model, folder, rows_of_test, layers)
        untouched = adapted_states(model, None, rows_of_test, layers)
        moved = {layer: states[layer] - untouched[layer] for layer in layers}
        for (name, at_seed), at in found.items():
            for (site, _), subspace in at.items():
                if site.layer not in moved or site.component != "resid_post":
                    continue
                change = moved[site.layer]
                by_chance = [
                    _share(change, control)
                    for control in control_subspaces(
                        subspace.width, subspace.rank, draws, seed=seed
                    )
                ]
                rows.append(
                    {"effect of": one["method"], "seed": trained[0],
                     "subspace": f"{name} {at_seed}", "site": str(site),
                     "share": _share(change, subspace),
                     "random": float(np.mean(by_chance)), "random high": max(by_chance)}
                )  # fmt: skip
    return rows


def _share(change: Any, subspace: Subspace) -> float:
    inside = subspace.coordinates(change.to(subspace.basis.dtype))
    return float(inside.square().sum() / change.square().sum())


def _means(effects: pd.DataFrame) -> pd.DataFrame:
    named = effects.assign(subspace=[name.rsplit(" ", 1)[0] for name in effects["subspace"]])
    means: Any = named.groupby(["effect of", "subspace", "site"], sort=False)
    return means[["share", "random", "random high"]].mean().reset_index()
