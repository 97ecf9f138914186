"""Tokenized batches: truth comes from the tokenizer run on each text alone."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch.testing import assert_close
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from reft_interp.encoding import TokenizedBatch, tokenize
from reft_interp.positions import parse_positions
from reft_interp.showing import show

SENTENCES = [
    "The key near the doors is old.",
    "The keys near the door are old, and Tokyo is a city in the country of Japan.",
    "naïve café 🦜",
]
WORDS = ["the", "key", "near", "doors", "pea", "##cock", "is", "old", "a", "b", "c", ".", ","]


def byte_level_bpe(*, bos: bool = False, trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """As gpt2's: a token carries its leading space; `trim_offsets` leaves it out of the offsets."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=330,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SENTENCES * 3, trainer)
    byte_level = processors.ByteLevel(trim_offsets=trim_offsets)
    template = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)])
    raw.post_processor = processors.Sequence([byte_level, template]) if bos else byte_level
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>")


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's, its vocabulary written by hand: "peacock" is "pea", "##cock"."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: i for i, token in enumerate(specials + WORDS)}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bpe": functools.cache(byte_level_bpe),
    "bpe with BOS": functools.cache(lambda: byte_level_bpe(bos=True)),
    "bpe, trimmed offsets": functools.cache(lambda: byte_level_bpe(trim_offsets=True)),
    "word piece": functools.cache(word_piece),
}
tokenizers = st.sampled_from(sorted(TOKENIZERS)).map(lambda name: TOKENIZERS[name]())
sides = st.sampled_from(["left", "right"])
# Every text has letters, or a word piece tokenizer finds no token in an answer; every one has "ke".
texts = st.tuples(
    st.text("abcdeklnorsty ,.🦜é\n", max_size=12), st.sampled_from([" key", "The keys", "ake"])
).map("".join)


def pairs(offsets: np.ndarray) -> list[tuple[int, int]]:
    return [(start, end) for start, end in offsets.tolist()]


@settings(deadline=None)
@given(
    tokenizer=tokenizers,
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=4),
    with_answers=st.booleans(),
    side=sides,
)
def test_each_row_is_its_prompt_then_its_answer_as_the_tokenizer_makes_them_alone(
    tokenizer, rows, with_answers, side
):
    prompts, answers = map(list, zip(*rows, strict=True))
    batch = tokenize(tokenizer, prompts, answers if with_answers else None, padding_side=side)
    raw = tokenizer.backend_tokenizer
    alone = []
    for prompt, answer in rows:
        reply = raw.encode(answer, add_special_tokens=False) if with_answers else None
        alone.append((raw.encode(prompt), reply))
    width = max(len(p.ids) + (len(a.ids) if a else 0) for p, a in alone)

    assert batch.input_ids.shape == (len(batch), width) == (len(rows), width)
    for i, (prompt, answer) in enumerate(alone):
        start, end, stop = (
            int(column[i]) for column in (batch.prompt_start, batch.prompt_end, batch.answer_end)
        )
        answer_ids = answer.ids if answer else []
        assert batch.input_ids[i, start:end].tolist() == prompt.ids
        assert batch.input_ids[i, end:stop].tolist() == answer_ids
        assert (start == 0) if side == "right" else (stop == width)
        real = [start <= column < stop for column in range(width)]
        assert batch.attention_mask[i].bool().tolist() == real
        assert batch.labels[i, end:stop].tolist() == answer_ids
        assert batch.labels[i, :end].tolist() + batch.labels[i, stop:].tolist() == [-100] * (
            width - len(answer_ids)
        )
        assert pairs(batch.offsets[i]) == prompt.offsets
        assert pairs(batch.answer_offsets[i]) == (answer.offsets if answer else [])
        counted = batch.position_ids[i, start:stop].tolist()
        assert counted == list(range(stop - start))
        assert batch.position_ids[i].sum() == sum(counted)  # 0 on padding
    assert batch.prompts == tuple(prompts)
    assert batch.answers == (tuple(answers) if with_answers else ("",) * len(rows))


def test_a_planted_batch_has_the_known_ids():
    batch = tokenize(
        TOKENIZERS["word piece"](), ["the peacock", "key"], ["is", "is old"], padding_side="left"
    )
    # [CLS] the pea ##cock [SEP] is; [PAD] [CLS] key [SEP] is old
    assert batch.input_ids.tolist() == [[2, 4, 8, 9, 3, 10], [0, 2, 5, 3, 10, 11]]
    assert batch.labels.tolist() == [[-100] * 5 + [10], [-100] * 4 + [10, 11]]
    assert pairs(batch.offsets[0]) == [(0, 0), (0, 3), (4, 7), (7, 11), (0, 0)]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4]]


def test_padding_is_the_pad_token_or_else_the_eos_token_or_else_0():
    tokenizer = byte_level_bpe()
    tokenizer.add_special_tokens({"eos_token": "<|stop|>"})
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert tokenize(tokenizer, ["The key", "T"]).input_ids[1, -1] == stop != 0
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    pad = tokenizer.convert_tokens_to_ids("<|pad|>")
    assert tokenize(tokenizer, ["The key", "T"]).input_ids[1, -1] == pad != stop
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    assert tokenize(bare, ["The key", "T"]).input_ids[1, -1] == 0


def test_a_tokenizer_saved_with_truncation_and_padding_does_not_apply_them():
    tokenizer = byte_level_bpe()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    batch = tokenize(tokenizer, ["The key near the doors", "The"])
    expected = byte_level_bpe().backend_tokenizer.encode("The key near the doors").ids
    assert batch.input_ids[0].tolist() == expected
    assert len(expected) > 2


TEMPLATE = "{{ bos_token }}{% for m in messages %}user: {{ m['content'] }}\n{% endfor %}"


def chat_text(tokenizer: PreTrainedTokenizerFast, said: str) -> tuple[str, list[int]]:
    """A prompt of Llama 3's kind, which begins with the BOS token's text, and the template's own
    ids."""
    tokenizer.chat_template = TEMPLATE
    said_once: Any = [{"role": "user", "content": said}]
    text = tokenizer.apply_chat_template(said_once, tokenize=False)
    ids: Any = tokenizer.apply_chat_template(said_once, tokenize=True, return_dict=True)
    assert isinstance(text, str)
    return text, ids["input_ids"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_bos_that_a_chat_template_writes_is_the_only_one(side):
    tokenizer = tiny_tokenizer("llama")
    text, expected = chat_text(tokenizer, "The key")
    # The tokenizer by itself adds another.
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *expected]
    plain = "The keys to the old cabinet near the doors"
    start = text.index("key")
    batch = tokenize(
        tokenizer,
        [text, plain],
        [" is", " are"],
        spans=[{"noun": [start, start + 3]}, {"noun": [4, 8]}],
        padding_side=side,
    )
    first, end = int(batch.prompt_start[0]), int(batch.prompt_end[0])
    assert batch.input_ids[0, first:end].tolist() == expected
    assert (
        batch.input_ids[0, end : batch.answer_end[0]].tolist()
        == tokenizer(" is", add_special_tokens=False)["input_ids"]
    )
    assert batch.attention_mask[0].sum() == batch.answer_end[0] - first
    # What it stands for is in the text, and so is everything behind it.
    assert pairs(batch.offsets[0])[0] == (0, len("<s>"))
    marked = show(batch, parse_positions("noun")(batch), tokenizer)
    assert str(marked).splitlines()[0] == "0: <s>user: The⟦ key⟧\\n | is"
    # Beside it a plain prompt still has the tokenizer's own.
    row = batch.input_ids[1, batch.prompt_start[1] : batch.prompt_end[1]].tolist()
    assert row == tokenizer(plain)["input_ids"]
    assert row[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_bos_that_is_left_out_takes_no_room_of_a_prompt_that_is_cut(side):
    tokenizer = tiny_tokenizer("llama")
    tokenizer.truncation_side = side
    text, whole = chat_text(tokenizer, "The keys to the old cabinet")
    plain = "The book was bad"
    rows = (whole, tokenizer(plain)["input_ids"])
    for length in range(2, len(whole) + 3):
        batch = tokenize(tokenizer, [text, plain], max_length=length)
        for i, (bos, *rest) in enumerate(rows):
            kept = min(length - 1, len(rest))
            expected = rest[-kept:] if side == "left" else rest[:kept]
            assert batch.input_ids[i, : batch.prompt_end[i]].tolist() == [bos, *expected]
            assert len(batch.offsets[i]) == kept + 1


def test_two_bos_tokens_that_were_written_both_stay():
    for architecture, written in (("llama", 3), ("gpt2", 2)):
        tokenizer = tiny_tokenizer(architecture)
        batch = tokenize(tokenizer, ["<s><s>The key"])
        expected = tokenizer("<s><s>The key")["input_ids"]
        assert expected.count(tokenizer.bos_token_id) == written
        assert batch.input_ids[0].tolist() == expected[written - 2 :]


def test_spans_are_kept_by_name_and_absent_ones_are_left_out():
    batch = tokenize(
        TOKENIZERS["bpe"](),
        ["The key", "The doors"],
        spans=[{"subject": [4, 7], "object": None}, None],
    )
    assert batch.spans == ({"subject": (4, 7)}, {})
    assert tokenize(TOKENIZERS["bpe"](), ["The key"]).spans == ({},)


def test_what_a_token_stands_for_takes_eight_bytes():
    batch = tokenize(TOKENIZERS["bpe"](), ["The key " * 500, "The key"], [" is" * 300, " is"])
    for offsets, tokens in (
        (batch.offsets, batch.prompt_end - batch.prompt_start),
        (batch.answer_offsets, batch.answer_end - batch.prompt_end),
    ):
        assert [of_row.nbytes for of_row in offsets] == (8 * tokens).tolist()
        assert pairs(offsets[0])[-1][1] > 800


def test_to_moves_every_tensor_and_nothing_else():
    batch = tokenize(TOKENIZERS["bpe"](), ["The key"], [" is"], spans=[{"subject": [4, 7]}])
    moved = batch.to("meta")
    tensors = [v for v in vars(moved).values() if isinstance(v, torch.Tensor)]
    assert len(tensors) == 6
    assert all(t.is_meta for t in tensors)
    assert not batch.input_ids.is_meta
    assert (moved.prompts, moved.spans, moved.offsets) == (
        batch.prompts,
        batch.spans,
        batch.offsets,
    )


def test_a_batch_survives_pickling_as_a_data_loader_does_it():
    batch = tokenize(TOKENIZERS["bpe"](), ["The key"], [" is"], spans=[{"subject": [4, 7]}])
    copy: TokenizedBatch = pickle.loads(pickle.dumps(batch))
    assert_close(copy.input_ids, batch.input_ids)
    assert copy.spans == batch.spans


@pytest.mark.parametrize(
    ("prompts", "answers", "spans", "message"),
    [
        ([], None, None, "prompts must hold at least one prompt"),
        (["The key", ""], None, None, "prompts: row 1 is an empty string"),
        (["The key", "The"], [" is", ""], None, "answers: row 1 is an empty string"),
        (["The key"], [" "], None, "answers: row 0 has no tokens: ' '"),
        (["The key"], [" is", " are"], None, "answers: 2 for 1 prompts"),
        (["The key"], None, [], "spans: 0 for 1 prompts"),
        (["a", "The key"], None, [{}, {"s": [4, 8]}], r"row 1, 's' .* <= 7 .*'The key'.*\[4, 8\]"),
        (["The key"], None, [{"s": [4, 4]}], r"0 <= start < end .*got \[4, 4\]"),
        (["The key"], None, [{"s": [-1, 4]}], r"got \[-1, 4\]"),
        (["The key"], None, [{"s": [1, 2, 3]}], r"must be \[start, end\]"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_row(prompts, answers, spans, message):
    with pytest.raises(ValueError, match=message):
        tokenize(TOKENIZERS["word piece"](), prompts, answers, spans=spans)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(TypeError, match="ByT5Tokenizer is a slow tokenizer"):
        tokenize(ByT5Tokenizer(), ["The key"])


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompts": "The key"}, TypeError, r"prompts must be a list .*\['The key'\]\?"),
        ({"prompts": ["a"], "answers": " is"}, TypeError, "answers must be a list of strings"),
        ({"prompts": ["a", 3]}, TypeError, "prompts: row 1 must be a string, got 3"),
        ({"prompts": ["a"], "padding_side": "middle"}, ValueError, "padding_side .*'middle'"),
    ],
)
def test_a_wrong_type_is_refused_in_words(arguments, error, message):
    with pytest.raises(error, match=message):
        tokenize(TOKENIZERS["bpe"](), **arguments)
