import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reft_interp.models import fingerprint, identify, wrap_model


def test_a_model_knows_what_it_is(tiny_parts):
    hf_model, tokenizer = tiny_parts("qwen2")
    model = wrap_model(hf_model, tokenizer, name="org/tiny", revision="abc123")
    identity = identify(model)
    assert (identity.name, identity.revision) == ("org/tiny", "abc123")
    assert (identity.architecture, identity.n_layers, identity.d_model) == (
        "Qwen2ForCausalLM",
        2,
        32,
    )
    assert identity.dtype == "float32"
    assert str(identity) == ("org/tiny at abc123 (Qwen2ForCausalLM, 2 layers, d_model 32, float32)")
    assert identify(copy.deepcopy(model)) == identity


def test_a_model_without_a_revision_says_none(tiny):
    identity = identify(tiny("gpt2"))
    assert identity.revision is None
    assert str(identity).startswith("tiny-gpt2 (GPT2LMHeadModel")


SCRIPT = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(2)
from tiny_models import tiny_parts
from reft_interp.models import fingerprint, wrap_model
print(fingerprint(wrap_model(*tiny_parts("gpt2"), name="another name")))
"""


def test_the_same_weights_have_the_same_fingerprint_in_another_process(tiny):
    tests = Path(__file__).parents[1]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tests)], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == fingerprint(tiny("gpt2"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_weights_have_another_fingerprint(make_tiny, dtype):
    model = make_tiny("llama").to(dtype)
    whole = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == whole
    found = {whole, fingerprint(make_tiny("llama", seed=1).to(dtype))}
    for parameter in model.original_model.parameters():
        with torch.no_grad():
            parameter.mul_(1.5)
        found.add(fingerprint(model))
    assert len(found) == 2 + len(list(model.original_model.parameters()))


def test_each_column_of_a_large_matrix_counts(make_tiny):
    model = make_tiny("llama")
    matrix = max(model.original_model.parameters(), key=torch.numel)
    assert matrix.numel() > 4 * 1024
    found = {fingerprint(model)}
    for column in range(matrix.shape[1]):
        with torch.no_grad():
            matrix[:, column] += 1
        found.add(fingerprint(model))
    assert len(found) == 1 + matrix.shape[1]
