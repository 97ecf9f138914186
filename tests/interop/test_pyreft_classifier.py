"""pyreft's classifiers on GLUE. Truth: transformers' own RoBERTa with a classification head, its
blocks hooked with pyreft's formula."""

from typing import Any

import numpy as np
import pytest
import torch
from test_pyreft import RANK, WIDTH, formula, saved, write
from tiny_encoders import tiny_encoder
from torch.testing import assert_close
from transformers import RobertaForSequenceClassification

from reft_interp.interop import load_pyreft, load_pyreft_classifier
from reft_interp.models import wrap_model

ROWS = [{"text_a": "the key is good"}, {"text_a": "films", "text_b": "the doors are near"}]
KIND = "LoreftIntervention"


@pytest.fixture
def roberta() -> Any:
    return wrap_model(*tiny_encoder("roberta"), name="tiny-roberta")


def head_of(outputs: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "classifier.dense.weight": torch.randn(WIDTH, WIDTH) / 6,
        "classifier.dense.bias": torch.randn(WIDTH),
        "classifier.out_proj.weight": torch.randn(outputs, WIDTH),
        "classifier.out_proj.bias": torch.randn(outputs),
    }


@pytest.mark.parametrize("outputs", [1, 3])
def test_it_gives_what_transformers_gives_with_the_block_edited(tmp_path, roberta, outputs):
    tensors, head = saved(KIND), head_of(outputs)
    folder = write(tmp_path, (KIND, tensors), component="roberta.encoder.layer[1].output")
    torch.save(head, folder / "pytorch_model.bin")
    classifier = load_pyreft_classifier(folder, roberta, on="f1")
    assert classifier.classes == (None if outputs == 1 else outputs)
    assert classifier.intervention_parameters == RANK * WIDTH * 2 + RANK

    plain, tokenizer = tiny_encoder("roberta")
    config: Any = plain.config
    config.num_labels = outputs
    theirs = RobertaForSequenceClassification(config).eval()
    theirs.load_state_dict(plain.state_dict() | head, strict=False)

    def edit(module: Any, given: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        first = formula(KIND, tensors, hidden[0, :1].double().numpy())
        hidden = torch.cat([torch.from_numpy(np.asarray(first)).float()[None], hidden[:, 1:]], 1)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = theirs.roberta.encoder.layer[1].register_forward_hook(edit)
    for row in ROWS:
        encoded = tokenizer(row["text_a"], row.get("text_b"), return_tensors="pt")
        with torch.no_grad():
            expected = theirs(**encoded).logits
            assert_close(classifier([row]), expected, atol=1e-4, rtol=0)
    handle.remove()
    with torch.no_grad():
        untouched = theirs(**tokenizer(ROWS[0]["text_a"], return_tensors="pt")).logits
    assert (classifier(ROWS[:1]) - untouched).abs().max() > 0.01


def test_what_is_no_such_folder_is_refused(tmp_path, roberta, tiny):
    folder = write(tmp_path, (KIND, saved(KIND)))
    with pytest.raises(FileNotFoundError, match="interventions alone are read by load_pyreft"):
        load_pyreft_classifier(folder, roberta, on="f1")
    file = folder / "pytorch_model.bin"
    head = head_of(2)
    with pytest.raises(ValueError, match="model must be an encoder"):
        load_pyreft_classifier(folder, tiny("llama"), on="f1")
    for change, message in [
        ({"classifier.dense.weight": torch.zeros(9, 9)}, r"finite numbers of shape \(32, 32\)"),
        ({"classifier.dense.bias": torch.full((WIDTH,), torch.nan)}, "must hold finite numbers"),
        ({"roberta.pooler": torch.zeros(2)}, r"must hold classifier\.dense\.bias, .*pooler"),
    ]:
        torch.save(head | change, file)
        with pytest.raises(ValueError, match=message):
            load_pyreft_classifier(folder, roberta, on="f1")
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: "):
        load_pyreft_classifier(folder, roberta, on="f1")


def test_without_the_head_it_is_said_what_reads_it(tmp_path, roberta):
    folder = write(tmp_path, (KIND, saved(KIND)))
    torch.save(head_of(2), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="load_pyreft_classifier reads"):
        load_pyreft(folder, roberta, on="f1")
