"""Weights in 8 and 4 bits. What needs bitsandbytes is skipped without it; it runs on CPUs too."""

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM

from reft_interp.interventions import LoReFT
from reft_interp.models import load_model, weights, wrap_model
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.runtime.running import can_score_tokens
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import train

EIGHT = BitsAndBytesConfig(load_in_8bit=True)
FOUR = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
)
ROWS = [
    {"prompt": f"The {word} near the {other}", "answer": " are" if word.endswith("s") else " is"}
    for word in ("key", "keys", "door", "doors")
    for other in ("cars", "film")
]


@pytest.fixture
def folder(tmp_path, tiny_parts):
    model, tokenizer = tiny_parts("llama", hidden_size=64, intermediate_size=128)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def installed(monkeypatch):
    """As if bitsandbytes were installed."""
    monkeypatch.setattr(weights, "find_spec", lambda name: SimpleNamespace())


def test_without_bitsandbytes_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'reft-interp\[bitsandbytes\]'"):
        load_model(folder, device="cpu", quantization_config=EIGHT)


def test_the_configuration_reaches_transformers(folder, installed, monkeypatch):
    given: dict[str, Any] = {}
    plain = LlamaForCausalLM.from_pretrained

    def from_pretrained(name, **options):
        given.update({key: options.pop(key) for key in ("quantization_config", "device_map")})
        return plain(name, **options)

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", from_pretrained)
    load_model(folder, device="cpu", quantization_config=EIGHT, dtype="bfloat16")
    assert given == {"quantization_config": EIGHT, "device_map": {"": "cpu"}}


def test_what_cannot_be_quantized_is_refused(tmp_path, installed):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"model.gguf are quantized already"):
        load_model(tmp_path / "model.gguf", quantization_config=EIGHT)


@pytest.fixture
def bitsandbytes():
    if find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes: pip install 'reft-interp[bitsandbytes]'")


def gradients(model, engine) -> list[torch.Tensor]:
    loreft = LoReFT(start=Subspace.random(64, 2, seed=1))
    intervened = IntervenedModel(model, Placement(loreft, Site("resid_post", 0), "l1"))
    inputs = PreparedRows(intervened, ROWS, engine=engine).inputs(range(len(ROWS)))
    intervened(**inputs)["loss"].backward()
    return [p.grad for p in intervened.parameters() if p.grad is not None]


# Of the largest gradient. In 8 bits activations are rounded to 8 bits too.
@pytest.mark.filterwarnings("ignore:MatMul8bitLt", "ignore:.*_check_is_size")
@pytest.mark.parametrize("engine", ["auto", "full"])
@pytest.mark.parametrize(("config", "tolerance"), [(EIGHT, 0.1), (FOUR, 0.01)], ids=["8", "4"])
def test_gradients_are_those_of_the_weights_that_it_stands_for(
    bitsandbytes, folder, config, tolerance, engine
):
    quantized = load_model(folder, device="cpu", quantization_config=config)
    assert not can_score_tokens(quantized) or quantized.unembed.weight.is_floating_point()
    plain = LlamaForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}, dtype=torch.float32
    ).dequantize()
    reference = wrap_model(plain.float(), AutoTokenizer.from_pretrained(folder), name="plain")
    found, expected = gradients(quantized, engine), gradients(reference, engine)
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, atol=tolerance * other.abs().max().item(), rtol=0)


@pytest.mark.filterwarnings("ignore:MatMul8bitLt", "ignore:.*_check_is_size")
@pytest.mark.parametrize("config", [EIGHT, FOUR], ids=["8", "4"])
def test_interventions_train_in_float32(bitsandbytes, folder, config):
    model = load_model(folder, device="cpu", quantization_config=config)
    intervened = IntervenedModel(model, Placement(LoReFT(2), Site("resid_post", 0), "l1"))
    before = intervened.loss(ROWS).item()
    train(intervened, ROWS, epochs=10, learning_rate=3e-2, progress=False)
    assert intervened.loss(ROWS).item() < before - 0.5
    assert {p.dtype for p in intervened.parameters()} == {torch.float32}
