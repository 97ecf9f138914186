"""Rows cut to a length: prompts on the side that is asked for, or the ends of answers; never spans.

The text is cut, not the tokens, so that training, scores, generation and what is shown all see the
same prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from reft_interp.continuing import continuation_tokens
from reft_interp.encoding import prompt_tokens
from reft_interp.runtime.batching import Rows, as_list

Side = Literal["left", "right"]

Part = Literal["prompt", "answer"]
"""What of a row is cut."""

_Offsets = Sequence[tuple[int, int]]


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


def truncate_answers(model: TransformerBridge, rows: Rows, max_length: int) -> list[dict[str, Any]]:
    """The rows, with the ends of answers cut so that each fits together with its prompt, as
    tokenizers cut both as one text.

    Args:
        model: its tokenizer counts.
        rows: with `prompt` and `answer`. Rows that fit stay as they are.
        max_length: tokens of prompt and answer together, special tokens included.

    Raises:
        ValueError: a row without an answer, or a prompt that leaves no room for it (the message
            gives the row).
    """
    tokenizer = model.tokenizer

    def counted(text: str) -> tuple[int, _Offsets]:
        [ids], [offsets] = continuation_tokens(tokenizer, [text])
        return len(ids), offsets

    cut = []
    for i, row in enumerate(as_list(rows)):
        if not isinstance(row.get("answer"), str):
            raise ValueError(f"rows: row {i} has no 'answer' to learn, only {sorted(row)}")
        [of_prompt], *_ = prompt_tokens(tokenizer, [row["prompt"]])
        kept = _kept(counted, row["answer"], max_length - len(of_prompt), "right")
        if kept is None:
            raise ValueError(
                f"rows: row {i}: max_length is {max_length}, of which the prompt's {len(of_prompt)}"
                " tokens leave no room for the answer, so that it has nothing to learn from: leave "
                "out such rows ([row for row in rows if len(model.tokenizer(row['prompt'])"
                f"['input_ids']) < {max_length}]), or give more"
            )
        cut.append({**row, "answer": row["answer"][: kept[1]]})
    return cut


def _truncate(
    tokenizer: PreTrainedTokenizerBase, name: str, row: Mapping[str, Any], most: int, side: Side
) -> dict[str, Any]:
    def counted(text: str) -> tuple[int, _Offsets]:
        [ids], [every], _ = prompt_tokens(tokenizer, [text])
        return len(ids), [(a, b) for a, b in every.tolist() if a < b]

    prompt, answer = row["prompt"], row.get("answer")
    room = most - (len(continuation_tokens(tokenizer, [answer])[0][0]) if answer else 0)
    kept = _kept(counted, prompt, room, side)
    if kept is None:
        raise ValueError(
            f"{name}: max_length is {most}, of which the answer ({most - room} tokens) and special "
            "tokens leave no room for the prompt; fit_reft cuts answers instead with "
            'truncate="answer"'
        )
    start, end = kept
    if kept == (0, len(prompt)):
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


def _kept(
    counted: Callable[[str], tuple[int, _Offsets]], text: str, room: int, side: Side
) -> tuple[int, int] | None:
    """Which characters of a text fit, `[start, end)`; None where nothing would be left.

    Args:
        counted: how many tokens a text has, special ones included, and where the others stand.
        text: what is cut.
        room: tokens that it may have.
        side: where it is cut.
    """
    start, end = 0, len(text)
    while True:
        tokens, offsets = counted(text[start:end])
        # Cut text may become other tokens than it was, so that once is not always enough.
        excess = tokens - room
        if excess <= 0:
            return start, end
        if excess >= len(offsets) or end - start == 1:
            return None
        if side == "left":
            start += max(offsets[excess][0], 1)
        else:
            end = start + min(offsets[-excess - 1][1], end - start - 1)
