"""Score interventions on prepared rows: constants are computed once, and many are scored in one
run, each row edited by its own."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from reft_interp.encoding import IGNORED
from reft_interp.evaluation.choices import (
    are_answers,
    choice_tokens,
    first_tokens,
    have_choices,
    share_a_run,
)
from reft_interp.evaluation.predicting import scores_of_tokens
from reft_interp.evaluation.results import Accuracy
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import by_length
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import (
    answer_positions,
    can_score_tokens,
    prompt_ends,
    token_logits,
)
from reft_interp.runtime.sources import listed_sources, take_sources

Scored = tuple[IntervenedModel, PreparedRows]
Tokens = list[tuple[tuple[int, ...], ...]]
Scores = list[Float[np.ndarray, "choices"]]

# Below so many tokens a run is bound by the weights that stream through memory, and more rows
# are almost free.
_FEW_TOKENS = 1024


def prepared_accuracy(
    intervened: IntervenedModel, prepared: PreparedRows, *, batch_size: int = 64
) -> Accuracy:
    """The share of rows that the model answers correctly (see `answers_correctly`).

    Args:
        intervened: with interventions at the sites and positions that the rows were prepared for.
        prepared: rows with `answer`, and `choices` or none (then the greedy tokens must be the
            answer's). Rows with a choice of several tokens are scored by plain runs, all others on
            the frozen constants.
        batch_size: rows run at once.

    Raises:
        ValueError: an answer is not among its choices.
    """
    (found,) = prepared_accuracies([(intervened, prepared)], batch_size=batch_size)
    return found


def prepared_accuracies(
    scored: Sequence[Scored], *, batch_size: int = 64, progress: bool = False
) -> list[Accuracy]:
    """`prepared_accuracy` of several interventions of one model, run together.

    Args:
        scored: each with its prepared rows.
        batch_size: rows run at once, over all interventions; more where their regions are small.
        progress: show a progress bar.

    Raises:
        ValueError: an answer is not among its choices.
    """
    found = prepared_correct(scored, batch_size=batch_size, progress=progress)
    return [Accuracy(int(right.sum()), len(right)) for right in found]


def prepared_correct(
    scored: Sequence[Scored], *, batch_size: int = 64, progress: bool = False
) -> list[Bool[np.ndarray, "rows"]]:
    """Of each intervention, which of its rows it answers correctly; see `prepared_accuracies`.

    Raises:
        ValueError: an answer is not among its choices.
    """
    offered = [have_choices(prepared.rows) for _, prepared in scored]
    some = [one for one, has in zip(scored, offered, strict=True) if has]
    others = [one for one, has in zip(scored, offered, strict=True) if not has]
    scores = iter(prepared_choice_scores(some, batch_size=batch_size, progress=progress))
    greedy = iter(_greedy_matches(others, batch_size=batch_size, progress=progress))
    found = []
    for (_, prepared), has in zip(scored, offered, strict=True):
        if has:
            found.append(are_answers(prepared.rows, next(scores)))
        else:
            found.append(next(greedy))
    return found


@torch.no_grad()
def _greedy_matches(
    scored: Sequence[Scored], *, batch_size: int, progress: bool
) -> list[Bool[np.ndarray, "rows"]]:
    """Of rows without choices: whether the greedy tokens are the answer's, all of them."""
    found = [np.ones(len(prepared), dtype=bool) for _, prepared in scored]
    whole = [(n, prepared, range(len(prepared))) for n, (_, prepared) in enumerate(scored)]
    parts = list(_parts(whole, batch_size))
    for together in tqdm(parts, disable=not progress, desc="scoring", leave=False):
        shares = [_share(*scored[n], some, answers=True) for n, some in together]
        for (n, some), share, logits in zip(together, shares, joint_logits(shares), strict=True):
            labels = share.inputs["batch"].labels
            agree = logits.argmax(-1) == labels[labels != IGNORED]
            for row, agrees in zip(share.at.rows.tolist(), agree.tolist(), strict=True):
                found[n][some[row]] &= agrees
    return found


@torch.no_grad()
def prepared_choice_scores(
    scored: Sequence[Scored], *, batch_size: int = 64, progress: bool = False
) -> list[Scores]:
    """How each of each row's `choices` scores after its prompt, for several interventions.

    Args:
        scored: each with its prepared rows, which have `choices`.
        batch_size: rows run at once, over all interventions; more where their regions are small.
        progress: show a progress bar.

    Returns:
        For each intervention and each of its rows, one number a choice: logits where all its
        choices are one token, log probabilities (see `choice_scores`) otherwise. Within a row
        they differ from one another by the same, whichever it is.
    """
    tokens: dict[int, Tokens] = {}
    for _, prepared in scored:
        if id(prepared.rows) not in tokens:
            tokens[id(prepared.rows)] = choice_tokens(prepared.model, prepared.rows)
    found: list[Scores] = [[np.empty(0)] * len(prepared) for _, prepared in scored]
    joined: list[tuple[int, PreparedRows, list[int]]] = []
    for n, (intervened, prepared) in enumerate(scored):
        of_rows = tokens[id(prepared.rows)]
        together = [i for i, choices in enumerate(of_rows) if share_a_run(prepared.model, choices)]
        if together:
            joined.append((n, prepared, together))
        apart = sorted(set(range(len(prepared))) - set(together))
        if apart:
            given = prepared.sources
            values = scores_of_tokens(
                intervened,
                [prepared.rows[i] for i in apart],
                [of_rows[i] for i in apart],
                None if given is None else take_sources(listed_sources(given), apart),
                batch_size=batch_size,
            )
            for i, of_row in zip(apart, values, strict=True):
                found[n][i] = of_row
    parts = list(_parts(joined, batch_size))
    for together in tqdm(parts, disable=not progress, desc="scoring", leave=False):
        shares = [_share(*scored[n], some) for n, some in together]
        model = shares[0].intervened.model
        few = can_score_tokens(model)
        results = joint_logits(shares, unembed=not few)
        for (n, some), result in zip(together, results, strict=True):
            asked = [tokens[id(scored[n][1].rows)][i] for i in some]
            ids = first_tokens(asked).to(result.device)
            logits = token_logits(model, result, ids) if few else result.gather(1, ids)
            values = logits.double().cpu().numpy()
            for i, choices, row in zip(some, asked, values, strict=True):
                found[n][i] = row[: len(choices)]
    return found


def _share(
    intervened: IntervenedModel,
    prepared: PreparedRows,
    rows: Sequence[int],
    *,
    answers: bool = False,
) -> Share:
    """Rows to be run, with the logits wanted after their prompts, or at all answer tokens."""
    inputs = prepared.inputs(rows, intervened.placements)
    batch = inputs["batch"]
    if answers:
        return Share(intervened, inputs, answer_positions(prepared.model, batch))
    return Share(intervened, inputs, prompt_ends(batch))


def _parts(
    prepared: Sequence[tuple[int, PreparedRows, Sequence[int]]], batch_size: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """Batches of the chosen rows whose regions are alike: of the same length, and from similar
    layers on."""
    pieces = []
    for n, rows, chosen in prepared:
        for places in by_length([rows.rows[i] for i in chosen], batch_size):
            group = [chosen[place] for place in places]
            pieces.append((rows.region_length(group), rows.first_block, n, group))
    together: list[tuple[int, list[int]]] = []
    size = longest = 0
    for length, _, n, group in sorted(pieces, key=lambda piece: piece[:2]):
        size, longest = size + len(group), max(longest, length)
        if together and size > batch_size and size * longest > _FEW_TOKENS:
            yield together
            together, size, longest = [], len(group), length
        together.append((n, group))
    if together:
        yield together
