"""Numbers that no training can have are told of when they are given, by whoever holds them."""

import math

import pytest

import reft_interp as ri
from reft_interp.runtime.prepared import PreparedRows
from reft_interp.training import Cell

SITE = ri.Site("resid_post", 0)


def das_cell(**numbers):
    return ri.DASCell(SITE, "last", **numbers)


def reft_cell(**numbers):
    return ri.ReFTCell(ri.LoReFT(1), SITE, **numbers)


HOLDERS = [
    das_cell, reft_cell, ri.DAS, ri.BoundlessDAS, ri.MaskSearch, ri.NonlinearAlignment,
]  # fmt: skip
WRONG = [
    ({"epochs": 0}, ValueError, "epochs must be above 0, got 0"),
    ({"epochs": -1}, ValueError, "epochs must be above 0, got -1"),
    ({"epochs": math.inf}, (TypeError, ValueError), "epochs must be (a whole number|finite)"),
    ({"learning_rate": 0.0}, ValueError, "learning_rate must be above 0, got 0.0"),
    ({"learning_rate": -1.0}, ValueError, "learning_rate must be above 0, got -1.0"),
    ({"learning_rate": math.nan}, ValueError, "learning_rate must be above 0, got nan"),
    ({"learning_rate": math.inf}, ValueError, "learning_rate must be finite, got inf"),
    ({"batch_size": 0}, ValueError, "batch_size must be above 0, got 0"),
    ({"batch_size": 1.5}, TypeError, "batch_size must be a whole number, got 1.5"),
]


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(("numbers", "error", "message"), WRONG)
def test_what_holds_them_refuses_them(holder, numbers, error, message):
    assert holder(epochs=1, learning_rate=1e-3, batch_size=1) is not None
    with pytest.raises(error, match=message):
        holder(**numbers)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(("numbers", "error", "message"), WRONG)
def test_a_training_refuses_them_before_anything_runs(tiny, numbers, error, message):
    pairs = [{"base": "The key", "source": "The keys", "label": " are"}]
    with pytest.raises(error, match=message):
        ri.fit_das(tiny("llama"), pairs, SITE, "last", **numbers)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        *WRONG,
        ({"epochs": 0.5}, TypeError, "epochs must be a whole number, got 0.5"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps must be at least 0, got -1"),
        ({"warmup_steps": 0.1}, TypeError, "warmup_steps must be a whole number, got 0.1"),
        ({"max_grad_norm": -1.0}, ValueError, "max_grad_norm must be at least 0, got -1.0"),
        ({"max_grad_norm": math.nan}, ValueError, "max_grad_norm must be at least 0, got nan"),
        ({"patience": 1.5}, TypeError, "patience must be a whole number, got 1.5"),
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
    ],
)
def test_a_cell_refuses_them(tiny, numbers, error, message):
    model = tiny("llama")
    intervened = ri.IntervenedModel(model, ri.Placement(ri.LoReFT(1), SITE, "last"))
    rows = PreparedRows(intervened, [{"prompt": "The key", "answer": " is"}])
    with pytest.raises(error, match=message):
        Cell(intervened, rows, **numbers)


@pytest.mark.parametrize(
    ("holder", "numbers", "message"),
    [
        (das_cell, {"seed": -1}, "seed must be at least 0 and below"),
        (reft_cell, {"seed": -1}, "seed must be at least 0 and below"),
        (das_cell, {"rank": 0}, "rank must be at least 1, got 0"),
        (ri.BoundlessDAS, {"sparsity": -1.0}, "sparsity must be at least 0, got -1.0"),
        (ri.MaskSearch, {"sparsity": math.nan}, "sparsity must be at least 0, got nan"),
        (ri.MaskSearch, {"sparsity": math.inf}, "sparsity must be finite, got inf"),
        (ri.NonlinearAlignment, {"hidden": 0}, "hidden must be at least 1, got 0"),
        (ri.NonlinearAlignment, {"depth": 0}, "depth must be at least 1, got 0"),
    ],
)
def test_settings_of_its_own_are_checked_too(holder, numbers, message):
    with pytest.raises(ValueError, match=message):
        holder(**numbers)
