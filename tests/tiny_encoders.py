"""Tiny random BERT and RoBERTa with their own tokenizers, which know how they encode pairs."""

from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
)

WORDS = "the key keys film films door doors is are was good bad old new near on table ?".split()
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    # Larger than the usual 0.02, with which token types would hardly show.
    "initializer_range": 0.1,
}


def bert_tokenizer() -> PreTrainedTokenizerBase:
    """WordPiece over `WORDS`."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(vocab={word: i for i, word in enumerate(specials + WORDS)})


def roberta_tokenizer() -> PreTrainedTokenizerBase:
    """Bytes without merges."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(specials + letters)}
    return RobertaTokenizer(vocab=vocabulary, merges=[])


TOKENIZERS = {"bert": bert_tokenizer, "roberta": roberta_tokenizer}


def tiny_encoder(
    architecture: str, *, seed: int = 0, **overrides: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random encoder of two layers that is not hooked yet, and its tokenizer.

    Args:
        architecture: "bert" or "roberta".
        seed: of the weights.
        **overrides: fields of the transformers configuration.
    """
    tokenizer = TOKENIZERS[architecture]()
    settings = {**_SHAPE, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if architecture == "roberta":
        # A byte is a token, and positions begin after the padding's.
        settings |= {"max_position_embeddings": 130, "type_vocab_size": 1}
    settings |= overrides
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "bert":
            return BertForMaskedLM(BertConfig(**settings)).eval(), tokenizer
        return RobertaForMaskedLM(RobertaConfig(**settings)).eval(), tokenizer
