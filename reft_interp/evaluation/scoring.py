"""Score interventions on prepared rows: constants are computed once, and many are scored in one
run, each row edited by its own."""

from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm

from reft_interp.evaluation.predicting import accuracy, choice_tokens, have_choices
from reft_interp.evaluation.results import Accuracy
from reft_interp.positions import Positions
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import by_length
from reft_interp.runtime.joining import Share, joint_logits
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import can_score_tokens, is_causal, token_logits

Scored = tuple[IntervenedModel, PreparedRows]


def prepared_accuracy(
    intervened: IntervenedModel, prepared: PreparedRows, *, batch_size: int = 64
) -> Accuracy:
    """The share of rows whose `answer` is the most probable of their `choices`.

    Args:
        intervened: with interventions at the sites and positions that the rows were prepared for.
        prepared: rows with `answer` and `choices`. Choices of one token each are scored on the
            frozen constants; others by a plain run.
        batch_size: rows run at once.

    Raises:
        ValueError: an answer is not among its choices.
    """
    (found,) = prepared_accuracies([(intervened, prepared)], batch_size=batch_size)
    return found


@torch.no_grad()
def prepared_accuracies(
    scored: Sequence[Scored], *, batch_size: int = 64, progress: bool = False
) -> list[Accuracy]:
    """`prepared_accuracy` of several interventions of one model, run together.

    Args:
        scored: each with its prepared rows.
        batch_size: rows run at once, over all interventions.
        progress: show a progress bar.

    Raises:
        ValueError: an answer is not among its choices.
    """
    choices: dict[int, list[tuple[tuple[int, ...], ...]]] = {}
    for _, prepared in scored:
        if id(prepared.rows) not in choices:
            asked = have_choices(prepared.rows)
            choices[id(prepared.rows)] = (
                choice_tokens(prepared.model, prepared.rows) if asked else []
            )
    found: dict[int, Accuracy] = {}
    joined: list[int] = []
    for n, (intervened, prepared) in enumerate(scored):
        tokens = choices[id(prepared.rows)]
        one_token = bool(tokens) and all(len(ids) == 1 for of_row in tokens for ids in of_row)
        # An encoder predicts a token in its own place, which prompts alone don't have.
        if one_token and is_causal(intervened.model):
            joined.append(n)
        else:
            found[n] = accuracy(intervened, prepared.rows, prepared.sources, batch_size=batch_size)
    hits = dict.fromkeys(joined, 0)
    parts = list(_parts([(n, *scored[n]) for n in joined], batch_size))
    for together in tqdm(parts, disable=not progress, desc="scoring", leave=False):
        shares = []
        for n, some in together:
            intervened, prepared = scored[n]
            inputs = prepared.inputs(some)
            batch = inputs["batch"]
            every = torch.arange(len(some), device=batch.input_ids.device)
            shares.append(Share(intervened, inputs, Positions(every, batch.prompt_end - 1)))
        few = can_score_tokens(shares[0].intervened.model)
        for (n, some), found_here in zip(
            together, joint_logits(shares, unembed=not few), strict=True
        ):
            rows = scored[n][1].rows
            for i, row in zip(some, found_here, strict=True):
                ids = torch.tensor([of[0] for of in choices[id(rows)][i]], device=row.device)
                scores = (
                    token_logits(scored[n][0].model, row[None], ids[None])[0] if few else row[ids]
                )
                hits[n] += rows[i]["choices"][int(scores.argmax())] == rows[i]["answer"]
    found |= {n: Accuracy(int(hits[n]), len(scored[n][1])) for n in joined}
    return [found[n] for n in range(len(scored))]


def _parts(
    scored: Sequence[tuple[int, IntervenedModel, PreparedRows]], batch_size: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """Batches of rows of similar length, of interventions whose regions begin at similar layers."""
    order = sorted(scored, key=lambda one: min(p.site.layer for p in one[1].placements))
    pieces = [(n, group) for n, _, rows in order for group in by_length(rows.rows, batch_size)]
    together: list[tuple[int, list[int]]] = []
    size = 0
    for n, group in pieces:
        if together and size + len(group) > batch_size:
            yield together
            together, size = [], 0
        together.append((n, group))
        size += len(group)
    if together:
        yield together
