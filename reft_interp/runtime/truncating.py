"""Prompts cut to a length, on the side that is asked for; answers and spans are never cut.

The text is cut, not the tokens, so that training, scores, generation and what is shown all see the
same prompt.
"""

from collections.abc import Mapping
from typing import Any, Literal

from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from reft_interp.continuing import continuation_tokens
from reft_interp.encoding import prompt_tokens
from reft_interp.runtime.batching import Rows, as_list

Side = Literal["left", "right"]


def truncate_prompts(
    model: TransformerBridge, rows: Rows, max_length: int, *, truncation_side: Side = "right"
) -> list[dict[str, Any]]:
    """The rows, with prompts cut so that each fits together with its answer.

    Args:
        model: its tokenizer counts.
        rows: with `prompt` and, where there is one, `answer`. Rows that fit stay as they are.
        max_length: tokens of prompt and answer together, special tokens included.
        truncation_side: "right" cuts the end of a prompt, as tokenizers do by default; "left"
            its beginning, where what is asked stands at the end.

    Raises:
        ValueError: an answer that leaves no room for a prompt, or a span that would be cut (the
            message gives the row).
    """
    if truncation_side not in ("left", "right"):
        raise ValueError(f'truncation_side must be "left" or "right", got {truncation_side!r}')
    return [
        _truncate(model.tokenizer, f"rows: row {i}", row, max_length, truncation_side)
        for i, row in enumerate(as_list(rows))
    ]


def _truncate(
    tokenizer: PreTrainedTokenizerBase, name: str, row: Mapping[str, Any], most: int, side: Side
) -> dict[str, Any]:
    prompt, answer = row["prompt"], row.get("answer")
    room = most - (len(continuation_tokens(tokenizer, [answer])[0][0]) if answer else 0)
    start, end = 0, len(prompt)
    while True:
        [ids], [every], _ = prompt_tokens(tokenizer, [prompt[start:end]])
        offsets = [(a, b) for a, b in every.tolist() if a < b]
        # Cut text may become other tokens than it was, so that once is not always enough.
        excess = len(ids) - room
        if excess <= 0:
            break
        if excess >= len(offsets):
            raise ValueError(
                f"{name}: max_length is {most}, of which the answer and special tokens leave no "
                "room for the prompt"
            )
        if side == "left":
            start += max(offsets[excess][0], 1)
        else:
            end = start + min(offsets[-excess - 1][1], end - start - 1)
    if (start, end) == (0, len(prompt)):
        return dict(row)
    cut = {**row, "prompt": prompt[start:end]}
    if row.get("spans"):
        spans = {part: span for part, span in row["spans"].items() if span is not None}
        for part, (first, last) in spans.items():
            if first < start or last > end:
                raise ValueError(
                    f"{name}: its span {part!r}, characters {first} to {last}, would be cut, as "
                    f"max_length={most} leaves {start} to {end}: cut the other side, or less"
                )
        cut["spans"] = {part: [a - start, b - start] for part, (a, b) in spans.items()}
    return cut
