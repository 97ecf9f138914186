"""Interchanges: where the answer is known, what they read, and what training moves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from reft_interp.interventions import DistributedInterchange, Interchange, PlaceboInterchange
from reft_interp.subspace import Subspace


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("shape", [(8,), (2, 8), (2, 5, 8)])
@pytest.mark.parametrize("trainable", [False, True])
def test_swaps_the_subspace_and_nothing_else(rank, shape, trainable):
    R = torch.eye(8, dtype=torch.float64)[:rank]  # the answer: the first `rank` coordinates
    base, source = torch.randn(2, *shape, dtype=torch.float64)
    expected = torch.cat([source[..., :rank], base[..., rank:]], dim=-1)
    assert_close(DistributedInterchange(Subspace(R), trainable=trainable)(base, source), expected)


@settings(deadline=None)  # the machine may be busy
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 8))
def test_swapping_twice_is_swapping_once(seed, rank):
    torch.manual_seed(seed)
    subspace = Subspace.random(8, rank, seed=seed, dtype=torch.float64)
    edit = DistributedInterchange(subspace, dtype=torch.float64)
    base, source = torch.randn(2, 4, 8, dtype=torch.float64)
    once = edit(base, source)
    assert_close(edit(once, source), once)
    assert_close(edit(once, base), base)  # and swapping back brings it back
    assert not torch.allclose(once, base)


def test_the_whole_space_is_the_whole_vector():
    base, source = torch.randn(2, 4, 8, dtype=torch.float64)
    edit = DistributedInterchange(Subspace.random(8, 8, seed=0, dtype=torch.float64))
    # the subspace is kept in float32
    assert_close(edit(base, source), Interchange(8)(base, source), rtol=0, atol=1e-5)


@pytest.mark.parametrize("trainable", [False, True])
def test_reads_and_writes_the_same_subspace(trainable):
    start = Subspace.random(8, 3, seed=0)
    edit = DistributedInterchange(start, trainable=trainable)
    assert edit.subspace.principal_angles(start).max() < 1e-4
    assert edit.reads is not None
    assert edit.reads.principal_angles(start).max() < 1e-4


def test_a_whole_vector_interchange_reads_and_writes_everything():
    edit = Interchange(8)
    assert edit.subspace.rank == edit.reads.rank == 8
    assert torch.equal(edit.subspace.basis, torch.eye(8))


def test_the_subspace_is_the_trained_one():
    torch.manual_seed(0)
    target = Subspace.random(8, 2, seed=1)
    edit = DistributedInterchange(Subspace.random(8, 2, seed=0), trainable=True)
    given_subspace = edit.subspace
    assert given_subspace.principal_angles(target).max() > 10
    optimizer = torch.optim.Adam(edit.parameters(), lr=0.05)
    base, source = torch.randn(2, 64, 8)
    expected = base + target.project(source - base)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(edit(base, source), expected).backward()
        optimizer.step()
    assert edit.subspace.principal_angles(target).max() < 0.1  # it found what was planted
    assert given_subspace.principal_angles(target).max() > 10  # and what was handed out stays


def test_a_placebo_moves_as_far_along_other_directions():
    inside, along = (Subspace.random(8, 3, seed=i, dtype=torch.float64) for i in range(2))
    base, source = torch.randn(2, 5, 8, dtype=torch.float64)
    moved = DistributedInterchange(inside, dtype=torch.float64)(base, source) - base
    placebo = PlaceboInterchange(inside, along)
    instead = placebo(base, source) - base
    assert_close(instead.norm(dim=-1), moved.norm(dim=-1))
    assert_close(along.remove(instead), torch.zeros_like(instead))
    assert placebo.reads is not None
    assert placebo.reads.principal_angles(inside).max() < 1e-4
    with pytest.raises(ValueError, match="rank and width"):
        PlaceboInterchange(inside, Subspace.random(8, 2, seed=0))
