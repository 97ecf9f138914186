"""How much a model can read at once, and whether rows fit, before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.continuing import continuation_tokens
from reft_interp.encoding import TokenizedBatch, prompt_tokens


def context_length(model: TransformerBridge) -> int | None:
    """How many tokens the model can read at once, by its configuration; None for no limit."""
    config: Any = model.original_model.config
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(most, int) or most <= 0:
        return None
    # RoBERTa's positions are counted from behind that of the padding: 512 of 514 are for tokens.
    embedding = getattr(getattr(model, "pos_embed", None), "original_component", None)
    padding = getattr(embedding, "padding_idx", None)
    return most if padding is None else most - padding - 1


def check_fit(
    model: TransformerBridge,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    *,
    answers: bool = False,
    max_new_tokens: int = 0,
    advice: str | None = None,
) -> None:
    """Raise unless the model can read every row.

    Args:
        model: whose tokenizer counts.
        rows: with `prompt`, and `answer` where it counts; an encoder's may have a `text_pair`.
        name: of the rows, in the message.
        answers: whether the answer is read after the prompt.
        max_new_tokens: generated after the prompt. They count where positions are learned (gpt2),
            of which there are so many and no more.
        advice: what to do, in the message; to leave a row out or cut it by default.

    Raises:
        ValueError: a row that does not fit (it is named, with its length and the model's).
    """
    most = context_length(model)
    if most is None:
        return
    room = most - _read_again(model, max_new_tokens)
    tokenizer: Any = model.tokenizer
    for i, row in enumerate(rows):
        prompt, answer = row["prompt"], row.get("answer") if answers else ""
        pair = row.get("text_pair")
        special = tokenizer.num_special_tokens_to_add(pair=pair is not None)
        if not isinstance(prompt, str) or not isinstance(answer, str):
            continue  # said where rows are encoded
        # A token is hardly ever less than a byte: most rows are short enough without counting.
        if len((prompt + (pair or "") + answer).encode()) + special + 2 <= room:
            continue
        [of_row], *_ = prompt_tokens(tokenizer, [prompt], None if pair is None else [pair])
        of_prompt = len(of_row)
        of_answer = len(continuation_tokens(tokenizer, [answer])[0][0]) if answer else 0
        if of_prompt + of_answer <= room:
            continue
        cut = advice or (
            "leave it out; prompts are cut by "
            f'truncate_prompts(model, rows, {max(room, 1)}, truncation_side="left")'
        )
        whose = model.cfg.model_name
        if of_prompt + of_answer > most:
            said = f" ({of_answer} of them its answer)" if of_answer else ""
            raise ValueError(
                f"{name}: row {i} has {of_prompt + of_answer} tokens{said}, and {whose} can read "
                f"{most}: {cut}"
            )
        raise ValueError(
            f"{name}: row {i} has {of_prompt} tokens, after which max_new_tokens={max_new_tokens} "
            f"do not fit: {whose} has {most} learned positions. Give a max_new_tokens of at most "
            f"{most - of_prompt + 1}, or {cut}"
        )


def check_room(model: TransformerBridge, batch: TokenizedBatch, max_new_tokens: int | None) -> None:
    """Raise unless new tokens fit after prompts, where positions are learned.

    Raises:
        ValueError: they do not; the message says how many would.
    """
    most = context_length(model)
    longest = int((batch.prompt_end - batch.prompt_start).max())
    if most is None or longest + _read_again(model, max_new_tokens or 0) <= most:
        return
    raise ValueError(
        f"max_new_tokens must be at most {most - longest + 1} after a prompt of {longest} tokens, "
        f"as {model.cfg.model_name} has {most} learned positions; got {max_new_tokens}"
    )


def _read_again(model: TransformerBridge, max_new_tokens: int) -> int:
    """New tokens that need a position of their own: the last one is not read."""
    learned = "pos_embed" in (model.adapter.component_mapping or {})
    return max(max_new_tokens - 1, 0) if learned else 0
