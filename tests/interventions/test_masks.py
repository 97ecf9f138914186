"""Masked interchanges: soft while training, hard afterwards, with a price for each coordinate."""

import pytest
import torch
from torch.testing import assert_close

from reft_interp.interventions import BoundlessInterchange, MaskedInterchange
from reft_interp.interventions.masks import BoundaryMask, SigmoidMask
from reft_interp.subspace import Subspace


def test_after_training_a_neuron_is_swapped_or_is_not():
    edit = MaskedInterchange(Subspace(torch.eye(4))).eval()
    with torch.no_grad():
        edit.get_parameter("value.mask.logits").copy_(torch.tensor([3.0, -0.1, 0.1, -5.0]))
    base, source = torch.randn(2, 5, 4)
    expected = torch.stack([source[:, 0], base[:, 1], source[:, 2], base[:, 3]], 1)
    assert_close(edit(base, source), expected)
    assert edit.chosen.tolist() == [True, False, True, False]
    assert_close(edit.subspace.basis, torch.eye(4)[[0, 2]])
    assert edit.reads is not None and edit.reads.rank == 2


def test_the_boundary_takes_the_first_rows_of_the_rotation():
    start = Subspace.random(8, 8, seed=0)
    edit = BoundlessInterchange(start).eval()
    with torch.no_grad():
        edit.get_parameter("value.mask.logit").fill_(torch.logit(torch.tensor(3.2 / 8)))
    assert edit.subspace.rank == 3
    assert_close(edit.subspace.basis, start.basis[:3], atol=1e-5, rtol=0)
    base, source = torch.randn(2, 5, 8)
    first = Subspace(start.basis[:3])
    assert_close(edit(base, source), base - first.project(base) + first.project(source))


@pytest.mark.parametrize(
    ("mask", "begin", "end"), [(SigmoidMask(3), 1.0, 0.01), (BoundaryMask(32), 2.0, 0.1)]
)
def test_the_mask_hardens(mask, begin, end):
    assert mask.temperature == begin
    mask.anneal(1.0)
    assert_close(mask.temperature, torch.tensor(end))
    mask.anneal(0.0)
    assert_close(mask.temperature, torch.tensor(begin))
    # Soft at first, and then as it is once training is over.
    with torch.no_grad():
        for parameter in mask.parameters():
            # Of the boundary: a half of 32 coordinates.
            parameter.fill_(0.0 if parameter.ndim == 0 else 0.7)
    assert ((mask() > 0.1) & (mask() < 0.9)).any()
    mask.anneal(1.0)
    assert_close(mask(), mask.eval()(), atol=1e-2, rtol=0)


def test_the_price_is_for_the_share_that_is_swapped():
    edit = MaskedInterchange(Subspace(torch.eye(4)), sparsity=0.4)
    assert_close(edit.penalty(), torch.tensor(0.2))  # a half of each
    boundless = BoundlessInterchange(Subspace.random(8, 8, seed=0), sparsity=2.0)
    assert_close(boundless.penalty(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_nothing_swapped_is_no_subspace():
    edit = MaskedInterchange(Subspace(torch.eye(4))).eval()
    with torch.no_grad():
        edit.get_parameter("value.mask.logits").fill_(-1.0)
    assert edit.reads is None
    with pytest.raises(ValueError, match=r"swaps no coordinate.*sparsity \(0.1\)"):
        _ = edit.subspace


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="sparsity must be at least 0, got -1"):
        MaskedInterchange(Subspace(torch.eye(4)), sparsity=-1)
    with pytest.raises(ValueError, match=r"full rank \(8\), got rank 2"):
        BoundlessInterchange(Subspace.random(8, 2, seed=0))
