"""What interventions are trained by: the cross-entropy of the answers, run in full or replayed."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.encoding import IGNORED, TokenizedBatch
from reft_interp.runtime.frozen import Region
from reft_interp.runtime.placement import Edit
from reft_interp.runtime.recomputing import recomputed
from reft_interp.runtime.replaying import replay
from reft_interp.runtime.running import answer_positions, logits_of_tokens, run


def answer_loss(
    model: TransformerBridge,
    batch: TokenizedBatch,
    edits: Sequence[Edit],
    frozen: Sequence[Region] | None = None,
    answer_tokens: Tensor | int | None = None,
    *,
    choices: Int[Tensor, "batch k"] | None = None,
    recompute: bool = False,
) -> Float[Tensor, ""]:
    """Cross-entropy of the answer tokens of a batch, teacher forced.

    Args:
        model: the hooked model.
        batch: prompts with answers.
        edits: what is done on the way.
        frozen: the constants of each row, to run only what the edits can change.
        answer_tokens: what the sum is divided by; this batch's number of answer tokens by
            default.
        choices: the tokens that each row's answer of one token is compared with; all tokens by
            default.
        recompute: blocks run again in the backward pass rather than to keep what they computed.

    Raises:
        ValueError: `recompute` with `frozen`.
    """
    at = answer_positions(model, batch)
    if recompute and frozen is not None:
        raise ValueError(
            "recompute: rows that are replayed on frozen constants, as these are, cannot be "
            'recomputed: prepare them with engine="full", or leave recompute out'
        )

    def result(unembed: bool) -> Tensor:
        if recompute:
            with recomputed(model, edits):
                return run(model, batch, edits, at=at, unembed=unembed, use_cache=False)
        if frozen is None:
            return run(model, batch, edits, at=at, unembed=unembed)
        return replay(model, batch, edits, frozen, at, unembed=unembed)

    targets = batch.labels[batch.labels != IGNORED]
    if choices is None:
        logits = result(True)
    else:
        logits = logits_of_tokens(model, choices, result)
        targets = place_among(choices, targets)
    total = cross_entropy(logits.float(), targets, reduction="sum")
    return total / (len(targets) if answer_tokens is None else answer_tokens)


def place_among(
    choices: Int[Tensor, "batch k"], answers: Int[Tensor, "batch"]
) -> Int[Tensor, "batch"]:
    """Which of each row's choices its answer is."""
    return (choices == answers[:, None]).long().argmax(1)
