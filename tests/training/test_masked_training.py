"""What hardens and has a price while it trains: the same in both trainers, once a step."""

import pytest
import torch
from torch.testing import assert_close

import reft_interp as ri

ROWS = [
    {"prompt": f"The {noun} near the", "answer": answer}
    for noun, answer in zip(("key", "doors", "cat", "dogs"), (" is", " are") * 2, strict=True)
]
SOURCES = ["The doors of the", "The key of the", "The dogs of the", "The cat of the"]


def masked(model) -> ri.IntervenedModel:
    edit = ri.MaskedInterchange(ri.Subspace.random(32, 8, seed=0), sparsity=0.5)
    return ri.IntervenedModel(model, ri.Placement(edit, ri.Site("resid_post", 0), "last"))


def logits(intervened: ri.IntervenedModel) -> torch.Tensor:
    return intervened.get_parameter("interventions.0.value.mask.logits").detach()


def test_both_trainers_end_at_the_same_mask(tiny):
    model = tiny("llama")
    one, two, three = masked(model), masked(model), masked(model)
    arguments = {"epochs": 5, "batch_size": 2, "learning_rate": 0.05}
    ri.train(one, ri.PreparedRows(one, ROWS, SOURCES), progress=False, **arguments)
    ri.train_cells([ri.Cell(two, ri.PreparedRows(two, ROWS, SOURCES), **arguments)], progress=False)
    # Two batches of one row each are one step of two, with its price paid once.
    ri.train(
        three, ri.PreparedRows(three, ROWS, SOURCES), progress=False, epochs=5, batch_size=1,
        gradient_accumulation_steps=2, learning_rate=0.05,
    )  # fmt: skip
    assert_close(logits(one), logits(two), atol=1e-4, rtol=0)
    assert_close(logits(one), logits(three), atol=1e-4, rtol=0)
    for intervened in (one, two):
        (mask,) = (m for m in intervened.modules() if hasattr(m, "temperature"))
        assert float(mask.get_buffer("temperature")) == pytest.approx(0.01**0.9)


def test_the_price_is_part_of_the_training_loss_alone(tiny):
    intervened = masked(tiny("llama"))
    prepared = ri.PreparedRows(intervened, ROWS, SOURCES)
    intervened.train()
    with torch.no_grad():
        trained = intervened(**prepared.inputs(range(4)))["loss"]
        # Without its price, at the same soft mask.
        setattr(intervened.placements[0].intervention, "sparsity", 0.0)  # noqa: B010
        plain = intervened(**prepared.inputs(range(4)))["loss"]
    assert_close(trained - plain, torch.tensor(0.25), atol=1e-5, rtol=0)
    assert intervened.eval().penalty() is None


def test_most_interventions_ask_for_nothing(tiny):
    model = tiny("llama")
    loreft = ri.IntervenedModel(model, ri.Placement(ri.LoReFT(2), ri.Site("resid_post", 0), "last"))
    assert loreft.train().penalty() is None
