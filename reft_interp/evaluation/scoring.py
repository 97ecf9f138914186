"""Score several interventions on the same prepared rows: constants are computed once for all."""

import torch

from reft_interp.evaluation.predicting import accuracy, choice_tokens, have_choices
from reft_interp.evaluation.results import Accuracy
from reft_interp.positions import Positions
from reft_interp.runtime import IntervenedModel
from reft_interp.runtime.batching import by_length
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.replaying import replay
from reft_interp.runtime.running import is_causal, run


@torch.no_grad()
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
    rows = prepared.rows
    choices = choice_tokens(intervened.model, rows) if have_choices(rows) else []
    one_token = bool(choices) and all(len(ids) == 1 for of_row in choices for ids in of_row)
    # An encoder predicts a token in its own place, which prompts alone don't have.
    if not one_token or not is_causal(intervened.model):
        return accuracy(intervened, rows, prepared.sources, batch_size=batch_size)
    hits = 0
    for group in by_length(rows, batch_size):
        inputs = prepared.collate([prepared[i] for i in group])
        batch, frozen = inputs["batch"], inputs["frozen"]
        edits = intervened.edits(batch, inputs["sources"])
        every = torch.arange(len(group), device=batch.input_ids.device)
        after = Positions(every, batch.prompt_end - 1)
        if frozen is None:
            logits = run(intervened.model, batch, edits, at=after)
        else:
            logits = replay(intervened.model, batch, edits, frozen, after)
        for i, scores in zip(group, logits, strict=True):
            best = int(scores[[ids[0] for ids in choices[i]]].argmax())
            hits += rows[i]["choices"][best] == rows[i]["answer"]
    return Accuracy(int(hits), len(rows))
