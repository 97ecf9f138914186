"""Interchanges on counterfactual pairs, and how often they give the expected label.

A pair is a row of `Counterfactuals`: base, source, label. Next door, `das` trains them.
"""

from collections.abc import Sequence
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.rows import Pairs, check_pairs, listed_rows
from reft_interp.evaluation import Accuracy, accuracy, prepared_accuracies, prepared_accuracy
from reft_interp.interventions import Interchange, Intervention
from reft_interp.positions import PositionSelector, parse_positions
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import choices_of, encode
from reft_interp.runtime.planning import Engine
from reft_interp.runtime.prepared import PreparedRows, prepare_each
from reft_interp.sites import Site

On = str | int | Sequence[int] | PositionSelector


def interchange_rows(
    pairs: Pairs,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | dict[str, list[dict[str, Any]]]]:
    """The bases, with the label as their answer, and the sources, as rows that a model runs.

    Sources are by name where the pairs have several (a column `sources`).

    Raises:
        TypeError: `Counterfactuals` in place of one of its splits, what is no list of rows, or
            choices that are one text.
        ValueError: no rows, one that lacks a column, whose source is its base, whose label is not
            among its choices, or whose sources have other names than those of the first.
    """
    check_pairs(pairs, "pairs")
    listed = listed_rows(pairs)
    named = listed[0].get("sources")
    bases, sources = [], []
    for i, pair in enumerate(listed):
        missing = {"base", "label", "sources" if named else "source"} - set(pair)
        if missing:
            told = "; rows with a prompt are for fit_reft" if "prompt" in pair else ""
            raise ValueError(f"pairs: row {i} lacks {sorted(missing)}; it has {sorted(pair)}{told}")
        base = {"prompt": pair["base"], "spans": pair.get("base_spans"), "answer": pair["label"]}
        choices = choices_of(pair, f"pairs: row {i}")
        if choices:
            if pair["label"] not in choices:
                raise ValueError(
                    f"pairs: row {i} must have its label among its choices, {choices}, "
                    f"got {pair['label']!r}"
                )
            base["choices"] = choices
        bases.append(base)
        if named and set(pair["sources"]) != set(named):
            raise ValueError(
                f"pairs: row {i} has the sources {sorted(pair['sources'])}, row 0 {sorted(named)}"
            )
        if not named and pair["source"] == pair["base"]:
            raise ValueError(
                f"pairs: row {i} must have a source that differs from its base, or no interchange "
                f"changes anything, both are {pair['base']!r}"
            )
        if not named:
            sources.append({"prompt": pair["source"], "spans": pair.get("source_spans")})
    if not named:
        return bases, sources
    return bases, {
        name: [
            {"prompt": pair["sources"][name]["prompt"], "spans": pair["sources"][name].get("spans")}
            for pair in listed
        ]
        for name in named
    }


def rows_of_one_source(pairs: Pairs) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`interchange_rows` for those who read one source a pair.

    Raises:
        TypeError: as `interchange_rows`.
        ValueError: as `interchange_rows`, and for pairs with several sources.
    """
    bases, sources = interchange_rows(pairs)
    if isinstance(sources, dict):
        raise ValueError(
            f"pairs must have one source each, got several: {', '.join(sources)}; "
            "fit_das_jointly and gather_joint_evidence take a source for each variable"
        )
    return bases, sources


def check_tokens(
    model: TransformerBridge, pairs: Counterfactuals, on: On, *, source: str | None = None
) -> None:
    """Raise where a base or source lacks the tokens, before the model reads any of them.

    Tokens of answers are left to whoever prepares the rows.

    Args:
        model: whose tokenizer it is.
        pairs: both splits are looked at.
        on: which tokens of base and source.
        source: of several, the one that is swapped there.

    Raises:
        ValueError: a row lacks them; it is shown, with its split; several sources, none of which is
            named.
    """
    selector = parse_positions(on)
    if selector.of == "answer":
        return
    for name, split in pairs.splits.items():
        bases, sources = interchange_rows(split) if source else rows_of_one_source(split)
        swapped = sources[source or ""] if isinstance(sources, dict) else sources
        for rows in (bases, swapped):
            try:
                selector(encode(model, rows))
            except ValueError as error:
                raise ValueError(f"pairs, {name}: {error}") from error


class PreparedPairs:
    """Counterfactual pairs at one site and on one selection of tokens, ready to be scored.

    Sources are recorded once, and what no interchange there can change is computed once.

    Args:
        model: the hooked model.
        pairs: counterfactual rows (see `Counterfactuals`).
        site: where interchanges will happen.
        on: which tokens of base and source.
        batch_size: pairs run at once.
        engine: "full" forces the plain run.

    Raises:
        TypeError: `Counterfactuals` in place of one of its splits, or what is no list of rows.
        ValueError: no rows, one that is inconsistent, pairs with several sources, a site that the
            model lacks, tokens that a pair does not have, or an unknown engine.
    """

    def __init__(
        self,
        model: TransformerBridge,
        pairs: Pairs,
        site: Site,
        on: On,
        *,
        batch_size: int = 64,
        engine: Engine = "auto",
    ):
        self.model = model
        self.site = site
        self.on = parse_positions(on)
        self.bases, sources = rows_of_one_source(pairs)
        self._batch_size = batch_size
        placed = IntervenedModel(model, Placement(Interchange(), site, self.on))
        self._prepared = PreparedRows(
            placed, self.bases, sources, batch_size=batch_size, engine=engine
        )

    def score(self, intervention: Intervention | None) -> Accuracy:
        """Interchange intervention accuracy: how often the interchange gives the label.

        Geiger et al. 2021 (arXiv:2106.02997).

        Args:
            intervention: the interchange; None for the model without intervention.

        Raises:
            ValueError: an intervention of another width than the site.
        """
        if intervention is None:
            return accuracy(self.model, self.bases, batch_size=self._batch_size)
        placed = IntervenedModel(self.model, Placement(intervention, self.site, self.on))
        return prepared_accuracy(placed, self._prepared, batch_size=self._batch_size)


def interchange_accuracies(
    model: TransformerBridge,
    pairs: Pairs,
    interchanges: Sequence[tuple[Intervention, Site, On]],
    *,
    batch_size: int = 128,
    engine: Engine = "auto",
    memory_budget: int | None = None,
    progress: bool = False,
) -> list[Accuracy]:
    """Interchange intervention accuracy of many interchanges on the same pairs, run together.

    Prompts are frozen and sources recorded once for all sites and tokens; rows of several
    interchanges share a run.

    Args:
        model: the hooked model.
        pairs: counterfactual rows (see `Counterfactuals`).
        interchanges: each with its site and its tokens.
        batch_size: rows run at once, over all interchanges.
        engine: "full" forces the plain run.
        memory_budget: bytes that constants may take; 40 % of the free memory by default.
        progress: show a progress bar.

    Raises:
        TypeError: `Counterfactuals` in place of one of its splits, or what is no list of rows.
        ValueError: no rows, one that is inconsistent, pairs with several sources, a site that the
            model lacks, tokens that a pair does not have, or no
            interchanges.
    """
    scored = prepare_interchanges(
        model, pairs, interchanges, engine=engine, budget=memory_budget, progress=progress
    )
    return prepared_accuracies(scored, batch_size=batch_size, progress=progress)


def prepare_interchanges(
    model: TransformerBridge,
    pairs: Pairs,
    interchanges: Sequence[tuple[Intervention, Site, On]],
    *,
    engine: Engine = "auto",
    budget: int | None = None,
    progress: bool = False,
) -> list[tuple[IntervenedModel, PreparedRows]]:
    """Each interchange in place, with the pairs prepared for it: what `evaluation` scores.

    Raises:
        TypeError: as `rows_of_one_source`.
        ValueError: no interchanges, or as `rows_of_one_source` and `PreparedRows`.
    """
    if not interchanges:
        raise ValueError("interchanges must hold at least one, got none")
    bases, sources = rows_of_one_source(pairs)
    placed = [
        IntervenedModel(model, Placement(intervention, site, on))
        for intervention, site, on in interchanges
    ]
    prepared = prepare_each(
        [(one, bases, sources if one.needs_source else None) for one in placed],
        engine=engine,
        memory_budget=budget,
        progress=progress,
    )
    return list(zip(placed, prepared, strict=True))


def interchange_accuracy(
    model: TransformerBridge,
    pairs: Pairs,
    intervention: Intervention | None,
    site: Site,
    on: On,
    *,
    batch_size: int = 64,
) -> Accuracy:
    """Interchange intervention accuracy of one intervention.

    To score several at one site, make `PreparedPairs` once.

    Args:
        model: the hooked model.
        pairs: counterfactual rows (see `Counterfactuals`).
        intervention: the interchange; None for no intervention.
        site: where.
        on: which tokens of base and source.
        batch_size: pairs run at once.

    Raises:
        TypeError: `Counterfactuals` in place of one of its splits, or what is no list of rows.
        ValueError: no rows, one that is inconsistent, pairs with several sources, a site that the
            model lacks, tokens that a pair does not have, or an
            intervention of another width than the site.
    """
    prepared = PreparedPairs(model, pairs, site, on, batch_size=batch_size, engine="full")
    return prepared.score(intervention)
