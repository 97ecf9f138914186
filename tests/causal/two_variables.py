"""A model in which two binary variables were put by hand, so that answers are known.

The last token's embedding writes each variable along a direction of its own, beside noise that is
that token's own; the output layer reads the two directions and answers with one of four tokens. The
blocks in between add little.
"""

import random

import torch
from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal import Counterfactuals
from reft_interp.models import wrap_model
from reft_interp.sites import Site
from reft_interp.subspace import Subspace

PLANTED = Subspace.random(32, 2, seed=42)
FIRST, SECOND = PLANTED.basis
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWX"
ANSWERS = {(-1, -1): "0", (-1, 1): "1", (1, -1): "2", (1, 1): "3"}
"""What the model says for the values of the two variables."""
SITE = Site("resid_post", 0)


def values_of(letter: str) -> tuple[int, int]:
    return list(ANSWERS)[LETTERS.index(letter) % 4]


def planted_model(tiny_parts) -> TransformerBridge:
    """The model, made of a random tiny llama."""
    hf_model, tokenizer = tiny_parts("llama")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in hf_model.model.layers:
            block.self_attn.o_proj.weight.mul_(0.1)
            block.mlp.down_proj.weight.mul_(0.1)
        for letter in LETTERS:
            a, b = values_of(letter)
            own = 0.2 * torch.randn(32, generator=generator)
            own -= (FIRST @ own) * FIRST + (SECOND @ own) * SECOND
            token = tokenizer(letter)["input_ids"][-1]
            hf_model.model.embed_tokens.weight[token] = a * FIRST + b * SECOND + own
        hf_model.lm_head.weight.mul_(0.1)
        for (a, b), answer in ANSWERS.items():
            (token,) = tokenizer(answer, add_special_tokens=False)["input_ids"]
            # Not larger: with a wide margin the loss is 0 long before the direction is found.
            hf_model.lm_head.weight[token] = 0.8 * (a * FIRST + b * SECOND)
    return wrap_model(hf_model, tokenizer, name="tiny-planted")


def both(base: str, first: str, second: str) -> str:
    """What the base should say with each variable from a source of its own."""
    return ANSWERS[values_of(first)[0], values_of(second)[1]]


def first_alone(base: str, first: str, second: str) -> str:
    """What it should say if the second were none of its business."""
    return both(base, first, base)


def joint_pairs(label=both, count: int = 96) -> Counterfactuals:
    """Each variable from a source of its own, of other letters in test than in train."""
    chosen = random.Random(0)
    splits = []
    for letters, size in ((LETTERS[:16], count), (LETTERS[16:], 64)):
        triples = []
        while len(triples) < size:
            base, first, second = chosen.sample(letters, 3)
            triple = base, first, second
            if triple not in triples:
                triples.append(triple)
        splits.append(
            [
                {
                    "base": base,
                    "base_answer": ANSWERS[values_of(base)],
                    "sources": {
                        name: {"prompt": prompt, "spans": None}
                        for name, prompt in (("first", first), ("second", second))
                    },
                    "label": label(base, first, second),
                }
                for base, first, second in triples
            ]
        )
    train, test = splits
    return Counterfactuals.from_rows(train, test, "first and second")


def triples(of: Counterfactuals) -> list[tuple[str, str, str]]:
    return [
        (row["base"], row["sources"]["first"]["prompt"], row["sources"]["second"]["prompt"])
        for row in of.test.to_list()
    ]
