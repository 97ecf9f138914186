"""Evidence for a claim "this subspace carries that variable", with every control it needs.

DAS and its controls train together and are scored on the same held-out pairs. What would have
been found anyway (with shuffled labels, in an untrained model, in a random subspace) stands
beside what was found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals, check_counterfactuals
from reft_interp.causal.das import DASResult
from reft_interp.causal.das_cells import DASCell, fit_das_each
from reft_interp.causal.effects import Effects, effects
from reft_interp.causal.interchanges import On, prepare_interchanges
from reft_interp.causal.rows import Pairs
from reft_interp.evaluation import (
    Accuracy,
    Comparison,
    answers_correctly,
    control_subspaces,
    paired_difference,
    prepared_correct,
)
from reft_interp.interventions import DistributedInterchange, Interchange, PlaceboInterchange
from reft_interp.models import identify, untrained_copy
from reft_interp.positions import parse_positions
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Hits = Bool[np.ndarray, "pairs"]

CLAIM = "DAS"
WHOLE, NONE = "whole vector", "no intervention"
RANDOM, PLACEBO = "random subspace", "placebo of the same size"
SHUFFLED, UNTRAINED = "shuffled labels", "untrained model"
RESAMPLED = "DAS, resampled pairs"
CONTROLS = (NONE, RANDOM, SHUFFLED, UNTRAINED)
"""What a claim has to be above."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was found at one site for one variable, and what it was measured against."""

    variable: str
    site: Site
    on: str
    found: tuple[DASResult, ...] = field(repr=False)
    """DAS, one a seed; the claim is about the first."""
    resampled: tuple[DASResult, ...] = field(repr=False)
    """DAS on pairs drawn again with replacement, one a resample."""
    hits: dict[str, tuple[Hits, ...]] = field(repr=False)
    """For each method, one a seed or draw, which held-out pairs give the expected label."""
    train_hits: tuple[Bool[np.ndarray, "train"], ...] = field(repr=False)
    """DAS on the pairs that it was trained on, one a seed."""
    effects: Effects = field(repr=False)
    """How far the first seed's interchange moves the answer, beside the whole vector's."""
    model: str
    seen: float = 0.0
    """Share of held-out pairs whose base is a prompt of the training pairs, too."""

    @property
    def subspace(self) -> Subspace:
        """What the claim is about: the first seed's."""
        return self.found[0].subspace

    @property
    def comparison(self) -> Comparison:
        """Interchange intervention accuracy on held-out pairs, all methods; the claim has the
        interval of its own pairs, and other seeds a line of their own."""
        rows = []
        for name, draws in self.hits.items():
            accuracies = tuple(_accuracy(one) for one in draws)
            if name == CLAIM and len(accuracies) > 1:
                rows += [(name, accuracies[:1]), (f"{name}, other seeds", accuracies[1:])]
            else:
                rows.append((name, accuracies))
        return Comparison(
            f"interchange intervention accuracy of {self.variable} at {self.site} on {self.on}",
            tuple(rows),
        )

    @property
    def iia(self) -> Accuracy:
        """Of the claim: the first seed on held-out pairs."""
        return _accuracy(self.hits[CLAIM][0])

    @property
    def holds(self) -> bool:
        """Whether the lower bound of the held-out IIA is above the upper bound of every control:
        no intervention, and the best draw or seed of random subspaces, shuffled labels and
        the untrained model (95 % Wilson intervals)."""
        return not self.failing

    @property
    def failing(self) -> tuple[str, ...]:
        """The controls that the claim is not above."""
        return tuple(
            name
            for name in CONTROLS
            if self.iia.interval[0] <= max(_accuracy(one).interval[1] for one in self.hits[name])
        )

    @property
    def selectivity(self) -> pd.DataFrame:
        """The claim's IIA minus each control's, on the same pairs.

        Columns control, difference, low, high: a 95 % bootstrap interval over pairs. Of
        several draws or seeds of a control, the mean over them.
        """
        lines = []
        for name in (*CONTROLS, PLACEBO, WHOLE):
            value, (low, high) = paired_difference(
                self.hits[CLAIM][0].astype(float), np.mean(self.hits[name], axis=0)
            )
            lines.append({"control": name, "difference": value, "low": low, "high": high})
        return pd.DataFrame(lines)

    @property
    def gap(self) -> float:
        """IIA on the training pairs minus IIA on held-out pairs, first seed."""
        return _accuracy(self.train_hits[0]).value - self.iia.value

    @property
    def stability(self) -> pd.DataFrame:
        """How far the other seeds and the resampled pairs lead from the first.

        Columns run, iia (on held-out pairs), overlap and largest angle (degrees) with the first
        seed's subspace; and overlap expected of random subspaces.
        """
        first = self.subspace
        expected = first.rank / first.width
        lines = []
        for kind, results, scored in (
            ("seed", self.found, self.hits[CLAIM]),
            ("resampled pairs", self.resampled, self.hits.get(RESAMPLED, ())),
        ):
            for i, (one, right) in enumerate(zip(results, scored, strict=True)):
                lines.append(
                    {
                        "run": f"{kind} {i}",
                        "iia": _accuracy(right).value,
                        "overlap": one.subspace.overlap(first),
                        "largest angle": float(one.subspace.principal_angles(first).max()),
                        "overlap at random": expected,
                    }
                )
        return pd.DataFrame(lines)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader should know before the claim is believed."""
        found = []
        whole = _accuracy(self.hits[WHOLE][0])
        if self.iia.value < whole.value:
            found.append(
                f"DAS ({self.iia.value:.3f}) is below the plain swap of the whole vector "
                f"({whole.value:.3f})"
            )
        placebo = max(_accuracy(one).interval[1] for one in self.hits[PLACEBO])
        if self.iia.interval[0] <= placebo:
            found.append("DAS is not above changes of the same size along random directions")
        spread = [_accuracy(one).value for one in self.hits[CLAIM]]
        if max(spread) - min(spread) > 0.1:
            found.append(f"seeds differ: IIA {min(spread):.3f} to {max(spread):.3f}")
        if self.gap > 0.1:
            found.append(f"IIA on training pairs is {self.gap:.3f} higher than on held-out pairs")
        if self.seen:
            found.append(
                f"in {self.seen:.1%} of held-out pairs the base is a prompt of the training pairs, "
                "with other partners"
            )
        return tuple(found)

    def to_frame(self) -> pd.DataFrame:
        """One row a method, as `Comparison.to_frame`."""
        return self.comparison.to_frame()

    def summary(self) -> str:
        """A paragraph that a paper could quote."""
        means = {
            name: float(np.mean([one.mean() for one in draws])) for name, draws in self.hits.items()
        }
        low, high = self.iia.interval
        rank = self.subspace.rank
        stable = self.stability.iloc[1:]
        text = (
            f"In {self.model}, an interchange inside a rank-{rank} subspace found by DAS at "
            f"{self.site} on {self.on} gives the answer that {self.variable} of the source implies "
            f"in {self.iia.value:.1%} of {self.iia.n} held-out pairs (95 % interval {low:.1%} to "
            f"{high:.1%}). The whole vector gives {means[WHOLE]:.1%}, no intervention "
            f"{means[NONE]:.1%}, random subspaces of the same rank {means[RANDOM]:.1%} "
            f"({len(self.hits[RANDOM])} draws), changes of the same size along random directions "
            f"{means[PLACEBO]:.1%}, DAS trained on shuffled labels {means[SHUFFLED]:.1%}, and DAS "
            f"trained on an untrained copy of the model {means[UNTRAINED]:.1%}. "
        )
        if len(stable):
            text += (
                f"Other seeds and resampled pairs give {stable['iia'].min():.1%} to "
                f"{stable['iia'].max():.1%}, in subspaces whose overlap with the first is "
                f"{stable['overlap'].min():.2f} to {stable['overlap'].max():.2f} (random: "
                f"{rank / self.subspace.width:.2f}). "
            )
        if self.holds:
            text += "The lower bound is above the upper bounds of all controls."
        else:
            text += f"The lower bound is not above the upper bound of: {', '.join(self.failing)}."
        return text

    def __str__(self) -> str:
        lines = [str(self.comparison), f"  holds: {self.holds}"]
        return "\n".join(lines + [f"  note: {flag}" for flag in self.flags])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{flag}</li>" for flag in self.flags)
        table = self.to_frame().to_html(index=False, float_format="{:.3f}".format)
        return f"{table}<p>holds: {self.holds}</p><ul>{notes}</ul>"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Dots with intervals, one line a method."""
        return self.comparison.plot(ax)


def gather_evidence(
    model: TransformerBridge,
    pairs: Counterfactuals,
    site: Site,
    on: On,
    *,
    rank: int = 1,
    seeds: int = 3,
    resamples: int = 2,
    random_subspaces: int = 10,
    untrained: TransformerBridge | None = None,
    epochs: int = 3,
    learning_rate: float = 5e-3,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Train DAS with its controls, and score them on held-out pairs.

    DAS with several seeds, on resampled pairs and on shuffled labels trains in joint replays;
    the same at the same budget on an untrained copy of the model.

    Args:
        model: the hooked model.
        pairs: trained on `pairs.train`, scored on `pairs.test`.
        site: where.
        on: which tokens of base and source.
        rank: of the subspace.
        seeds: how often DAS is trained from another start, with the true labels, with shuffled
            ones and in the untrained model each.
        resamples: how often it is trained on pairs drawn again with replacement.
        random_subspaces: how many, and as many placebos.
        untrained: a model to take as the untrained one; `untrained_copy(model)` by default.
        epochs: passes over the pairs.
        learning_rate: of AdamW.
        batch_size: pairs a step.
        seed: of the first start; further ones follow.
        progress: show progress bars.

    Raises:
        TypeError: `pairs` are no `Counterfactuals`.
        ValueError: no seeds, negative resamples, no random subspaces; as `fit_das_each`.
    """
    check_counterfactuals(pairs)
    for name, number, least in (
        ("seeds", seeds, 1),
        ("resamples", resamples, 0),
        ("random_subspaces", random_subspaces, 1),
    ):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    budget: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
    }
    on = parse_positions(on)
    starts = range(seed, seed + seeds)
    true = [DASCell(site, on, rank, s, **budget) for s in starts]
    shuffled = [DASCell(site, on, rank, s, shuffled_labels=True, **budget) for s in starts]
    again = [
        DASCell(site, on, rank, seed, resampled_pairs=r + 1, **budget) for r in range(resamples)
    ]
    trained = fit_das_each(model, pairs.train, [*true, *shuffled, *again], progress=progress)
    found, of_shuffled = trained[:seeds], trained[seeds : 2 * seeds]
    of_resampled = trained[2 * seeds :]
    fresh = untrained_copy(model, seed=seed) if untrained is None else untrained
    of_fresh = fit_das_each(fresh, pairs.train, true, progress=progress)

    subspace = found[0].subspace
    controls = control_subspaces(subspace.width, rank, random_subspaces, seed=seed)
    methods = {
        CLAIM: [DistributedInterchange(one.subspace) for one in found],
        WHOLE: [Interchange()],
        RANDOM: [DistributedInterchange(control) for control in controls],
        PLACEBO: [PlaceboInterchange(subspace, control) for control in controls],
        SHUFFLED: [DistributedInterchange(one.subspace) for one in of_shuffled],
        RESAMPLED: [DistributedInterchange(one.subspace) for one in of_resampled],
    }
    scored = iter(
        _hits(model, pairs.test, [one for some in methods.values() for one in some], site, on)
    )
    hits = {name: tuple(next(scored) for _ in some) for name, some in methods.items()}
    bases = [{**row, "prompt": row["base"], "answer": row["label"]} for row in pairs.test.to_list()]
    hits[NONE] = (answers_correctly(model, bases),)
    hits[UNTRAINED] = tuple(
        _hits(
            fresh,
            pairs.test,
            [DistributedInterchange(one.subspace) for one in of_fresh],
            site,
            on,
        )
    )
    order = (CLAIM, WHOLE, NONE, RANDOM, PLACEBO, SHUFFLED, UNTRAINED, RESAMPLED)
    return Evidence(
        variable=pairs.variable,
        site=site,
        on=str(on),
        found=tuple(found),
        resampled=tuple(of_resampled),
        hits={name: hits[name] for name in order if hits[name]},
        train_hits=tuple(_hits(model, pairs.train, methods[CLAIM], site, on)),
        effects=effects(
            model,
            pairs.test,
            {CLAIM: DistributedInterchange(subspace), WHOLE: Interchange()},
            site,
            on,
        ),
        model=identify(model).name,
        seen=pairs.seen,
    )


def _hits(
    model: TransformerBridge,
    pairs: Pairs,
    interventions: Sequence[Any],
    site: Site,
    on: On,
) -> list[Hits]:
    """Which pairs give the expected label under each interchange."""
    return prepared_correct(
        prepare_interchanges(model, pairs, [(one, site, on) for one in interventions])
    )


def _accuracy(hits: Hits) -> Accuracy:
    return Accuracy(int(hits.sum()), len(hits))
