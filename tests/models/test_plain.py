"""A plain model computes what the bridge computes, and has transformers' own modules."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.pytorch_utils import Conv1D

from reft_interp.interop.plain_finetuning import BitFit
from reft_interp.models import identify, wrap_model
from reft_interp.models.plain import plain_copy
from reft_interp.runtime.batching import encode

DROPOUT = {"bert": "hidden_dropout_prob", "gpt2": "resid_pdrop"}
PROMPTS = ["The key near the doors is", "Paris is a city in", "No"]


@pytest.mark.parametrize(
    "architecture", ["gpt2", "gpt_neox", "llama", "qwen2", "gemma2", "bert", "mixtral"]
)
def test_it_computes_what_the_bridge_computes(tiny, architecture):
    bridge = tiny(architecture)
    plain = plain_copy(bridge)
    batch = encode(bridge, PROMPTS)
    with torch.no_grad():
        expected = bridge(batch.input_ids, attention_mask=batch.attention_mask)
        found = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    shown = batch.attention_mask.bool()
    assert (found - expected)[shown].abs().max() < 1e-5
    assert expected[shown].std() > 0.1
    assert not any("bridge" in type(m).__module__ for m in plain.modules())


def test_it_takes_no_memory_and_requires_no_gradient(tiny):
    bridge = tiny("llama")
    plain = plain_copy(bridge)
    held = {p.data_ptr() for p in bridge.original_model.parameters()}
    assert {p.data_ptr() for p in plain.parameters()} <= held
    assert not any(p.requires_grad for p in plain.parameters())
    assert identify(bridge).n_layers == len(plain.model.layers)


def test_there_is_none_of_quantized_weights(tiny_parts):
    """Marked as transformers marks them; bitsandbytes need not be there."""
    told = r"model: the weights of half are quantized .* load it without"
    marked, packed = (wrap_model(*tiny_parts("gpt2"), name="half") for _ in range(2))
    vars(marked.original_model)["hf_quantizer"] = SimpleNamespace()
    linear = next(m for m in packed.original_model.modules() if isinstance(m, Conv1D))
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    for bridge in (marked, packed):
        with pytest.raises(ValueError, match=told):
            plain_copy(bridge)
        with pytest.raises(ValueError, match=told):
            BitFit().check_model(bridge)
    BitFit().check_model(wrap_model(*tiny_parts("gpt2"), name="whole"))


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_it_has_no_dropout(tiny, architecture):
    bridge = tiny(architecture)
    batch = encode(bridge, PROMPTS)
    with torch.random.fork_rng():
        plain = plain_copy(bridge).train()
        one, other = (plain(input_ids=batch.input_ids).logits for _ in range(2))
    assert torch.equal(one, other)
    # The bridge's own is left as it was.
    assert getattr(bridge.original_model.config, DROPOUT[architecture]) > 0


def test_it_generates_by_the_settings_that_were_loaded_with_the_model(tiny):
    bridge = tiny("llama")
    hooked = bridge.original_model
    batch = encode(bridge, PROMPTS[:1])
    loaded = hooked.generation_config
    ends = list(range(hooked.config.vocab_size))  # whatever comes first is the end
    hooked.generation_config = GenerationConfig(eos_token_id=ends, repetition_penalty=1.3)
    try:
        plain: Any = plain_copy(bridge)
    finally:
        hooked.generation_config = loaded
    assert plain.generation_config.repetition_penalty == 1.3
    said = plain.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=5,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    assert said.shape[1] == batch.input_ids.shape[1] + 1
    plain.generation_config.repetition_penalty = 2.0
    assert hooked.generation_config.repetition_penalty != 2.0
