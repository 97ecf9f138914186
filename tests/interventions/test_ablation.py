"""Ablations: what is left in the subspace, and that nothing else changes."""

import re

import pytest
import torch
from torch.testing import assert_close

from reft_interp.interventions import MeanAblation, ResampleAblation, ZeroAblation
from reft_interp.subspace import Subspace

SUBSPACE = Subspace.random(8, 3, seed=0, dtype=torch.float64)


def activations(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)


def test_zero_leaves_nothing_inside():
    h = activations(0)
    edited = ZeroAblation(SUBSPACE)(h)
    assert_close(SUBSPACE.coordinates(edited), torch.zeros(2, 5, 3, dtype=torch.float64))
    assert_close(SUBSPACE.remove(edited), SUBSPACE.remove(h))
    assert SUBSPACE.coordinates(h).abs().max() > 0.5


def test_mean_leaves_the_mean_inside():
    h = activations(0)
    mean = h.mean((0, 1))
    edited = MeanAblation(SUBSPACE, mean)(h)
    assert_close(SUBSPACE.project(edited), SUBSPACE.project(mean).expand(2, 5, 8))
    assert_close(SUBSPACE.remove(edited), SUBSPACE.remove(h))
    assert_close(edited.mean((0, 1)), mean)  # the mean activation stays


def test_resampling_leaves_what_another_input_holds():
    h, other = activations(0), activations(1)
    edited = ResampleAblation(SUBSPACE)(h, other)
    assert_close(SUBSPACE.project(edited), SUBSPACE.project(other))
    assert_close(SUBSPACE.remove(edited), SUBSPACE.remove(h))


def test_ablations_keep_the_precision_of_their_subspace():
    edits = (ZeroAblation(SUBSPACE), MeanAblation(SUBSPACE, activations(0)[0, 0]))
    for edit in (*edits, ResampleAblation(SUBSPACE)):
        assert torch.equal(edit.subspace.basis, SUBSPACE.basis)
        assert edit.reads is not None
        assert edit.reads.principal_angles(SUBSPACE).max() < 1e-6
        rebuilt = type(edit).from_arguments(edit.arguments())
        assert rebuilt.arguments() == edit.arguments()


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("shape", [(3, 8), (1, 8), (3,)])
def test_a_mean_is_one_activation(shape):
    """Three means at rank 3 have as many coordinates, in rows, as there are directions."""
    told = rf"mean must have shape \(8,\), the width of the subspace, got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=told):
        MeanAblation(SUBSPACE, torch.ones(shape, dtype=torch.float64))
