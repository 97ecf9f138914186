"""How far an interchange moves the answer, beside whether it does: sizes, not counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.interchanges import (
    On,
    Pairs,
    interchange_rows,
    prepare_interchanges,
    rows_of_one_source,
)
from reft_interp.causal.rows import listed_rows
from reft_interp.evaluation import (
    answer_log_probabilities,
    choice_scores,
    divergences,
    mean_and_interval,
    prepared_choice_scores,
)
from reft_interp.interventions import Intervention
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.sources import Sources, take_sources
from reft_interp.sites import Site

Sizes = Float[np.ndarray, "_"]

AMONG_ALL = (
    "Probabilities are among all tokens of the vocabulary, where accuracy compares a row's choices "
    "alone: it can be high where they move little."
)


@dataclass(frozen=True, eq=False)
class Effects:
    """Of each interchange and pair, what it did to the answer's probabilities.

    Probabilities are among all tokens of the vocabulary, where interchange intervention accuracy
    compares a row's choices alone.
    """

    probability: dict[str, Sizes] = field(repr=False)
    """Change of the label's probability among all tokens, in pairs whose label is not the base's
    own answer."""
    logit_difference: dict[str, Sizes] = field(repr=False)
    """Change of the label's log probability minus that of the base's own answer (nats), there."""
    divergence: dict[str, Sizes] = field(repr=False)
    """KL divergence (nats) from the untouched model's next-token distribution, in the other pairs,
    where nothing should change."""

    def to_frame(self) -> pd.DataFrame:
        """One row a method and measure: method, measure, value (the mean over pairs), low, high
        (95 %, Student's t over pairs), n (pairs that the measure is of)."""
        measures = {
            "probability of the label, change": (self.probability, (-1.0, 1.0)),
            "logit difference, change (nats)": (self.logit_difference, (-np.inf, np.inf)),
            "KL where nothing should change (nats)": (self.divergence, (0.0, np.inf)),
        }
        lines = []
        for measure, (of_methods, bounds) in measures.items():
            for method, sizes in of_methods.items():
                value, low, high = mean_and_interval(sizes, bounds)
                lines.append(
                    {
                        "method": method,
                        "measure": measure,
                        "value": value,
                        "low": low,
                        "high": high,
                        "n": len(sizes),
                    }
                )
        return pd.DataFrame(lines)

    def __str__(self) -> str:
        table = self.to_frame().to_string(index=False, float_format="{:.3f}".format)
        return f"{table}\n{AMONG_ALL}"

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, float_format="{:.3f}".format)
        return f"{table}<p>{AMONG_ALL}</p>"


def effects(
    model: TransformerBridge,
    pairs: Pairs,
    interchanges: Mapping[str, Intervention],
    site: Site,
    on: On,
) -> Effects:
    """What interchanges do to the answer, pair by pair.

    Args:
        model: the hooked model.
        pairs: counterfactual rows with `base_answer`.
        interchanges: by name.
        site: where.
        on: which tokens of base and source.

    Raises:
        TypeError: `Counterfactuals` in place of one of its splits, or what is no list of rows.
        ValueError: no rows, one that lacks a column (`base_answer` too) or is inconsistent, pairs
            with several sources, a site that the model lacks, or tokens that a row does not have.
    """
    rows_of_one_source(pairs)
    placed = {
        name: IntervenedModel(model, Placement(interchange, site, on))
        for name, interchange in interchanges.items()
    }
    return effects_of(model, pairs, placed)


def effects_of(
    model: TransformerBridge, pairs: Pairs, placed: Mapping[str, IntervenedModel]
) -> Effects:
    """`effects` of interchanges that are in place, one or several, on pairs with their sources.

    Args:
        model: the hooked model.
        pairs: counterfactual rows with `base_answer`.
        placed: by name; each reads all sources of the pairs.

    Raises:
        TypeError: as `interchange_rows`.
        ValueError: as `interchange_rows`, or a row without `base_answer`.
    """
    bases, sources = interchange_rows(pairs)
    rows = _rows_with(pairs, "base_answer")
    answers = [row["base_answer"] for row in rows]
    own = [{**base, "answer": said} for base, said in zip(bases, answers, strict=True)]
    changing = np.array(
        [base["answer"] != row["answer"] for base, row in zip(bases, own, strict=True)]
    )
    unchanged = np.flatnonzero(~changing).tolist()
    label, answer = answer_log_probabilities(model, bases), answer_log_probabilities(model, own)
    probability, difference, divergence = {}, {}, {}
    for name, one in placed.items():
        new_label = answer_log_probabilities(one, bases, sources)
        new_answer = answer_log_probabilities(one, own, sources)
        probability[name] = (np.exp(new_label) - np.exp(label))[changing]
        difference[name] = ((new_label - new_answer) - (label - answer))[changing]
        divergence[name] = _divergences(one, bases, sources, unchanged)
    return Effects(probability, difference, divergence)


def log_odds_ratios(
    model: TransformerBridge,
    pairs: Pairs,
    interchanges: Sequence[tuple[Intervention, Site, On]],
    *,
    answers: tuple[str, str] = ("base_answer", "label"),
    progress: bool = False,
) -> Float[np.ndarray, "interchanges pairs"]:
    """How far each interchange moves the odds from the base's answer to the source's (nats).

    log p(answer) / p(label) of the untouched model, less the same under the interchange: Arora et
    al. 2024 (arXiv:2402.12560), section 3. All interchanges are scored in joint runs. Pairs that
    are there in both directions, as CausalGym's, are not independent: an interval over them that
    takes them to be is too narrow, by up to √2.

    Args:
        model: the hooked model.
        pairs: counterfactual rows, with choices.
        interchanges: each with its site and its tokens.
        answers: the columns with the base's answer and the label; both among the choices.
        progress: show progress bars.

    Raises:
        TypeError: `Counterfactuals` in place of one of its splits, or what is no list of rows.
        ValueError: no rows, one that lacks a column (`choices` and those of `answers` too) or an
            answer that is not among its choices; pairs with several sources, a site that the model
            lacks, tokens that a row does not have, or no interchanges.
    """
    rows_of_one_source(pairs)
    rows = _rows_with(pairs, "choices", *answers)
    base, label = ([_place_of(name, i, row) for i, row in enumerate(rows)] for name in answers)
    placed = prepare_interchanges(model, pairs, interchanges, progress=progress)
    untouched = _differences(choice_scores(model, interchange_rows(pairs)[0]), base, label)
    moved = prepared_choice_scores(placed, progress=progress)
    return np.stack([_differences(scores, base, label) - untouched for scores in moved])


def _divergences(
    intervened: IntervenedModel, bases: Sequence[Any], sources: Sources, chosen: Sequence[int]
) -> Sizes:
    """`divergences` in some of the rows."""
    if not chosen:
        return np.empty(0)
    return divergences(intervened, [bases[i] for i in chosen], take_sources(sources, chosen))


def _rows_with(pairs: Pairs, *columns: str) -> list[Mapping[str, Any]]:
    rows = listed_rows(pairs)
    for i, row in enumerate(rows):
        if missing := [column for column in columns if row.get(column) is None]:
            raise ValueError(f"pairs: row {i} lacks {missing}; it has {sorted(row)}")
    return rows


def _place_of(column: str, number: int, row: Mapping[str, Any]) -> int:
    choices = list(row["choices"])  # a DataFrame or a formatted Dataset holds an array
    if row[column] not in choices:
        raise ValueError(
            f"pairs: row {number} must have its {column} among its choices, {choices}, got "
            f"{row[column]!r}"
        )
    return choices.index(row[column])


def _differences(
    scores: Sequence[Float[np.ndarray, "_"]], base: Sequence[int], label: Sequence[int]
) -> Float[np.ndarray, "pairs"]:
    return np.array([of[to] - of[was] for of, was, to in zip(scores, base, label, strict=True)])
