"""Gradient checkpointing: the same gradients, with less memory."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reft_interp.interventions import LoReFT
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import fit_reft, train

ROWS = [
    {"prompt": f"The {one} near the {two} is on the table of the city.", "answer": " No, it is not"}
    for one in ("key", "keys", "door", "doors")
    for two in ("cars", "film")
]


def placed(model) -> IntervenedModel:
    """Edits of the first tokens in all components where edits are made."""
    sites = [Site("resid_post", 0), Site("mlp_out", 1), Site("resid_pre", 1), Site("attn_out", 0)]
    start = Subspace.random(32, 2, seed=1)
    return IntervenedModel(model, [Placement(LoReFT(start=start), site, "f2") for site in sites])


class LiveBytes(TorchDispatchMode):
    """The most bytes that results of operations took at any one time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    size = storage.nbytes()
                    self._now += size
                    self.most = max(self.most, self._now)
                    weakref.finalize(storage, self._free, storage._cdata, size)
        return result

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size


def step(intervened: IntervenedModel, recompute: bool) -> tuple[list[torch.Tensor], float]:
    """Gradients of a batch's loss, and the loss."""
    inputs = PreparedRows(intervened, ROWS, engine="full").inputs(range(len(ROWS)))
    intervened.zero_grad()
    loss = intervened(**inputs, recompute=recompute)["loss"]
    loss.backward()
    return [p.grad.clone() for p in intervened.parameters() if p.grad is not None], loss.item()


def hooks_of(model) -> list[int]:
    return [len(point.fwd_hooks) for point in model.hook_dict.values()]


def peak(run: Callable[[], Any]) -> int:
    with LiveBytes() as counted:
        run()
    return counted.most


def test_the_gradients_are_the_same(tiny_model):
    intervened = placed(tiny_model)
    hooks = hooks_of(tiny_model)
    plain, loss = step(intervened, False)
    again, same_loss = step(intervened, True)
    assert same_loss == pytest.approx(loss, abs=1e-6)
    assert len(plain) == len(again) == 4 * 3
    assert any(gradient.abs().max() > 1e-3 for gradient in plain)
    for one, other in zip(plain, again, strict=True):
        assert_close(one, other, atol=1e-6, rtol=1e-5)
    # All that was put on for it is off again.
    assert all("forward" not in block.__dict__ for block in tiny_model.blocks)
    assert hooks_of(tiny_model) == hooks


def test_it_takes_less_memory(make_tiny):
    intervened = placed(make_tiny("llama", num_hidden_layers=8))
    plain, again = (peak(lambda r=r: step(intervened, r)) for r in (False, True))
    # Of eight blocks one is held at a time, beside what enters each.
    assert again < plain / 2


def test_training_with_it_ends_where_training_without_it_does(tiny):
    def fit(**options: Any) -> torch.Tensor:
        intervened = placed(tiny("llama"))
        rows = PreparedRows(intervened, ROWS, engine="full")
        train(intervened, rows, epochs=2, batch_size=4, progress=False, **options)
        return torch.cat([p.detach().flatten() for p in intervened.parameters()])

    assert_close(fit(gradient_checkpointing=True), fit(), atol=1e-5, rtol=0)


def test_a_replay_cannot_be_recomputed_and_says_why(tiny):
    site = Site("resid_post", 1)
    options: dict[str, Any] = {"progress": False, "gradient_checkpointing": True}
    with pytest.raises(ValueError, match=r'gradient_checkpointing=True needs engine="full".*keys'):
        fit_reft(tiny("llama"), ROWS, LoReFT(2), site, "l1", **options)
    intervened = IntervenedModel(tiny("llama"), Placement(LoReFT(2), site, "l1"))
    inputs = PreparedRows(intervened, ROWS).inputs([0])
    with pytest.raises(ValueError, match=r'recompute: rows that are replayed.*engine="full"'):
        intervened(**inputs, recompute=True)
    with pytest.raises(ValueError, match=r"activation_checkpointing_kwargs: .* nothing can be set"):
        fit_reft(
            tiny("llama"), ROWS, LoReFT(2), site, "l1", engine="full",
            gradient_checkpointing_kwargs={"every_n_layers": 2}, **options,
        )  # fmt: skip
