"""A tiny model that is taught agreement, so that what it knows is known."""

import random
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from type_checks import without_type_checks

from reft_interp.models import wrap_model
from reft_interp.tasks.agreement_phrases import TEMPLATES, Lexicon, Template
from reft_interp.tasks.nouns import NOUNS, NUMBERS, Noun
from reft_interp.tasks.number_agreement import NumberAgreement

FEW_NOUNS: tuple[Noun, ...] = NOUNS[::6]
"""Few enough to be learned in seconds, and some of each kind."""
FEW_TEMPLATES: tuple[Template, ...] = tuple(
    template for verb in (" is", " was") for template in TEMPLATES if template.choices[0] == verb
)


@pytest.fixture(scope="session")
def agreement() -> NumberAgreement:
    """The task on the few nouns and templates that the taught model knows."""
    return NumberAgreement(nouns=FEW_NOUNS, templates=FEW_TEMPLATES)


@pytest.fixture(scope="session")
def taught() -> Callable[[], TransformerBridge]:
    """`taught()`: a fresh model that gets agreement right with all of the few nouns."""
    words = sorted(
        {form for noun in FEW_NOUNS for form in (noun.singular, noun.plural)}
        | {word for template in FEW_TEMPLATES for word in template.text.split()}
        | {choice.strip() for template in FEW_TEMPLATES for choice in template.choices}
        | {"<unk>", "<pad>"}
    )
    words_only = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_only, unk_token="<unk>", pad_token="<pad>"
    )
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(words),
        bos_token_id=None,
        eos_token_id=None,
    )
    config.architectures = ["LlamaForCausalLM"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        with without_type_checks():
            _teach(model, tokenizer)
    state = model.state_dict()

    def fresh() -> TransformerBridge:
        copy = LlamaForCausalLM(config).eval()
        copy.load_state_dict(state)
        return wrap_model(copy, tokenizer, name="taught")

    return fresh


def _teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    lexicon = Lexicon(FEW_NOUNS, FEW_TEMPLATES)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    learned = 0
    # As long as it takes: how long that is depends on the machine's rounding.
    for _ in range(3000):
        template = rng.choice(FEW_TEMPLATES)
        phrases = [
            lexicon.phrase(rng, number=NUMBERS[i % 2], other_attractor=i % 4 > 1, template=template)
            for i in range(64)
        ]
        batch = tokenizer([phrase.text for phrase in phrases], return_tensors="pt")
        answers = tokenizer([phrase.answer for phrase in phrases], return_tensors="pt")
        logits = model(input_ids=batch["input_ids"]).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, answers["input_ids"][:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learned = learned + 1 if loss.item() < 0.02 else 0
        if learned == 2 * len(FEW_TEMPLATES):
            break
    else:
        pytest.fail("the tiny model did not learn agreement")
    model.eval()
