"""Rows that stay orthonormal: value, gradient and drift, at the start and far from it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reft_interp.interventions.rows import FreeRows, GivenRows, OrthonormalRows
from reft_interp.subspace import Subspace

pytestmark = pytest.mark.no_cover


def off_by(rows: torch.Tensor) -> float:
    """max |RRᵀ − I|, computed in float64."""
    wide = rows.detach().double()
    return float((wide @ wide.T - torch.eye(len(wide), dtype=torch.float64)).abs().max())


def parameter(rows: OrthonormalRows) -> nn.Parameter:
    (only,) = rows.parameters()
    return only


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_at_the_start_the_rows_are_the_given_ones(rank):
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 2e-7)):
        start = Subspace.random(8, rank, seed=0, dtype=dtype)
        assert_close(OrthonormalRows(start, dtype=dtype)(), start.basis, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_away_from_it_they_are_an_orthonormal_basis_of_the_same_rows(rank):
    rows = OrthonormalRows(Subspace.random(8, rank, seed=0), dtype=torch.float64)
    torch.manual_seed(rank)
    with torch.no_grad():
        parameter(rows).normal_()
    assert off_by(parameter(rows)) > 0.1
    assert off_by(rows()) < 1e-10  # cond(A)² ε
    matrix = parameter(rows).detach()
    assert_close(matrix @ rows().T @ rows(), matrix)
    # The same as Gram-Schmidt, that is QR with a positive diagonal.
    q, r = np.linalg.qr(matrix.numpy().T)
    assert_close(rows(), torch.from_numpy((q * np.sign(np.diag(r))).T), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_gradient_exists_at_the_start_and_away_from_it(rank, noise):
    rows = OrthonormalRows(Subspace.random(5, rank, seed=0, dtype=torch.float64))
    torch.manual_seed(0)
    at = Subspace.random(5, rank, seed=0, dtype=torch.float64).basis
    at = (at + noise * torch.randn(rank, 5, dtype=torch.float64)).requires_grad_()

    def function(matrix: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(rows, {"matrix": matrix}, ())

    assert torch.autograd.gradcheck(function, (at,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_at_the_start_is_finite(dtype):
    start = Subspace.random(64, 8, seed=0)
    rows = OrthonormalRows(start, dtype=dtype)
    (rows() * torch.randn(8, 64)).sum().backward()
    gradient = parameter(rows).grad
    assert gradient is not None and torch.isfinite(gradient).all()
    assert gradient.abs().max() > 1e-2

    # (AAᵀ)^(−½)A by eigh has none: all eigenvalues are 1 there.
    matrix = start.basis.clone().requires_grad_()
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    symmetric = vectors @ torch.diag(values**-0.5) @ vectors.T @ matrix
    (symmetric * torch.randn(8, 64)).sum().backward()
    assert matrix.grad is not None
    assert not torch.isfinite(matrix.grad).all() or matrix.grad.abs().max() > 1e3


@pytest.mark.parametrize(
    ("width", "rank", "learning_rate"),
    [(64, 4, 1e-2), (64, 32, 1e-3), (64, 64, 1e-3)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_thousand_steps_of_adam_leave_them_orthonormal(width, rank, learning_rate, dtype):
    torch.manual_seed(0)
    rows = OrthonormalRows(Subspace.random(width, rank, seed=0), dtype=dtype)
    before = rows().detach()
    target = Subspace.random(width, rank, seed=1).basis
    optimizer = torch.optim.Adam(rows.parameters(), lr=learning_rate)
    worst = 0.0
    for _ in range(1000):
        optimizer.zero_grad()
        (rows() - target).square().sum().backward()
        optimizer.step()
        worst = max(worst, off_by(rows()))
    assert parameter(rows).dtype == dtype
    assert (rows() - before).abs().max() > 0.1  # they went somewhere
    # Rounding to float32 moves the inner product of two unit rows by 2^-23 = 1.2e-7 at most;
    # cond(A)² ε of float64 comes on top: nothing here, where the condition stays below 100. A
    # square A is the exception: its condition climbs to 500 or more, not always by the same way,
    # and linear algebra in float32 would be off by 2e-3 or find AAᵀ not positive definite.
    assert worst < (2e-7 if rank < width else 1e-5)


def test_an_ill_conditioned_parameter_still_gives_orthonormal_rows():
    rows = OrthonormalRows(Subspace.random(32, 8, seed=0))
    u, _, v = torch.linalg.svd(torch.randn(8, 32), full_matrices=False)
    with torch.no_grad():
        parameter(rows).copy_(u @ torch.diag(torch.logspace(0, -3, 8)) @ v)
    assert off_by(rows()) < 2e-7
    matrix = parameter(rows).detach()
    factor = torch.linalg.cholesky(matrix @ matrix.T)
    in_float32 = torch.linalg.solve_triangular(factor, matrix, upper=False)
    assert off_by(in_float32) > 1e-3  # cond(A)² = 1e6 times 6e-8


def test_autocast_does_not_reach_the_linear_algebra():
    rows = OrthonormalRows(Subspace.random(64, 8, seed=0))
    with torch.no_grad():
        parameter(rows).normal_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = rows()
        assert (inside @ inside.T).dtype == torch.bfloat16  # it was on
    assert inside.dtype == torch.float32
    assert torch.equal(inside, rows())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_not_trained_are_exactly_the_given_ones(dtype):
    start = Subspace.random(64, 8, seed=0, dtype=dtype)
    rows = OrthonormalRows(start, trainable=False, dtype=dtype)
    assert list(rows.parameters()) == []
    assert torch.equal(rows(), start.basis)


def test_given_rows_that_were_rounded_to_half_precision_are_orthonormal_again():
    start = Subspace.random(64, 8, seed=0)
    rows = OrthonormalRows(start, trainable=False, dtype=torch.bfloat16)
    assert off_by(start.basis.bfloat16()) > 1e-4
    assert off_by(rows()) < 1e-6
    assert rows().dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_free_rows_are_the_parameter_in_float32_at_least(dtype):
    start = torch.randn(3, 8, dtype=torch.float64)
    rows = FreeRows(start, dtype=dtype)
    assert torch.equal(rows(), start.to(dtype).to(torch.promote_types(dtype, torch.float32)))
    assert [p.dtype for p in rows.parameters()] == [dtype]


@pytest.mark.parametrize("trainable", [True, False])
def test_training_does_not_change_the_subspace_that_they_started_from(trainable):
    start = Subspace.random(8, 3, seed=0)
    before = start.basis.clone()
    rows = OrthonormalRows(start, trainable=trainable)
    with torch.no_grad():
        rows.matrix.zero_()
        FreeRows(start.basis).matrix.zero_()
    assert torch.equal(start.basis, before)


def test_given_rows_are_a_copy_without_gradient():
    vector = torch.randn(1, 8, requires_grad=True)
    rows = GivenRows(vector)
    given = vector.detach().clone()
    with torch.no_grad():
        vector.zero_()
    assert torch.equal(rows(), given)
    assert not rows().requires_grad and list(rows.parameters()) == []
