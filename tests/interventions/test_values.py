"""Values by themselves: edits ask for the difference, which some give more exactly."""

import pytest
import torch
from torch.testing import assert_close

from reft_interp.interventions.values import Affine, Constant, OfSource, Value

H, S = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    "value",
    [
        OfSource(),
        Affine(torch.randn(3, 8, dtype=torch.float64), dtype=torch.float64),
        Constant(torch.randn(3, dtype=torch.float64)),
    ],
)
def test_the_change_is_the_value_less_what_h_holds(value):
    assert_close(value.change(H, S, ROWS), value(H, S, ROWS) - H @ ROWS.T)
    assert value(H, S, ROWS).shape == (4, 3)


def test_the_change_to_an_equal_source_is_exactly_none():
    assert torch.equal(OfSource().change(H, H, ROWS), torch.zeros(4, 3, dtype=torch.float64))


def test_a_value_of_the_source_is_its_coordinates():
    assert_close(OfSource()(H, S, ROWS), S @ ROWS.T)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_constant_is_a_parameter_only_if_it_is_trained(trainable):
    value = Constant(torch.ones(3), trainable=trainable)
    assert len(list(value.parameters())) == trainable
    assert "coordinates" in value.state_dict()


def test_an_affine_value_copies_the_weight_that_it_starts_from():
    start = torch.ones(3, 8)
    value = Affine(start)
    start.zero_()
    assert torch.equal(value.weight.detach(), torch.ones(3, 8))


def test_a_bare_value_has_none():
    with pytest.raises(NotImplementedError):
        Value()(H, S, ROWS)
    with pytest.raises(NotImplementedError):
        Value().reads(None)
