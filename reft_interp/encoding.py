"""Prompts, and answers where given, as padded token ids that still know their characters.

Next door: `positions` selects tokens of what is made here. Not here: models, and chat templates
(apply the template first; the string that it gives is the prompt, with its BOS or without).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, Int32
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from reft_interp.continuing import continuation_tokens

# Of many long rows, pairs of Python's numbers would take fifteen times the memory.
Offsets = Int32[np.ndarray, "_ 2"]
"""For each token, the characters `[start, end)` that it stands for; empty for special tokens."""

IGNORED = -100
"""The label that torch's cross entropy passes over."""

_TUPLES = ("prompts", "offsets", "spans", "answers", "answer_offsets", "edits")


# Tensors have no single truth value, so two batches are equal only if they are the same one.
@dataclass(frozen=True, eq=False)
class TokenizedBatch:
    """Prompts, and answers where given, as padded token ids.

    In each row, columns `prompt_start` to `prompt_end` hold the prompt and columns `prompt_end`
    to `answer_end` the answer; whatever is left on either side is padding.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    """1 on tokens, 0 on padding."""
    labels: Int[Tensor, "batch pos"]
    """The answer's token ids in their own columns (not shifted), -100 elsewhere."""
    prompt_start: Int[Tensor, "batch"]
    """Column of the prompt's first token; special tokens (BOS, [CLS]) are prompt tokens."""
    prompt_end: Int[Tensor, "batch"]
    """One past the column of the prompt's last token."""
    answer_end: Int[Tensor, "batch"]
    """One past the column of the answer's last token; `prompt_end` where there is no answer."""
    prompts: tuple[str, ...]
    """Of a pair of texts both, with a line break between them."""
    offsets: tuple[Offsets, ...]
    """Characters of the prompt that each prompt token stands for."""
    spans: tuple[Mapping[str, tuple[int, int]], ...]
    """Named characters `[start, end)` of each prompt."""
    answers: tuple[str, ...]
    """Empty strings where there is no answer."""
    answer_offsets: tuple[Offsets, ...]
    """Characters of the answer that each answer token stands for."""
    edits: tuple[frozenset[str] | None, ...]
    """Of the edits that have a name, those that each row asks for; None where it does not
    say, as in what `tokenize` gives."""
    token_type_ids: Int[Tensor, "batch pos"] | None = None
    """Which text of a pair each token belongs to, as the tokenizer numbers them; None where
    prompts are single texts, or the tokenizer makes no difference (RoBERTa's)."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """0, 1, 2, ... over the tokens of each row, 0 on padding."""
        return (self.attention_mask.cumsum(dim=-1) - 1) * self.attention_mask

    def to(self, device: torch.device | str | int) -> "TokenizedBatch":
        """The same batch with its tensors on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def take(self, rows: Sequence[int]) -> "TokenizedBatch":
        """Some of the rows, without the columns that are padding in all of them."""
        chosen = torch.as_tensor(rows, device=self.input_ids.device)
        left = int(self.prompt_start[chosen].min())
        right = int(self.answer_end[chosen].max())
        columns = ("input_ids", "attention_mask", "labels", "token_type_ids")
        values: dict[str, Any] = {
            name: tensor[chosen, left:right]
            for name in columns
            if (tensor := getattr(self, name)) is not None
        }
        for name in ("prompt_start", "prompt_end", "answer_end"):
            values[name] = getattr(self, name)[chosen] - left
        for name in _TUPLES:
            every = getattr(self, name)
            values[name] = tuple(every[row] for row in rows)
        return TokenizedBatch(**values)

    @classmethod
    def concatenate(cls, batches: "Sequence[TokenizedBatch]") -> "TokenizedBatch":
        """The rows of several batches one after the other, all padded on the right."""
        if len(batches) == 1:
            return batches[0]
        width = max(batch.input_ids.shape[1] for batch in batches)
        values: dict[str, Any] = {}
        padded = {
            "input_ids": ([batch.input_ids for batch in batches], 0),
            "attention_mask": ([batch.attention_mask for batch in batches], 0),
            "labels": ([batch.labels for batch in batches], IGNORED),
        }
        types = [batch.token_type_ids for batch in batches]
        if any(of_batch is not None for of_batch in types):
            # A single text is the first of a pair.
            known = [
                torch.zeros_like(batch.input_ids) if of_batch is None else of_batch
                for batch, of_batch in zip(batches, types, strict=True)
            ]
            padded["token_type_ids"] = known, 0
        for name, (tensors, fill) in padded.items():
            values[name] = torch.cat(
                [pad(tensor, (0, width - tensor.shape[1]), value=fill) for tensor in tensors]
            )
        for name in ("prompt_start", "prompt_end", "answer_end"):
            values[name] = torch.cat([getattr(batch, name) for batch in batches])
        for name in _TUPLES:
            values[name] = tuple(row for batch in batches for row in getattr(batch, name))
        return cls(**values)


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    spans: Sequence[Mapping[str, Sequence[int] | None] | None] | None = None,
    text_pairs: Sequence[str] | None = None,
    max_length: int | None = None,
    padding_side: Literal["left", "right"] = "right",
) -> TokenizedBatch:
    """Tokenize prompts and answers apart, and put each answer after its prompt.

    A prompt becomes exactly what the tokenizer makes of it by itself, special tokens included,
    so its tokens depend neither on the answer nor on the rest of the batch. TransformerLens's
    `to_tokens` puts a BOS token in front even where the tokenizer does not (SmolLM2, gpt2); here
    the tokenizer decides, and this is the one place where that is decided. Before a prompt that
    begins with the BOS token already, as many chat templates write it (Llama 3, Gemma, Mistral),
    the tokenizer's own is left out: the model reads one. An answer is
    tokenized without special tokens: its leading space, if it has one, belongs to it. One that a
    tokenizer would put in front of every text (Llama 2's "▁") is not added: an answer becomes
    what it is in the text of both.

    Args:
        tokenizer: a fast tokenizer, since positions are found by character offsets.
        prompts: one a row.
        answers: one for each prompt.
        spans: for each prompt, the characters `[start, end)` of named parts of it. A name whose
            value is None (as `datasets` fills up rows that lack it) is left out.
        text_pairs: for each prompt the text that makes a pair with it. The tokenizer joins the
            two as it joins pairs (special tokens between them, token types), and for position
            selectors and spans the second text's characters follow the first's after one line
            break.
        max_length: tokens, special ones included, after which a prompt is cut by the tokenizer;
            of a pair it shortens the longer text. Nothing is cut by default.
        padding_side: where short rows are filled up.

    Raises:
        TypeError: the tokenizer is a slow one, or a string stands where a list of them should.
        ValueError: a prompt, an answer or a text of a pair is empty, a span lies outside its
            prompt, there are not as many answers, spans or second texts as prompts, or
            `max_length` leaves no room beside the special tokens.
    """
    _check_fast(tokenizer)
    if padding_side not in ("left", "right"):
        raise ValueError(f'padding_side must be "left" or "right", got {padding_side!r}')
    texts = _texts("prompts", prompts)
    if not texts:
        raise ValueError("prompts must hold at least one prompt, got none")
    seconds = None if text_pairs is None else _texts("text_pairs", text_pairs, rows=len(texts))
    replies = None if answers is None else _texts("answers", answers, rows=len(texts))

    prompt_ids, offsets, types = prompt_tokens(tokenizer, texts, seconds, max_length=max_length)
    _check_not_empty("prompts", texts, prompt_ids)
    if seconds is not None:
        texts = tuple(f"{one}\n{other}" for one, other in zip(texts, seconds, strict=True))
    named = _spans(spans, texts)
    if replies is None:
        replies = ("",) * len(texts)
        answer_ids: list[list[int]] = [[] for _ in texts]
        answer_offsets: tuple[Offsets, ...] = (_offsets([]),) * len(texts)
    else:
        answer_ids, of_answers = continuation_tokens(tokenizer, replies)
        _check_not_empty("answers", replies, answer_ids)
        answer_offsets = tuple(map(_offsets, of_answers))

    filler = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    width = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    ids, mask, labels, starts, token_types = [], [], [], [], []
    for row, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        missing = width - len(prompt) - len(answer)
        left, right = (missing, 0) if padding_side == "left" else (0, missing)
        starts.append(left)
        ids.append([filler] * left + prompt + answer + [filler] * right)
        mask.append([0] * left + [1] * (width - missing) + [0] * right)
        labels.append([IGNORED] * (left + len(prompt)) + answer + [IGNORED] * right)
        if types is not None:
            token_types.append([0] * left + types[row] + [0] * (len(answer) + right))
    start = torch.tensor(starts)
    end = start + torch.tensor([len(p) for p in prompt_ids])
    return TokenizedBatch(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        labels=torch.tensor(labels),
        prompt_start=start,
        prompt_end=end,
        answer_end=end + torch.tensor([len(a) for a in answer_ids]),
        prompts=texts,
        offsets=offsets,
        spans=named,
        answers=replies,
        answer_offsets=answer_offsets,
        edits=(None,) * len(texts),
        token_type_ids=None if types is None else torch.tensor(token_types),
    )


def _texts(argument: str, texts: Sequence[str], rows: int | None = None) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise TypeError(f"{argument} must be a list of strings, got one string: [{texts!r}]?")
    if rows is not None and len(texts) != rows:
        raise ValueError(f"{argument}: {len(texts)} for {rows} prompts; there must be one for each")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{argument}: row {row} must be a string, got {text!r}")
        if not text:
            raise ValueError(f"{argument}: row {row} is an empty string")
    return tuple(texts)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    seconds: Sequence[str] | None = None,
    *,
    max_length: int | None = None,
) -> tuple[list[list[int]], tuple[Offsets, ...], list[list[int]] | None]:
    """What prompts become by themselves, or each with the text that makes a pair with it.

    Args:
        tokenizer: a fast tokenizer.
        texts: the prompts.
        seconds: as `text_pairs` of `tokenize`.
        max_length: as for `tokenize`.

    Returns:
        Ids, offsets and, of pairs, token types where the tokenizer gives some.

    Raises:
        TypeError: the tokenizer is a slow one.
        ValueError: `max_length` leaves no room beside the special tokens.
    """
    _check_fast(tokenizer)
    if max_length is not None:
        added = tokenizer.num_special_tokens_to_add(pair=seconds is not None)
        if max_length <= added:
            raise ValueError(
                f"max_length must be more than the {added} special tokens that the tokenizer "
                f"adds, got {max_length}"
            )
    ids, offsets, types = _encode(tokenizer, texts, seconds, max_length)
    for i, text in enumerate(texts):
        if not _has_another_bos(tokenizer, text, ids[i], offsets[i]):
            continue
        row = [ids[i]], [offsets[i]], None if types is None else [types[i]]
        if max_length is not None and len(ids[i]) == max_length:
            # The BOS that is left out took the place of a token.
            pair = None if seconds is None else [seconds[i]]
            row = _encode(tokenizer, [text], pair, max_length + 1)
        [its_ids], [its_offsets], its_types = row
        # The one that stands in the text stays: it has its characters.
        ids[i], offsets[i] = its_ids[1:], its_offsets[1:]
        if types is not None and its_types is not None:
            types[i] = its_types[0][1:]
    return ids, tuple(offsets), types


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    seconds: Sequence[str] | None,
    max_length: int | None,
) -> tuple[list[list[int]], list[Offsets], list[list[int]] | None]:
    """`prompt_tokens`, with the tokenizer's own BOS also before a text that begins with it."""
    encoded = tokenizer(
        list(texts),
        None if seconds is None else list(seconds),
        return_offsets_mapping=True,
        truncation=max_length is not None,
        max_length=max_length,
        verbose=False,  # what is too long for the model is said where its length is known
    )
    ids: list[list[int]] = encoded["input_ids"]  # pyright: ignore[reportAssignmentType]
    of_tokens: Iterable[list[tuple[int, int]]] = encoded["offset_mapping"]  # pyright: ignore[reportAssignmentType]
    types: Any = None if seconds is None else encoded.get("token_type_ids")
    offsets = []
    for row, (text, pairs) in enumerate(zip(texts, of_tokens, strict=True)):
        found = _offsets(pairs)
        if seconds is not None:
            # The second text of a pair is placed after the first and a line break; special tokens
            # belong to neither.
            second = np.array([which == 1 for which in encoded.sequence_ids(row)])
            found[second & (found[:, 0] < found[:, 1])] += len(text) + 1
        offsets.append(found)
    return ids, offsets, types


def _has_another_bos(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], offsets: Offsets
) -> bool:
    """Whether the tokenizer put its BOS token before a text that begins with one, as chat
    templates write it."""
    bos = tokenizer.bos_token
    if not isinstance(bos, str) or not bos or not text.startswith(bos):
        return False
    start, end = offsets[0]
    return list(ids[:2]) == [tokenizer.bos_token_id] * 2 and bool(start == end)


def _offsets(pairs: Sequence[tuple[int, int]]) -> Offsets:
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise TypeError(
            f"tokenizer: {type(tokenizer).__name__} is a slow tokenizer and has no character "
            "offsets. Load a fast one (one that has a tokenizer.json), as AutoTokenizer does."
        )


def _check_not_empty(argument: str, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
    for row, (text, tokens) in enumerate(zip(texts, ids, strict=True)):
        if not tokens:
            raise ValueError(f"{argument}: row {row} has no tokens: {text!r}")


def _spans(
    spans: Sequence[Mapping[str, Sequence[int] | None] | None] | None, prompts: Sequence[str]
) -> tuple[dict[str, tuple[int, int]], ...]:
    if spans is None:
        return tuple({} for _ in prompts)
    if len(spans) != len(prompts):
        raise ValueError(
            f"spans: {len(spans)} for {len(prompts)} prompts; there must be one mapping for each"
        )
    rows = []
    for row, (named, prompt) in enumerate(zip(spans, prompts, strict=True)):
        given = {name: span for name, span in (named or {}).items() if span is not None}
        for name, span in given.items():
            if len(span) != 2 or not 0 <= span[0] < span[1] <= len(prompt):
                raise ValueError(
                    f"spans: row {row}, {name!r} must be [start, end] with "
                    f"0 <= start < end <= {len(prompt)} (characters of {prompt!r}), got {span!r}"
                )
        rows.append({name: (index(span[0]), index(span[1])) for name, span in given.items()})
    return tuple(rows)
