"""Ask a trained ReFT what it reads and where it writes, and set the answers beside controls.

The questions are next door (`linear`, `tokens`, `geometry`, `effects`); here they are asked of
each placement, of what its intervention reads and of what it writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import DASResult, interchange_rows
from reft_interp.causal.rows import Pairs, listed_rows
from reft_interp.evaluation import Accuracy
from reft_interp.models import identify
from reft_interp.positions import PositionSelector, Span, indices
from reft_interp.probing.effects import InterchangeInside, Removal
from reft_interp.probing.geometry import angles_between, overlap_beside_chance, random_angles
from reft_interp.probing.linear import DRAWS, lacking_for_folds, linear_probes
from reft_interp.probing.probe_report import ProbeReport
from reft_interp.probing.probed import Probed, subspaces_of
from reft_interp.probing.tokens import principal_axes, promoted_tokens
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.activations import activations
from reft_interp.runtime.batching import Rows, as_list, choices_of, encode
from reft_interp.runtime.intervened import common_model
from reft_interp.sites import Site
from reft_interp.training import ReFTResult

_FEW = 50  # below, an interval of a share is wider than a quarter


def probe(
    reft: ReFTResult | IntervenedModel,
    *,
    against: DASResult,
    data: Pairs,
    task: Rows,
    variable: str | None = None,
    draws: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> ProbeReport:
    """Ask what the subspaces of a trained ReFT encode.

    Args:
        reft: as `fit_reft` gives it, or any model with interventions in place (loaded, or
            trained elsewhere), each as wide as the DAS subspace.
        against: the subspace that was found for a causal variable, as `fit_das` gives it.
        data: held-out counterfactual rows of that variable, with `base_answer`. Where they
            say their noun (`base_subject`), as those of `NumberAgreement` do, the probes' folds
            keep nouns apart; else they keep apart what `against` selects.
        task: held-out rows of the task that the ReFT was trained on. Probes read their answers, so
            that five rows must have each; their `subject`, where there is one, keeps folds apart.
        variable: what linear probes read at the tokens of `against`: the column `base_<variable>`
            of `data`. By default the base's answer, by its place among the choices; that is the
            variable only where each of its values has one place.
        draws: random subspaces for each comparison; linear probes, which do not run the model, have
            20 at least.
        seed: of the random subspaces, the folds and the shuffles.
        progress: show a progress bar.

    Raises:
        TypeError: `reft` or `against` are neither what `fit_reft` and `fit_das` give nor, of the
            first, an IntervenedModel; rows that are none.
        ValueError: a placement of another width than the DAS subspace; `data` without a column for
            `variable`, or in which it never varies; fewer rows of a value, or of an answer of
            `task`, than probes need.
    """
    (report,) = probe_each(
        [reft],
        against=against,
        data=data,
        task=task,
        variable=variable,
        draws=draws,
        seed=seed,
        progress=progress,
    )
    return report


def probe_each(
    refts: Sequence[ReFTResult | IntervenedModel],
    *,
    against: DASResult,
    data: Pairs,
    task: Rows,
    variable: str | None = None,
    draws: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> list[ProbeReport]:
    """`probe` several ReFTs of one model on one task; what their answers share is computed once.

    Args:
        refts: trained on the same model and task.
        against: as in `probe`.
        data: as in `probe`.
        task: as in `probe`.
        variable: as in `probe`.
        draws: as in `probe`.
        seed: as in `probe`.
        progress: show a progress bar.

    Raises:
        TypeError: as `probe`.
        ValueError: none given; one is of another model than the first; what `probe` refuses.
    """
    if not isinstance(against, DASResult):
        raise TypeError(f"against must be what fit_das gave, got {type(against).__name__}")
    every = [reft.intervened if isinstance(reft, ReFTResult) else reft for reft in refts]
    for one in every:
        if not isinstance(one, IntervenedModel):
            raise TypeError(
                f"reft must be what fit_reft gave, or an IntervenedModel, got {type(one).__name__}"
            )
    if not every:
        raise ValueError("refts must hold at least one trained ReFT, got none")
    model = common_model("refts", every)
    subspaces = [subspaces_of(intervened) for intervened in every]
    width = against.subspace.width
    for one in (one for found, _ in subspaces for one in found):
        if one.subspace.width != width:
            raise ValueError(
                f"{one.label} is {one.subspace.width} wide, the DAS subspace "
                f"{width}: probe against one of the same width"
            )
    questions = _Questions(model, against, data, as_list(task, "task"), variable, draws, seed)
    steps = sum(len(found) + 2 for found, _ in subspaces)
    trained_with = [reft.settings if isinstance(reft, ReFTResult) else {} for reft in refts]
    with tqdm(total=steps, disable=not progress, desc="probing", leave=False) as bar:
        return [
            questions.ask(intervened, found, notes, settings, bar)
            for intervened, (found, notes), settings in zip(
                every, subspaces, trained_with, strict=True
            )
        ]


class _Questions:
    """What is asked of each ReFT, and what the answers share."""

    def __init__(
        self,
        model: TransformerBridge,
        against: DASResult,
        data: Pairs,
        task: Sequence[Mapping[str, Any]],
        variable: str | None,
        draws: int,
        seed: int,
    ):
        self.model, self.against, self.draws, self.seed = model, against, draws, seed
        self.read_draws = max(draws, DRAWS)
        # Once: a result computes its subspace anew whenever it is asked for it.
        self.sought = against.subspace
        self.data = data
        self.examples = _examples(data, against.on, variable)
        self.variable = "base's answer" if variable is None else variable
        self.task = {
            "rows": task,
            "labels": [row["answer"] for row in task],
            "groups": [str(row.get("subject") or row["prompt"]) for row in task],
        }
        for name, of in (("data", self.examples), ("task", self.task)):
            if lacking := lacking_for_folds(of["labels"], of["groups"]):
                raise ValueError(f"{name}: {lacking}")
        self.inside = InterchangeInside(model, data, against.on, draws=draws, seed=seed)
        self.removal = Removal(model, task, draws=draws, seed=seed)
        self._held: dict[Site, tuple[Tensor, Tensor]] = {}
        self._at_random: dict[tuple[Site, str], dict[int, list[float]]] = {}

    def held(self, site: Site) -> tuple[Tensor, Tensor]:
        """What the untouched model holds of the variable's tokens, and at the task's last ones."""
        if site not in self._held:
            variable = activations(self.model, self.examples["rows"], site, self.against.on)
            task = activations(self.model, self.task["rows"], site, indices(-1))
            self._held[site] = (
                torch.cat([h[-1:] for h in variable]),
                torch.cat([h[-1:] for h in task]),
            )
        return self._held[site]

    def ask(
        self,
        intervened: IntervenedModel,
        found: Sequence[Probed],
        notes: Sequence[str],
        settings: Mapping[str, Any],
        bar: "tqdm[Any]",
    ) -> ProbeReport:
        against, sought, seed = self.against, self.sought, self.seed
        notes = [*notes, *self._never_edited(intervened), *self._few()]
        linear, tokens, angles, overlaps = [], [], [], []
        for one in found:
            at_variable, at_task = self.held(one.site)
            asked = (
                (f"{self.variable}, on {against.on}", at_variable, self.examples),
                ("task answer, last token", at_task, self.task),
            )
            for read, h, of in asked:
                frame = linear_probes(
                    h,
                    of["labels"],
                    one.subspace,
                    groups=of.get("groups"),
                    draws=self.read_draws,
                    at_random=self._at_random.setdefault((one.site, read), {}),
                    seed=seed,
                )
                linear.append(_labelled(frame, subspace=one.label, read=read))
                notes += _no_better_than_controls(one.label, read, frame)
            if one.site.component not in ("z", "mlp_post"):
                axes = principal_axes(one.subspace, at_variable)
                tokens.append(_labelled(promoted_tokens(self.model, axes), subspace=one.label))
            angles.append(
                angles_between(one.subspace, sought).assign(
                    series=f"{one.label} to DAS", rank=one.subspace.rank
                )
            )
            overlaps.append({"subspace": one.label} | overlap_beside_chance(one.subspace, sought))
            bar.update()
        elsewhere = sorted({str(p.site) for p in found if p.site != against.site})
        if elsewhere:
            notes.append(
                f"DAS searched at {against.site}; angles to subspaces at {', '.join(elsewhere)} "
                "compare directions of different sites."
            )
        interchange = self.inside.compare(
            [("DAS", against.site, sought)] + [(p.label, p.site, p.subspace) for p in found]
        )
        notes += self._das_failed()
        bar.update()
        removal = self.removal.compare(
            intervened, [(one.label, one.placement, one.subspace) for one in found]
        )
        bar.update()
        by_chance = [
            random_angles((rank, sought.rank), sought.width, seed=seed).assign(rank=rank)
            for rank in dict.fromkeys(one.subspace.rank for one in found)
        ]
        name = type(intervened.placements[0].intervention).__name__
        return ProbeReport(
            name=name,
            notes=tuple(notes),
            linear=pd.concat(linear, ignore_index=True),
            tokens=pd.concat(tokens, ignore_index=True) if tokens else pd.DataFrame(),
            angles=pd.concat(angles, ignore_index=True),
            expected_angles=pd.concat(by_chance, ignore_index=True),
            overlaps=pd.DataFrame(overlaps),
            interchange=interchange,
            removal=removal,
            facts={
                "model": identify(self.model).name,
                "DAS": _said(against.intervened.placements, against.settings),
                name: _said(intervened.placements, settings),
                "pairs": len(self.data),
                "task rows": len(self.task["rows"]),
                "random subspaces": f"{self.draws}, beside linear probes {self.read_draws}",
                "seed": seed,
            },
        )

    def _das_failed(self) -> list[str]:
        """A note where the subspace that all is compared with was not shown to hold anything."""
        if not (lacking := self.inside.not_above(self.against.site, self.sought)):
            return []
        return [
            f"DAS itself is not above {' and '.join(lacking)} on these pairs (95 % intervals): its "
            "subspace is not shown to carry the variable, and angles and overlaps with it say "
            "nothing of the variable."
        ]

    def _few(self) -> list[str]:
        """A note where answers rest on few rows."""
        counts = {
            "pairs": len(self.data),
            "different bases": len(self.examples["rows"]),
            "task rows": len(self.task["rows"]),
        }
        few = {name: n for name, n in counts.items() if n < _FEW}
        if not few:
            return []
        low, high = Accuracy(min(few.values()) // 2, min(few.values())).interval
        named = ", ".join(f"{n} {name}" for name, n in few.items())
        return [
            f"There are few rows ({named}): of {min(few.values())}, a share of a half has a 95 % "
            f"interval of {low:.2f} to {high:.2f}."
        ]

    def _never_edited(self, intervened: IntervenedModel) -> list[str]:
        """Notes on placements that edit other tokens than those that hold the variable."""
        batch, on = encode(self.model, self.task["rows"]), self.against.on
        notes = []
        for placement in intervened.placements:
            edited = placement.on(batch).mask(batch)
            try:
                variable = on(batch).mask(batch)
            except ValueError:
                # The task's rows need not have what the counterfactual rows have, such as a span.
                variable = torch.zeros_like(edited)
            touched = int((edited & variable).any(-1).sum())
            if touched < len(batch):
                name = type(placement.intervention).__name__
                notes.append(
                    f"{name} edits {placement.on}. That touches {on}, where the causal variable is "
                    f"read and swapped, in {touched} of the {len(batch)} prompts of its own task: "
                    "what is probed there need not be what it works with."
                )
        return notes


def _said(placements: Sequence[Placement], settings: Mapping[str, Any]) -> str:
    """Where something works, and what it was trained with."""
    where = dict.fromkeys(f"{placed.site} on {placed.on}" for placed in placements)
    trained = [f"{name.replace('_', ' ')} {value}" for name, value in settings.items()]
    return ", ".join([*where, *trained])


def _examples(data: Pairs, on: PositionSelector, variable: str | None) -> Mapping[str, Any]:
    """Each distinct base, with the variable's value as its label, and its group.

    Raises:
        ValueError: a row has no `base_answer`, or no column for the variable, or all values are
            the same.
    """
    wanted = "base_answer" if variable is None else f"base_{variable}"
    bases, _ = interchange_rows(data)
    rows, labels, groups, seen = [], [], [], set()
    pairs = listed_rows(cast("Pairs", data))
    for i, (pair, base) in enumerate(zip(pairs, bases, strict=True)):
        if wanted not in pair:
            raise ValueError(f"data: row {i} has no {wanted!r}, only {sorted(pair)}")
        if base["prompt"] in seen:
            continue
        seen.add(base["prompt"])
        rows.append(base)
        # Templates differ in their verbs, so the answer itself says more than the variable:
        # its place among the choices is what answers have in common.
        said, choices = pair[wanted], choices_of(pair, f"data: row {i}")
        labels.append(choices.index(said) if variable is None and choices else said)
        span = (base["spans"] or {}).get(on.name) if isinstance(on, Span) else None
        text = base["prompt"] if span is None else base["prompt"][slice(*span)]
        groups.append(str(pair.get("base_subject") or text))
    if len(set(labels)) < 2:
        raise ValueError(
            f"data: {wanted!r} is the same in all rows, {labels[0]!r}"
            if variable is not None
            else "data: 'base_answer' stands at one place among its choices in all rows, which "
            "says nothing of the variable: name it (variable=)"
        )
    return {"rows": rows, "labels": labels, "groups": groups}


def _no_better_than_controls(label: str, read: str, frame: pd.DataFrame) -> list[str]:
    """A note where a probe inside a subspace is not above its controls."""
    of = frame.set_index("part")
    inside, shuffled = of.at["inside", "value"], of.at["shuffled labels", "value"]
    begin = f"{label}: the probe of {read!r} ({inside:.2f}) is not above"
    if inside <= shuffled:
        return [
            f"{begin} the same probe of shuffled labels ({shuffled:.2f}), so that nothing is read "
            "there."
        ]
    if inside <= (best := of.at["random subspace", "high"]):
        return [f"{begin} the best of its random subspaces ({best:.2f})."]
    return []


def _labelled(frame: pd.DataFrame, **columns: str) -> pd.DataFrame:
    for i, (name, value) in enumerate(columns.items()):
        frame.insert(i, name, value)
    return frame
