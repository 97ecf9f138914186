"""Pairs of texts: truth is what the encoder's own tokenizer makes of them."""

import pytest
import torch
from tiny_encoders import TOKENIZERS, tiny_encoder
from torch.testing import assert_close

from reft_interp.encoding import TokenizedBatch, tokenize
from reft_interp.interventions import VectorAddition
from reft_interp.positions import parse_positions, substring
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.batching import by_length, encode
from reft_interp.runtime.running import run
from reft_interp.sites import Site

FIRST = ["the key is old", "the film", "was the film good ?"]
SECOND = ["is the key new ?", "the doors near the table are old and bad", "bad"]
ROWS = [{"prompt": a, "text_pair": b} for a, b in zip(FIRST, SECOND, strict=True)]
ENCODERS = pytest.mark.parametrize("architecture", list(TOKENIZERS))


def held(batch: TokenizedBatch, row: int, columns: list[int], tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens(batch.input_ids[row, columns].tolist())


@ENCODERS
@pytest.mark.parametrize("max_length", [None, 9])
def test_ids_masks_and_types_are_those_of_the_tokenizer(architecture, max_length):
    tokenizer = TOKENIZERS[architecture]()
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    expected = tokenizer(FIRST, SECOND, padding=True, return_tensors="pt", **cut)
    batch = tokenize(tokenizer, FIRST, text_pairs=SECOND, max_length=max_length)
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert torch.equal(batch.attention_mask, expected["attention_mask"])
    assert batch.prompt_end.tolist() == expected["attention_mask"].sum(1).tolist()
    assert (batch.input_ids.shape[1] == 9) == (max_length == 9)
    if architecture == "bert":
        assert batch.token_type_ids is not None and batch.token_type_ids.any()
        assert torch.equal(batch.token_type_ids, expected["token_type_ids"])
    else:
        assert batch.token_type_ids is None and "token_type_ids" not in expected


@ENCODERS
def test_an_encoder_reads_a_pair_as_transformers_own_model_does(make_encoder, architecture):
    own, tokenizer = tiny_encoder(architecture)
    inputs = tokenizer(FIRST, SECOND, padding=True, return_tensors="pt")
    expected = own(**inputs).logits
    model = make_encoder(architecture)
    real = inputs["attention_mask"].bool()
    assert_close(run(model, encode(model, ROWS))[real], expected[real], atol=1e-5, rtol=0)
    # The check can fail: as one text, or as one type, they are read otherwise.
    if architecture == "bert":
        del inputs["token_type_ids"]
        assert (own(**inputs).logits[real] - expected[real]).abs().max() > 0.01


def test_rows_and_batches_of_pairs_are_taken_apart_and_put_together(make_encoder):
    model = make_encoder("bert")
    whole = encode(model, ROWS)
    assert whole.token_type_ids is not None
    one = whole.take([2])
    alone = encode(model, ROWS[2:])
    assert one.token_type_ids is not None and alone.token_type_ids is not None
    assert torch.equal(one.token_type_ids, alone.token_type_ids)
    single = encode(model, ["the key"])
    joined = TokenizedBatch.concatenate([single, whole.take([0]), one])
    assert joined.token_type_ids is not None
    assert not joined.token_type_ids[0].any()
    assert torch.equal(
        joined.token_type_ids[1:], whole.token_type_ids[[0, 2], : joined.input_ids.shape[1]]
    )
    # By the length of both texts: row 1 has the shortest first text and the longest second.
    assert list(by_length(ROWS, 1)) == [[2], [0], [1]]


@ENCODERS
def test_selectors_and_spans_find_tokens_of_both_texts(architecture):
    tokenizer = TOKENIZERS[architecture]()
    text = f"{FIRST[0]}\n{SECOND[0]}"
    second = text.index("new")
    spans = [{"asked": [second, second + 3], "told": [4, 7]}]
    batch = tokenize(tokenizer, FIRST[:1], text_pairs=SECOND[:1], spans=spans)
    assert batch.prompts == (text,)

    def said(on) -> str:
        at = parse_positions(on)(batch).columns.tolist()
        return "".join(held(batch, 0, at, tokenizer))

    w = architecture == "bert"
    assert said("told") == ("key" if w else "y") and said("asked") == ("new" if w else "w")
    assert said(substring("new", all=True)) == "new"
    assert said("f1") == tokenizer.cls_token and said("l1") == tokenizer.sep_token


def test_shows_both_texts_with_their_special_tokens(make_encoder):
    placed = Placement(VectorAddition(torch.ones(32)), Site("resid_post", 0), "f1+l2")
    shown = str(IntervenedModel(make_encoder("bert"), placed).show(ROWS[:1]))
    assert shown == r"0: ⟦[CLS]⟧the key is old[SEP]\nis the key new ⟦?⟧⟦[SEP]⟧"


def test_mistakes_in_pairs_are_told(make_encoder, tiny):
    with pytest.raises(ValueError, match="row 1 has a 'text_pair', and tiny-llama is a decoder"):
        encode(tiny("llama"), ["The key", ROWS[0]])
    model = make_encoder("bert")
    with pytest.raises(ValueError, match="row 1 has no 'text_pair', but others do"):
        encode(model, [ROWS[0], "the key"])
    with pytest.raises(ValueError, match="text_pairs: row 0 is an empty string"):
        encode(model, [{"prompt": "the", "text_pair": ""}])
    with pytest.raises(ValueError, match=r"must be more than the 3 special tokens.*got 3"):
        encode(model, ROWS, max_length=3)
    with pytest.raises(ValueError, match="text_pairs: 1 for 2 prompts"):
        tokenize(model.tokenizer, ["the", "key"], text_pairs=["is"])
