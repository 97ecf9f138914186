"""What a subspace does: interchange inside it, and the task without it.

Each question is an object that remembers what its answers share: prepared rows, controls, scores
of the untouched model. Asking about a second intervention at the same place costs only what is
its own.
"""

from collections.abc import Sequence

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import PreparedPairs
from reft_interp.causal.rows import Pairs
from reft_interp.evaluation import (
    Accuracy,
    Comparison,
    accuracy,
    control_subspaces,
    prepared_accuracy,
)
from reft_interp.interventions import (
    DistributedInterchange,
    Interchange,
    Intervention,
    ZeroAblation,
)
from reft_interp.positions import PositionSelector
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import Rows
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

Scores = tuple[Accuracy, ...]
_WHOLE, _NONE = "whole vector", "no intervention"


class InterchangeInside:
    """IIA of a causal variable when the interchange happens inside given subspaces.

    Args:
        model: the hooked model.
        pairs: counterfactual rows.
        on: which tokens of base and source.
        draws: random subspaces for each site and rank that occurs.
        seed: of the random subspaces.
    """

    def __init__(
        self,
        model: TransformerBridge,
        pairs: Pairs,
        on: PositionSelector,
        *,
        draws: int = 5,
        seed: int = 0,
    ):
        self._model, self._pairs, self._on = model, pairs, on
        self._draws, self._seed = draws, seed
        self._prepared: dict[Site, PreparedPairs] = {}
        self._known: dict[tuple[Site, Subspace | int | str], Scores] = {}

    def compare(self, subspaces: Sequence[tuple[str, Site, Subspace]]) -> Comparison:
        """IIA inside each subspace, and the controls.

        Args:
            subspaces: each with a name and the site where it lies.

        Returns:
            The named subspaces; then, for each site, "whole vector" and for each rank "random
            subspace, rank r"; and "no intervention". Where there are several sites, names say
            which.
        """
        sites = list(dict.fromkeys(site for _, site, _ in subspaces))
        named: list[tuple[str, Scores]] = []
        controls: list[tuple[str, Scores]] = []
        for site in sites:
            at = f" at {site}" if len(sites) > 1 else ""
            here = [(name, subspace) for name, where, subspace in subspaces if where == site]
            for name, subspace in here:
                label = name if name.endswith(at) else f"{name}{at}"
                named.append((label, self._scores(site, subspace)))
            controls.append((f"{_WHOLE}{at}", self._scores(site, _WHOLE)))
            for rank in sorted({subspace.rank for _, subspace in here}):
                controls.append((f"random subspace, rank {rank}{at}", self._scores(site, rank)))
        none = self._scores(sites[0], _NONE)
        where = f" at {sites[0]}" if len(sites) == 1 else ""
        return Comparison(
            f"interchange intervention accuracy{where} on {self._on}",
            (*named, *controls, (_NONE, none)),
        )

    def not_above(self, site: Site, subspace: Subspace) -> list[str]:
        """The controls that a subspace at a site is not above, with what they give: its lower bound
        is not above their upper bound (95 % Wilson intervals), of random subspaces the best draw's.
        """
        (found,) = self._scores(site, subspace)
        controls = {
            _NONE: self._scores(site, _NONE),
            f"random subspaces of rank {subspace.rank}": self._scores(site, subspace.rank),
        }
        return [
            f"{name} ({max(one.value for one in scores):.2f})"
            for name, scores in controls.items()
            if found.interval[0] <= max(one.interval[1] for one in scores)
        ]

    def _scores(self, site: Site, what: Subspace | int | str) -> Scores:
        """Inside a subspace, inside random ones of a rank, or of a control by its name."""
        if site not in self._prepared:
            self._prepared[site] = PreparedPairs(self._model, self._pairs, site, self._on)
        if (site, what) not in self._known:
            score = self._prepared[site].score
            self._known[site, what] = tuple(map(score, self._interventions(site, what)))
        return self._known[site, what]

    def _interventions(
        self, site: Site, what: Subspace | int | str
    ) -> Sequence[Intervention | None]:
        if isinstance(what, str):
            return [Interchange() if what == _WHOLE else None]
        if isinstance(what, Subspace):
            return [DistributedInterchange(what)]
        width = site.width(self._model)
        random = control_subspaces(width, what, self._draws, seed=self._seed)
        return [DistributedInterchange(subspace) for subspace in random]


class Removal:
    """Accuracy on a task when a subspace is taken out: h − RᵀRh.

    It is taken out at the tokens that the intervention edits, after the edit, of the model
    with the intervention and of the untouched model. It becomes zero rather than a mean over
    tokens: a prompt's first token holds activations a hundred times larger than the others, and
    a mean that has seen them is far from what any other token holds.

    Args:
        model: the hooked model.
        rows: of the task, with `prompt` and `answer`.
        draws: random subspaces of the same rank, for comparison.
        seed: of the random subspaces.
    """

    def __init__(self, model: TransformerBridge, rows: Rows, *, draws: int = 3, seed: int = 0):
        self._model, self._rows = model, rows
        self._draws, self._seed = draws, seed
        self._prepared: dict[tuple[tuple[Site, PositionSelector], ...], PreparedRows] = {}
        self._controls: dict[tuple[Site, PositionSelector, int], Scores] = {}
        self._untouched: Accuracy | None = None

    def compare(
        self, intervened: IntervenedModel, subspaces: Sequence[tuple[str, int, Subspace]]
    ) -> pd.DataFrame:
        """Accuracy with and without each subspace.

        Args:
            intervened: the trained model.
            subspaces: name, index of the placement at whose site it lies, subspace.

        Returns:
            Columns model, removed, value, low, high, n, draws; for random subspaces `value` is
            the mean over draws and `low`, `high` their range.
        """
        placements = intervened.placements
        name = type(placements[0].intervention).__name__
        if self._untouched is None:
            self._untouched = accuracy(self._model, self._rows)
        trained = self._score(intervened.placements)
        untouched: list[tuple[str, Scores]] = [("nothing", (self._untouched,))]
        edited: list[tuple[str, Scores]] = [("nothing", (trained,))]
        for label, index, subspace in subspaces:
            at = placements[index]
            untouched.append((label, (self._score([_without(subspace, at)]),)))
            edited.append((label, (self._score([*placements, _without(subspace, at)]),)))
            # What is read and what is written at one place are mostly of one rank: one control.
            control = f"random subspace, rank {subspace.rank} at {at.site} on {at.on}"
            if control not in dict(edited):
                random = control_subspaces(
                    subspace.width, subspace.rank, self._draws, seed=self._seed
                )
                key = (at.site, at.on, subspace.rank)
                if key not in self._controls:
                    self._controls[key] = tuple(self._score([_without(s, at)]) for s in random)
                untouched.append((control, self._controls[key]))
                edited.append(
                    (control, tuple(self._score([*placements, _without(s, at)]) for s in random))
                )
        found = []
        for kind, scores in (("untouched model", untouched), (name, edited)):
            frame = Comparison("accuracy", tuple(scores)).to_frame()
            frame = frame.rename(columns={"method": "removed"})
            frame.insert(0, "model", kind)
            found.append(frame)
        return pd.concat(found, ignore_index=True)

    def _score(self, placements: Sequence[Placement]) -> Accuracy:
        whole = IntervenedModel(self._model, placements)
        # Constants depend on where edits are, not on what they do.
        where = tuple(dict.fromkeys((p.site, p.on) for p in placements))
        if where not in self._prepared:
            self._prepared[where] = PreparedRows(whole, self._rows)
        return prepared_accuracy(whole, self._prepared[where])


def _without(subspace: Subspace, at: Placement) -> Placement:
    return Placement(ZeroAblation(subspace), at.site, at.on)
