"""Distributed alignment search: find the subspace where a model keeps a causal variable.

The interchange itself is an intervention; what is here trains it on counterfactuals, and scores
any interchange beside the controls that its claim needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge
from transformers import TrainerCallback

from reft_interp.causal.interchanges import On, PreparedPairs, rows_of_one_source
from reft_interp.causal.rows import Pairs
from reft_interp.evaluation import Comparison, control_subspaces, named_metric
from reft_interp.interventions import DistributedInterchange, Interchange
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import Over, PreparedRows
from reft_interp.sites import Site, check_site
from reft_interp.subspace import Subspace
from reft_interp.training import train
from reft_interp.training.in_place import check_checkpoints, check_trainer, checked_settings
from reft_interp.training.results import TrainingResult, saved_settings


@dataclass(frozen=True, eq=False)
class DASResult(TrainingResult):
    """A trained distributed interchange, and how the training went."""

    @property
    def site(self) -> Site:
        """Where the interchange happens."""
        return self.intervened.placements[0].site

    @property
    def on(self) -> PositionSelector:
        """On which tokens."""
        return self.intervened.placements[0].on

    @property
    def subspace(self) -> Subspace:
        """What was found."""
        return self.intervened.placements[0].intervention.subspace

    def evaluate(
        self, pairs: Pairs, *, random_subspaces: int = 10, seed: int = 0, batch_size: int = 64
    ) -> Comparison:
        """Interchange intervention accuracy, with its controls at the same site and tokens.

        Args:
            pairs: held-out counterfactual rows.
            random_subspaces: how many random subspaces of the same rank are tried.
            seed: of the random subspaces.
            batch_size: pairs run at once.

        Returns:
            "DAS", "whole vector" (the full interchange), "no intervention", and "random
            subspace" (one accuracy a draw).

        Raises:
            ValueError: no random subspace.
        """
        if random_subspaces < 1:
            raise ValueError(f"random_subspaces must be at least 1, got {random_subspaces}")
        found = self.subspace

        prepared = PreparedPairs(
            self.intervened.model, pairs, self.site, self.on, batch_size=batch_size
        )
        score = prepared.score
        draws = tuple(
            score(DistributedInterchange(subspace))
            for subspace in control_subspaces(found.width, found.rank, random_subspaces, seed=seed)
        )
        metric = named_metric("interchange intervention accuracy", prepared.bases)
        return Comparison(
            f"{metric} at {self.site} on {self.on}",
            (
                ("DAS", (score(DistributedInterchange(found)),)),
                ("whole vector", (score(Interchange()),)),
                ("no intervention", (score(None),)),
                ("random subspace", draws),
            ),
        )


def fit_das(
    model: TransformerBridge,
    pairs: Pairs,
    site: Site,
    on: On,
    *,
    rank: int | None = None,
    start: Subspace | None = None,
    epochs: int | float = 3,
    learning_rate: float = 5e-3,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    over: Over = "vocabulary",
    checkpoints: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> DASResult:
    """Find the rank-r subspace whose interchange gives the counterfactual label.

    Distributed alignment search (Geiger et al. 2023, arXiv:2303.02536): a distributed
    interchange is trained by cross-entropy on the label that the causal model implies. Here
    it is one variable and one source; the paper also aligns several variables at once.

    Args:
        model: a TransformerBridge, as `load_model` gives it.
        pairs: counterfactual rows: base, source, label, and spans where `on` names one.
        site: where to look.
        on: which tokens of base and source, as in "subject" (a named span) or "last".
        rank: how many directions; 1 where neither it nor `start` is given.
        start: where the search begins; a random subspace by default.
        epochs: passes over the pairs.
        learning_rate: of AdamW, falling linearly to zero.
        batch_size: pairs a step.
        seed: of where the search begins and of the order of pairs.
        progress: show a progress bar.
        engine: "full" forces the plain run; see `PreparedRows`.
        memory_budget: bytes that constants of the pairs may take; see `PreparedRows`.
        over: "vocabulary" compares the label with all tokens, "choices" with the row's choices
            alone: another loss, and less work.
        checkpoints: a folder for checkpoints, one an epoch; none by default.
        resume: go on from the newest checkpoint there.
        callbacks: transformers' callbacks, for instance EarlyStoppingCallback.
        arguments: further arguments of transformers' TrainingArguments, as `training.train` takes
            them; they are saved with the result.

    Raises:
        TypeError: an argument that nobody knows, or that cannot be saved as JSON; pairs a step or a
            seed that are no whole number.
        ValueError: a site that the model lacks, a rank above its width or unlike `start`'s,
            tokens that a pair does not have, arguments that transformers refuses: all before the
            first step.
    """
    trained_with = checked_settings(
        epochs,
        arguments,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        caller=fit_das,
    )
    check_site(site)
    begins = "random" if start is None else "given"
    if start is None:
        start = Subspace.random(
            site.width(model), 1 if rank is None else rank, seed=trained_with["seed"]
        )
    elif rank not in (None, start.rank):
        raise ValueError(f"rank must be that of start ({start.rank}) or left out, got {rank}")
    bases, sources = rows_of_one_source(pairs)
    interchange = DistributedInterchange(start, trainable=True)
    intervened = IntervenedModel(model, Placement(interchange, site, parse_positions(on)))
    check_checkpoints(intervened, checkpoints, resume)
    check_trainer(intervened, trained_with, checkpoints=checkpoints)
    settings = trained_with | saved_settings(
        rank=start.rank, start=begins, pairs=len(bases), engine=engine, over=over
    )
    losses = train(
        intervened,
        PreparedRows(
            intervened, bases, sources, engine=engine, memory_budget=memory_budget, over=over
        ),
        progress=progress,
        checkpoints=checkpoints,
        resume=resume,
        callbacks=callbacks,
        **trained_with,
    )
    return DASResult(intervened.eval(), losses, settings)
