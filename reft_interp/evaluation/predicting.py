"""What a model answers: the most probable of a row's choices, or its own greedy tokens.

Next door: `choices` has the tokens of what rows offer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import IGNORED, TokenizedBatch
from reft_interp.evaluation.choices import (
    are_answers,
    choice_tokens,
    first_tokens,
    have_choices,
    share_a_run,
)
from reft_interp.evaluation.results import Accuracy
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import Rows, as_list, by_length, encode
from reft_interp.runtime.placement import Edit
from reft_interp.runtime.running import (
    answer_positions,
    answer_starts,
    can_score_tokens,
    is_causal,
    prompt_ends,
    run,
    token_logits,
)
from reft_interp.runtime.sources import Sources, listed_sources, named_sources, take_sources

Model = TransformerBridge | IntervenedModel


def accuracy(
    model: Model, rows: Rows, sources: Sources | None = None, *, batch_size: int = 64
) -> Accuracy:
    """The share of rows that the model answers correctly (see `answers_correctly`).

    Raises:
        TypeError: rows that are none, or choices that are one text.
        ValueError: no rows, a row without answer, an answer that is not among its choices, or
            sources that are missing or superfluous.
    """
    correct = answers_correctly(model, rows, sources, batch_size=batch_size)
    return Accuracy(hits=int(correct.sum()), n=len(correct))


def answers_correctly(
    model: Model, rows: Rows, sources: Sources | None = None, *, batch_size: int = 64
) -> Bool[np.ndarray, "n"]:
    """Whether each row's `answer` is what the model says.

    With `choices`, what it says is the most probable of them; without, the tokens that it
    would generate greedily, as many as the answer has, all of which must agree.

    Args:
        model: untouched, or with interventions.
        rows: with `prompt`, `answer`, and `choices` in all of them or in none.
        sources: for each row the prompt that is read, where an intervention needs it.
        batch_size: rows run at once.

    Raises:
        TypeError: rows that are none, or choices that are one text.
        ValueError: no rows, a row without answer, an answer that is not among its choices, or
            sources that are missing or superfluous.
    """
    listed = as_list(rows)
    for i, row in enumerate(listed):
        if "answer" not in row:
            raise ValueError(
                f"rows must have an 'answer' to be scored against; row {i} has only {sorted(row)}"
            )
    if not have_choices(listed):
        return _greedy_matches(model, listed, sources, batch_size)
    return are_answers(listed, choice_scores(model, listed, sources, batch_size=batch_size))


def named_metric(name: str, rows: Rows) -> str:
    """What accuracy on these rows is called: without choices it asks for more, and says so.

    Raises:
        TypeError: rows that are none, or choices that are one text.
        ValueError: an answer is not among its choices.
    """
    return name if have_choices(as_list(rows)) else f"{name} (no choices: greedy tokens)"


def predict_choices(
    model: Model,
    rows: Rows,
    sources: Sources | None = None,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> Int[np.ndarray, "n"]:
    """Index of the most probable of each row's `choices` after its `prompt`.

    A choice's score is the sum of the log probabilities of all its tokens, teacher forced.

    Args:
        model: untouched, or with interventions.
        rows: with `prompt` and `choices`.
        sources: for each row the prompt that is read, where an intervention needs it.
        batch_size: rows run at once.
        progress: show a progress bar.

    Raises:
        TypeError: rows that are none, or choices that are one text.
        ValueError: a row has no choices, or two choices with the same tokens.
    """
    scores = choice_scores(model, rows, sources, batch_size=batch_size, progress=progress)
    return np.array([int(np.argmax(row)) for row in scores])


def choice_scores(
    model: Model,
    rows: Rows,
    sources: Sources | None = None,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Float[np.ndarray, "choices"]]:
    """Log probability of each of each row's `choices` after its `prompt`.

    Raises:
        TypeError: rows that are none, or choices that are one text.
        ValueError: a row has no choices, or two choices with the same tokens.
    """
    listed = as_list(rows)
    bridge = model.model if isinstance(model, IntervenedModel) else model
    tokens = choice_tokens(bridge, listed)
    return scores_of_tokens(
        model, listed, tokens, sources, batch_size=batch_size, progress=progress
    )


def scores_of_tokens(
    model: Model,
    rows: Sequence[Mapping[str, Any]],
    tokens: Sequence[Sequence[Sequence[int]]],
    sources: Sources | None = None,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Float[np.ndarray, "choices"]]:
    """`choice_scores`, given the token ids of each of each row's choices."""
    bridge = model.model if isinstance(model, IntervenedModel) else model
    scores = [np.zeros(len(choices)) for choices in tokens]
    read = _listed_sources(model, len(rows), sources)
    # One token each: one run of the prompt serves all choices.
    short = [i for i, choices in enumerate(tokens) if share_a_run(bridge, choices)]
    others = sorted(set(range(len(rows))) - set(short))
    pairs = [(i, j) for i in others for j in range(len(tokens[i]))]
    asked = [dict(rows[i]) | {"answer": rows[i]["choices"][j]} for i, j in pairs]
    together = [[short[n] for n in group] for group in by_length(_of(rows, short), batch_size)]
    apart = list(by_length(asked, batch_size))
    with tqdm(
        total=len(together) + len(apart), disable=not progress, desc="scoring", leave=False
    ) as bar:
        for group in together:
            some_sources = None if read is None else take_sources(read, group)
            ids = first_tokens(_of(tokens, group))
            after = _log_probabilities_of(model, _of(rows, group), some_sources, ids)
            for i, row in zip(group, after, strict=True):
                scores[i] = row[: len(tokens[i])].double().numpy()
            bar.update()
        for group in apart:
            numbers = [pairs[g][0] for g in group]
            some_sources = None if read is None else take_sources(read, numbers)
            summed = _answer_log_probabilities(model, _of(asked, group), some_sources)
            for g, value in zip(group, summed.tolist(), strict=True):
                i, j = pairs[g]
                scores[i][j] = value
            bar.update()
    return scores


def _of(values: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
    return [values[i] for i in chosen]


def answer_log_probabilities(
    model: Model, rows: Rows, sources: Sources | None = None, *, batch_size: int = 64
) -> Float[np.ndarray, "rows"]:
    """Log probability (nats) of each row's `answer` after its `prompt`, summed over its tokens.

    Args:
        model: untouched, or with interventions.
        rows: with `prompt` and `answer`.
        sources: for each row the prompt that is read, where an intervention needs it.
        batch_size: rows run at once.

    Raises:
        TypeError: rows that are none.
        ValueError: no rows, a row without answer, or sources that are missing or superfluous.
    """
    listed = as_list(rows)
    read = _listed_sources(model, len(listed), sources)
    found = np.empty(len(listed))
    for group, some, some_sources in _in_groups(listed, read, batch_size):
        found[group] = _answer_log_probabilities(model, some, some_sources)
    return found


def divergences(
    intervened: IntervenedModel, rows: Rows, sources: Sources | None = None, *, batch_size: int = 64
) -> Float[np.ndarray, "rows"]:
    """How far interventions move what comes after each prompt, whatever the answer is.

    KL divergence (nats) of the distribution of the next token under the interventions from that of
    the untouched model, D(untouched ‖ intervened). Of an encoder: of the first token of the
    answer, in whose place it has a mask.

    Args:
        intervened: the model with its interventions.
        rows: with `prompt`, and for an encoder with `answer`.
        sources: for each row the prompt that is read, where an intervention needs it.
        batch_size: rows run at once.

    Raises:
        TypeError: rows that are none.
        ValueError: no rows, for an encoder one without answer, or sources that are missing or
            superfluous.
    """
    listed = as_list(rows)
    read = _listed_sources(intervened, len(listed), sources)
    found = np.empty(len(listed))
    for group, some, some_sources in _in_groups(listed, read, batch_size):
        untouched = _log_probabilities_after(intervened.model, some, None).double()
        edited = _log_probabilities_after(intervened, some, some_sources).double()
        found[group] = (untouched.exp() * (untouched - edited)).sum(-1).numpy()
    return found


def _in_groups(
    rows: Sequence[Any], sources: Sources | None, batch_size: int
) -> Iterator[tuple[list[int], list[Any], Sources | None]]:
    """Rows of similar length at a time: their numbers, themselves, and their sources."""
    for group in by_length(rows, batch_size):
        yield (
            group,
            [rows[i] for i in group],
            None if sources is None else take_sources(sources, group),
        )


def _listed_sources(model: Model, rows: int, sources: Sources | None) -> Sources | None:
    """The sources as lists, of which there is one for each row wherever one is read."""
    if isinstance(model, IntervenedModel):
        named_sources(model.placements, rows, sources)
    elif sources is not None:
        raise ValueError("sources were given, but the model has no interventions that read them")
    return None if sources is None else listed_sources(sources)


def _edits(
    model: Model, batch: TokenizedBatch, sources: Sources | None
) -> tuple[TransformerBridge, list[Edit]]:
    if isinstance(model, IntervenedModel):
        return model.model, model.edits(batch, model.read_sources(batch, sources))
    return model, []


@torch.no_grad()
def _log_probabilities_after(
    model: Model, rows: Sequence[Any], sources: Sources | None
) -> Float[Tensor, "n vocab"]:
    bridge = model.model if isinstance(model, IntervenedModel) else model
    batch = encode(bridge, rows, answers=not is_causal(bridge))
    bridge, edits = _edits(model, batch, sources)
    at = answer_starts(bridge, batch)
    logits = run(bridge, batch, edits, at=at)
    return logits.float().log_softmax(-1).cpu()


@torch.no_grad()
def _log_probabilities_of(
    model: Model, rows: Sequence[Any], sources: Sources | None, tokens: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Log probabilities of k tokens a row after its prompt, of a decoder; in full precision where
    that can be had, so that tokens compare as they do on prepared rows."""
    bridge = model.model if isinstance(model, IntervenedModel) else model
    batch = encode(bridge, rows)
    bridge, edits = _edits(model, batch, sources)
    few = can_score_tokens(bridge)
    result = run(bridge, batch, edits, at=prompt_ends(batch), unembed=not few)
    tokens = tokens.to(result.device)
    if few:
        of_tokens = token_logits(bridge, result, tokens)
        logits = bridge.unembed.original_component(result).to(result.device)
        # Rounded otherwise than here, a token could be more probable than all of them together.
        logits = logits.float().scatter(1, tokens, of_tokens.float())
    else:
        of_tokens, logits = result.gather(1, tokens), result.float()
    return (of_tokens.float() - logits.logsumexp(-1, keepdim=True)).cpu()


@torch.no_grad()
def _answer_logits(
    model: Model, rows: Sequence[Any], sources: Sources | None
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Float[Tensor, "n vocab"]]:
    bridge = model.model if isinstance(model, IntervenedModel) else model
    batch = encode(bridge, rows, answers=True)
    bridge, edits = _edits(model, batch, sources)
    at = answer_positions(bridge, batch)
    logits = run(bridge, batch, edits, at=at)
    return at.rows, batch.labels[batch.labels != IGNORED], logits.float()


@torch.no_grad()
def _answer_log_probabilities(
    model: Model, rows: Sequence[Any], sources: Sources | None
) -> Float[Tensor, "batch"]:
    at_rows, targets, logits = _answer_logits(model, rows, sources)
    each = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return torch.zeros(len(rows), device=each.device).index_add(0, at_rows, each).cpu()


def _greedy_matches(
    model: Model, rows: Sequence[Any], sources: Sources | None, batch_size: int
) -> Bool[np.ndarray, "n"]:
    read = _listed_sources(model, len(rows), sources)
    correct = np.ones(len(rows), dtype=bool)
    for group in by_length(rows, batch_size):
        some_sources = None if read is None else take_sources(read, group)
        at_rows, targets, logits = _answer_logits(model, [rows[g] for g in group], some_sources)
        for row, agrees in zip(
            at_rows.tolist(), (logits.argmax(-1) == targets).tolist(), strict=True
        ):
            correct[group[row]] &= agrees
    return correct
