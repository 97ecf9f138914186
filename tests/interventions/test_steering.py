"""Given vectors and given coordinates."""

import json
import math
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from reft_interp.interventions import Clamp, VectorAddition
from reft_interp.subspace import Subspace


def test_a_vector_is_added_to_every_token():
    vector, h = torch.randn(8), torch.randn(2, 5, 8)
    assert_close(VectorAddition(vector, strength=3.0)(h), h + 3 * vector)
    assert_close(VectorAddition(vector)(h), h + vector)
    assert torch.equal(VectorAddition(vector, strength=0.0)(h), h)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("strength", [0.3, np.float32(0.3), np.float16(0.3), np.int64(3)])
def test_the_strength_is_kept_whatever_the_vector_is(dtype, strength):
    vector = torch.tensor([1, -2, 4]).to(dtype)
    edit = VectorAddition(vector, strength=strength)
    expected = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64) * float(strength)
    assert_close(edit(torch.zeros(3, dtype=torch.float64)), expected, atol=1e-6, rtol=0)
    assert json.loads(json.dumps(edit.arguments()))["strength"] == strength


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_vector_writes_its_line_and_reads_nothing(dtype):
    vector = torch.randn(4096).to(dtype)
    edit = VectorAddition(vector)
    line = Subspace.from_matrix(vector[None])
    assert edit.subspace.rank == 1
    assert edit.subspace.principal_angles(line).max() < 1e-3
    assert edit.reads is None


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (torch.zeros(4), "got 4 zeros"),
        (torch.tensor([1.0, torch.nan]), "got one with 1 of 2 numbers that are NaN or infinite"),
        (torch.tensor([1.0, torch.inf]), "got one with 1 of 2 numbers that are NaN or infinite"),
    ],
)
def test_a_vector_without_a_direction_is_refused(vector, message):
    with pytest.raises(ValueError, match=f"vector must be finite and not zero, {message}"):
        VectorAddition(vector)


@pytest.mark.parametrize("strength", [math.nan, -math.inf])
def test_a_strength_that_is_no_number_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength must be finite, got {strength}"):
        VectorAddition(torch.ones(4), strength=strength)


def test_the_vector_is_a_copy():
    vector, h = torch.ones(4), torch.zeros(4)
    edit = VectorAddition(vector)
    vector.zero_()
    assert torch.equal(edit(h), torch.ones(4))


def test_clamped_coordinates_are_the_given_ones_for_every_token():
    subspace = Subspace.random(8, 3, seed=0, dtype=torch.float64)
    h, c = torch.randn(2, 5, 8, dtype=torch.float64), torch.tensor([1.0, -2, 0]).double()
    edited = Clamp(subspace, c)(h)
    assert_close(subspace.coordinates(edited), c.expand(2, 5, 3))
    assert_close(subspace.remove(edited), subspace.remove(h))


def test_a_clamp_reads_and_writes_its_subspace():
    subspace = Subspace.random(8, 3, seed=0)
    edit = Clamp(subspace, torch.ones(3))
    assert torch.equal(edit.subspace.basis, subspace.basis)
    assert edit.reads is not None
    assert edit.reads.principal_angles(subspace).max() < 1e-4


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("shape", [(2,), (3, 1), (3, 3), ()])
def test_as_many_coordinates_as_directions(shape):
    told = (
        rf"coordinates must have shape \(3,\), one for each direction .*got {re.escape(str(shape))}"
    )
    with pytest.raises(ValueError, match=told):
        Clamp(Subspace.random(8, 3, seed=0), torch.ones(shape))


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("shape", [(1, 8), (8, 1), ()])
def test_a_vector_has_one_axis(shape):
    told = rf"vector must have shape \(d,\), got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=told):
        VectorAddition(torch.ones(shape))
