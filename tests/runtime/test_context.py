"""How much a model can read, and which rows are more than that."""

import pytest
import torch

from reft_interp.runtime.batching import encode
from reft_interp.runtime.context import check_fit, context_length


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_an_encoder_reads_as_many_tokens_as_it_says_and_no_more(make_encoder, architecture):
    model = make_encoder(architecture)
    # RoBERTa's first positions are those of the padding and of what stands before it.
    most = {"bert": 40, "roberta": 130 - 2}[architecture]
    assert context_length(model) == most
    assert model(torch.full((1, most), 5)).shape[1] == most
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, most + 1), 5))
    prompt = {"bert": "key ", "roberta": "k"}[architecture]
    assert encode(model, [prompt * (most - 2)]).input_ids.shape == (1, most)
    with pytest.raises(ValueError, match=f"row 0 has {most + 1} tokens, and tiny-{architecture}"):
        encode(model, [prompt * (most - 1)])


def test_pairs_of_texts_count_together(make_encoder):
    model = make_encoder("bert")
    # [CLS], the first text, [SEP], the second, [SEP].
    rows = [{"prompt": "key " * 20, "text_pair": "old " * 17}]
    assert encode(model, rows).input_ids.shape[1] == 40
    check_fit(model, rows, "rows")
    longer = [*rows, {"prompt": "key " * 20, "text_pair": "old " * 18}]
    with pytest.raises(ValueError, match="some: row 1 has 41 tokens, and tiny-bert can read 40"):
        check_fit(model, longer, "some")
