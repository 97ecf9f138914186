"""What peft writes into base weights is not written into the bridge's."""

from typing import Any

import pytest
import torch

from reft_interp.interop.adapted_states import adapted_states
from reft_interp.interop.peft_methods import PEFT
from reft_interp.models.plain import plain_copy
from reft_interp.positions import last
from reft_interp.training.finetuning import Schedule

peft = pytest.importorskip("peft")

ROWS = [{"prompt": f"The key {i}", "answer": " is"} for i in range(4)]
SCHEDULE = Schedule(steps=2, batch_size=4, learning_rate=1e-2)
WRITING = [
    ("gpt2", {"bias": "all"}),
    ("gpt2", {"bias": "lora_only", "target_modules": ["c_attn"]}),
    ("llama", {"init_lora_weights": "olora"}),
    ("llama", {"init_lora_weights": "pissa"}),
]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in model.original_model.state_dict().items()}


def assert_untouched(model: Any, before: dict[str, torch.Tensor]) -> None:
    after = model.original_model.state_dict()
    assert [name for name, one in before.items() if not torch.equal(one, after[name])] == []


@pytest.mark.parametrize(("architecture", "options"), WRITING)
def test_neither_training_nor_reading_writes_into_the_bridge(
    make_tiny, tmp_path, architecture, options
):
    model = make_tiny(architecture)
    before = weights(model)
    fit = PEFT(peft.LoraConfig(r=2, **options)).fit(model, ROWS, SCHEDULE)
    assert_untouched(model, before)
    fit.finetuned.save(tmp_path)
    place = (1, last())
    found = adapted_states(model, tmp_path, ROWS, [place])[place]
    assert_untouched(model, before)
    # It was read all the same: what is found is what was trained, and not the bridge's.
    assert not torch.allclose(found, adapted_states(model, None, ROWS, [place])[place], atol=1e-4)
    with torch.no_grad():
        for i, row in enumerate(ROWS):
            ids = model.tokenizer([row["prompt"]], return_tensors="pt")["input_ids"]
            torch.testing.assert_close(found[i], _after_block_1(fit, ids)[0, -1], atol=1e-4, rtol=0)


def _after_block_1(fit: Any, ids: torch.Tensor) -> torch.Tensor:
    held = []
    base = fit.finetuned.adapted.get_base_model()
    blocks = base.transformer.h if hasattr(base, "transformer") else base.model.layers

    def keep(module: Any, given: Any, output: Any) -> None:
        held.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks[1].register_forward_hook(keep)
    fit.finetuned.adapted(ids)
    handle.remove()
    return held[0]


def test_olora_shares_the_weights_that_it_leaves_alone(make_tiny):
    model = make_tiny("llama")
    adapted = PEFT(peft.LoraConfig(r=2, init_lora_weights="olora")).adapt(model).adapted
    shared = {one.data_ptr() for one in plain_copy(model).parameters()}
    names = {name for name, one in adapted.named_parameters() if one.data_ptr() in shared}
    assert any("k_proj" in name for name in names)
    assert not any("q_proj" in name for name in names)
