"""Texts that go on from another, as token ids and back.

Many tokenizers put a blank in front of every text (Llama 2's, Mistral's, T5's), also in front of
one that goes on from another: " is" by itself becomes "▁", "▁is", and "is" becomes "▁is". Behind
a character that no token shares with what follows, both are what they are behind a prompt.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

Encoded = tuple[list[int], list[tuple[int, int]]]
"""Token ids, and for each the characters `[start, end)` that it stands for."""

_ANCHORS = ("\n", "=", ":", ".", "0")

_known: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, ...]]" = WeakKeyDictionary()


def continuation_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """What texts become behind a prompt, without special tokens.

    Prompt and continuation together are what the tokenizer makes of both as one text, wherever
    the prompt's own tokens begin that. Most tokenizers make the same of a continuation by itself.

    Args:
        tokenizer: of the model.
        texts: continuations, with their leading blanks.

    Returns:
        Token ids, and for each the characters `[start, end)` that it stands for.
    """
    found: dict[int, Encoded] = {}
    for anchor in _anchors_of(tokenizer):
        left = [i for i in range(len(texts)) if i not in found]
        if not left:
            break
        [before] = _encode(tokenizer, [anchor])
        behind = _encode(tokenizer, [anchor + texts[i] for i in left])
        for i, encoded in zip(left, behind, strict=True):
            rest = _behind(before, encoded, len(anchor))
            if rest is not None and rest[0]:
                found[i] = rest
    left = [i for i in range(len(texts)) if i not in found]
    if left:  # with most tokenizers all of them
        found |= zip(left, _encode(tokenizer, [texts[i] for i in left]), strict=True)
    rows = [found[i] for i in range(len(texts))]
    return [ids for ids, _ in rows], [offsets for _, offsets in rows]


def continuation_texts(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[Sequence[int]]
) -> list[str]:
    """The texts of tokens that follow a prompt, without special tokens.

    Where a tokenizer would take the first blank for the one that it puts in front of every text,
    it is kept.

    Args:
        tokenizer: of the model.
        tokens: those of each text.
    """
    decoded = tokenizer.batch_decode([list(ids) for ids in tokens], skip_special_tokens=True)
    texts = [str(text) for text in decoded]
    anchors = _anchors_of(tokenizer)
    if not anchors:
        return texts
    [(before, _)] = _encode(tokenizer, [anchors[0]])
    start = str(tokenizer.decode(before))
    behind = tokenizer.batch_decode([before + list(i) for i in tokens], skip_special_tokens=True)
    return [
        whole[len(start) :] if whole.startswith(start) else text
        for whole, text in zip(behind, texts, strict=True)
    ]


def _anchors_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The characters that a text is tokenized behind; none where it makes no difference."""
    if tokenizer not in _known:
        _known[tokenizer] = _find_anchors(tokenizer) if tokenizer.is_fast else ()
    return _known[tokenizer]


def _find_anchors(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    [alone] = _encode(tokenizer, ["a"])
    usable, differs = [], False
    for anchor in _ANCHORS:
        before, behind, apart = _encode(tokenizer, [anchor, f"{anchor}a", f"{anchor} a"])
        rest = _behind(before, behind, len(anchor))
        if rest is not None and _behind(before, apart, len(anchor)) is not None:
            usable.append(anchor)
            differs = differs or rest[0] != alone[0]
    return tuple(usable) if differs else ()


def _behind(before: Encoded, encoded: Encoded, anchor: int) -> Encoded | None:
    """What follows the anchor's tokens; None where a token belongs to both."""
    ids, offsets = encoded
    first = len(before[0])
    if not first or ids[:first] != before[0]:
        return None
    if any(end > anchor for _, end in offsets[:first]) or any(
        start < anchor for start, _ in offsets[first:]
    ):
        return None
    return ids[first:], [(start - anchor, end - anchor) for start, end in offsets[first:]]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoded]:
    made: dict[str, Any] = dict(
        tokenizer(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=bool(tokenizer.is_fast),
            verbose=False,
        )
    )
    offsets = made.get("offset_mapping", [[] for _ in texts])
    return list(zip(made["input_ids"], offsets, strict=True))
