"""What goes on from a prompt: truth is the tokenizer run on both as one text."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoding import byte_level_bpe, word_piece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reft_interp.continuing import continuation_texts, continuation_tokens
from reft_interp.encoding import tokenize
from reft_interp.evaluation.choices import choice_tokens
from reft_interp.interventions import LoReFT
from reft_interp.models import wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site

SENTENCES = [
    "The key near the doors is old.",
    "The keys near the door are old, and Tokyo is a city.\nThe answer: true",
    "the correct answer is false: 12 is not 3",
] * 3


def sentence_piece(kind: str) -> PreTrainedTokenizerFast:
    """As Llama 2's, whose normalizer puts a blank in front and which splits nothing ("prepend"); as
    transformers builds it now ("metaspace"); and as T5's ("unigram")."""
    raw = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    options = {"vocab_size": 120, "special_tokens": ["<unk>", "<s>"], "show_progress": False}
    alphabet = ["\n", " ", "=", ":", "."]
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(unk_token="<unk>", initial_alphabet=alphabet, **options)
    else:
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    raw.train_from_iterator(SENTENCES, trainer)
    if kind == "prepend":
        raw.pre_tokenizer = None  # pyright: ignore[reportAttributeAccessIssue]
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>")


def prefixed_bpe() -> PreTrainedTokenizerFast:
    """Byte-level, with a blank in front of every text."""
    tokenizer = byte_level_bpe()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


BLANKS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    **{
        kind: functools.cache(functools.partial(sentence_piece, kind))
        for kind in ("prepend", "metaspace", "unigram")
    },
    "byte level": functools.cache(prefixed_bpe),
}
OTHERS = {"bpe": functools.cache(byte_level_bpe), "word piece": functools.cache(word_piece)}
texts = st.text("akeysTrun o. :\n1", min_size=1, max_size=10)


@settings(deadline=None)
@given(kind=st.sampled_from(sorted(BLANKS)), prompt=texts, text=texts)
def test_prompt_and_continuation_are_one_text(kind, prompt, text):
    """Wherever the prompt's tokens begin the text of both: elsewhere no split can give it."""
    tokenizer = BLANKS[kind]()
    before, both = (
        tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, prompt + text)
    )
    [ids], [offsets] = continuation_tokens(tokenizer, [text])
    if before and both[: len(before)] == before and len(both) > len(before):
        assert before + ids == both
    assert all(0 <= start <= end <= len(text) for start, end in offsets)


@pytest.mark.parametrize("kind", sorted(BLANKS))
def test_no_blank_is_added_to_an_answer(kind):
    tokenizer = BLANKS[kind]()
    for prompt, answer in (("The key near the doors", " is"), ("The answer:\n", "true")):
        batch = tokenize(tokenizer, [prompt], [answer])
        assert batch.input_ids[0].tolist() == tokenizer(prompt + answer)["input_ids"]
        assert batch.answer_offsets[0][-1][1] == len(answer)
        new = batch.input_ids[0, int(batch.prompt_end[0]) :].tolist()
        assert continuation_texts(tokenizer, [new, []]) == [answer, ""]
    alone = tokenizer("true", add_special_tokens=False)["input_ids"]
    assert continuation_tokens(tokenizer, ["true"])[0] != [alone]


@settings(deadline=None)
@given(text=texts, name=st.sampled_from(sorted(OTHERS)))
def test_other_tokenizers_make_what_they_make_alone(text, name):
    tokenizer = OTHERS[name]()
    alone = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert continuation_tokens(tokenizer, [text]) == (
        [alone["input_ids"]],
        [alone["offset_mapping"]],
    )
    ids = alone["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert continuation_texts(tokenizer, [ids]) == [decoded]


def test_choices_are_what_answers_are(no_type_checks):
    tokenizer = BLANKS["prepend"]()
    batch = tokenize(tokenizer, ["The key", "a\n"], [" is", "true"])
    expected = tuple(tuple(i for i in row.tolist() if i != -100) for row in batch.labels)
    model: Any = SimpleNamespace(tokenizer=tokenizer)  # nothing else of it is asked
    assert choice_tokens(model, [{"choices": [" is", "true"]}]) == [expected]


def test_a_loss_over_choices_compares_the_tokens_that_scoring_compares(tiny_parts):
    model = wrap_model(tiny_parts("llama")[0], sentence_piece("prepend"), name="tiny")
    row = {"prompt": "The key near the doors", "answer": " is", "choices": [" is", " are"]}
    edit = Placement(LoReFT(rank=1), Site("resid_post", 0), "last")
    inputs = PreparedRows(IntervenedModel(model, edit), [row], over="choices").inputs([0])
    of_scoring = [ids for (ids,) in choice_tokens(model, [row])[0]]
    assert inputs["choices"].tolist() == [of_scoring]
    assert inputs["labels"][0, -1] == of_scoring[0]
