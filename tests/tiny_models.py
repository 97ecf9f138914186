"""Tiny random models of each architecture, and tokenizers that add what the real ones add."""

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    # Larger than the usual 0.02, with which attention would be almost uniform, and a wrong
    # position would hardly show.
    "initializer_range": 0.1,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "initializer_range": 0.1,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _SHAPE),
    "llama": ("LlamaForCausalLM", _GROUPED),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "gemma2": ("Gemma2ForCausalLM", _GROUPED | {"head_dim": 8}),
    "bert": ("BertForMaskedLM", _SHAPE),
    "mixtral": ("MixtralForCausalLM", _GROUPED | {"num_local_experts": 4}),
}
CAUSAL = [name for name in ARCHITECTURES if name != "bert"]

_SENTENCES = [
    "The key near the doors is on the table.",
    "The keys to the old cabinet are in the drawer.",
    "The author near the cars was reading a long book.",
    "When Mary and John went to the store, John gave a drink to Mary.",
    "Paris is a city in the country of France, and Tokyo is a city in the country of Japan.",
    "Is twelve more than three? Yes, and seven is less than nine.",
    "The film was good, and I would see it again. No, the book was bad.",
]


def tiny_tokenizer(architecture: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that adds the special tokens that the real one would add.

    None on gpt2, gpt_neox and qwen2 (which has no BOS at all), BOS in front on llama, gemma2 and
    mixtral, [CLS] and [SEP] around on bert.
    """
    if architecture == "bert":
        named = {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        }
    else:
        named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        if architecture == "qwen2":
            del named["bos_token"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(named.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if architecture in ("llama", "gemma2", "mixtral"):
        template, special = "<s> $A", ["<s>"]
    elif architecture == "bert":
        template, special = "[CLS] $A [SEP]", ["[CLS]", "[SEP]"]
    else:
        template, special = "$A", []
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=template, special_tokens=[(s, tokenizer.token_to_id(s)) for s in special]
            ),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def tiny_parts(
    architecture: str, *, seed: int = 0, **overrides: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random transformers model of two layers, and a tokenizer for it.

    Args:
        architecture: one of `ARCHITECTURES`.
        seed: of the weights.
        **overrides: fields of the transformers configuration.
    """
    class_name, settings = ARCHITECTURES[architecture]
    tokenizer = tiny_tokenizer(architecture)
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(
        **{
            **settings,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **overrides,
        }
    )
    config.architectures = [class_name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).eval(), tokenizer


def tiny_that_sees(class_name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random model of two layers that reads images too, whose configuration has a part for text.

    Args:
        class_name: "Gemma3ForConditionalGeneration" or "LlavaForConditionalGeneration".
    """
    gemma = class_name.startswith("Gemma3")
    tokenizer = tiny_tokenizer("gemma2" if gemma else "llama")
    tokens: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    if gemma:
        config: Any = transformers.Gemma3Config(
            text_config=_GROUPED | tokens | {"head_dim": 8},
            vision_config=vision,
            mm_tokens_per_image=4,
        )
    else:
        config = transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**_GROUPED, **tokens),
            vision_config=transformers.CLIPVisionConfig(**vision),
            image_token_index=0,
        )
    config.architectures = [class_name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, class_name)(config).eval(), tokenizer
