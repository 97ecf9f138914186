"""ReFT: where training starts, what is read and written, and arguments that don't fit."""

import pytest
import scipy.linalg
import torch
from torch.testing import assert_close

from reft_interp.interventions import (
    ConsReFT,
    DiReFT,
    Intervention,
    LobiReFT,
    LoReFT,
    NoReFT,
)
from reft_interp.subspace import Subspace

IDENTITIES = [LoReFT, NoReFT, DiReFT, LobiReFT]
ALL = [*IDENTITIES, ConsReFT]


def randomize(edit: Intervention, *names: str, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Normal noise on the named parameters (all by default); what they then are."""
    generator = torch.Generator().manual_seed(7)
    parameters = dict(edit.named_parameters())
    with torch.no_grad():
        for name in names or parameters:
            noise = torch.randn(parameters[name].shape, generator=generator, dtype=torch.float64)
            parameters[name].add_(scale * noise)
    return {name: parameter.detach() for name, parameter in parameters.items()}


def largest_angle(subspace: Subspace | None, rows: torch.Tensor) -> float:
    """In radians, to the span of `rows`, by scipy."""
    assert subspace is not None and subspace.rank == len(rows)
    return scipy.linalg.subspace_angles(subspace.basis.numpy().T, rows.numpy().T).max()


# Where training starts


@pytest.mark.parametrize("kind", IDENTITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [False, True])
def test_training_starts_at_the_untouched_model(kind, dtype, given):
    start = Subspace.random(64, 4, seed=0) if given else None
    edit = kind(4, 64, start=start, dtype=dtype)
    h = 100 * torch.randn(50, 64, dtype=dtype)
    assert torch.equal(edit(h), h)
    randomize(edit)
    assert not torch.allclose(edit(h), h)


def test_orthonormal_direft_starts_at_the_untouched_model():
    h = torch.randn(50, 64)
    assert torch.equal(DiReFT(4, 64, orthonormal=True)(h), h)


def test_half_precision_parameters_start_near_the_untouched_model():
    h = torch.randn(50, 64)
    # W = R can't be held in bfloat16: 4 coordinates, each off by 2^-9 of |h| at most.
    assert_close(LoReFT(4, 64, dtype=torch.bfloat16)(h), h, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("activation", "same"), [("relu", True), ("tanh", True), ("sigmoid", False)]
)
def test_direft_starts_at_what_the_activation_makes_of_nothing(activation, same):
    h = torch.randn(50, 64)
    assert torch.equal(DiReFT(4, 64, activation=activation)(h), h) == same


def test_consreft_starts_by_removing_its_subspace():
    start = Subspace.random(8, 3, seed=0, dtype=torch.float64)
    h = torch.randn(5, 8, dtype=torch.float64)
    edit = ConsReFT(start=start, dtype=torch.float64)
    assert_close(edit(h), start.remove(h), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ALL)
def test_training_starts_from_the_given_subspace(kind):
    start = Subspace.random(8, 3, seed=0, dtype=torch.float64)
    edit = kind(start=start, dtype=torch.float64)
    assert edit.width == 8
    assert_close(edit.rows(), start.basis, rtol=0, atol=1e-12)
    assert edit.subspace.principal_angles(start).max() < 1e-6


@pytest.mark.parametrize("kind", ALL)
def test_parameters_are_float32_unless_something_else_is_asked_for(kind):
    assert {p.dtype for p in kind(2, 8).parameters()} == {torch.float32}
    half = kind(2, 8, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_the_offset_exists_only_where_it_is_asked_for():
    assert "value.offset" not in dict(NoReFT(2, 8).named_parameters())
    assert "value.offset" in dict(NoReFT(2, 8, offset=True).named_parameters())


# What is written and read


@pytest.mark.parametrize("kind", [LoReFT, ConsReFT, LobiReFT])
def test_it_writes_the_row_space_of_its_parameter(kind):
    edit = kind(3, 8, dtype=torch.float64)
    parameters = randomize(edit)
    assert largest_angle(edit.subspace, parameters["rows.matrix"]) < 1e-7
    h = torch.randn(20, 8, dtype=torch.float64)
    assert_close(edit.subspace.remove(edit(h)), edit.subspace.remove(h))


@pytest.mark.parametrize("orthonormal", [False, True])
def test_direft_writes_one_row_space_and_reads_another(orthonormal):
    edit = DiReFT(3, 8, orthonormal=orthonormal, dtype=torch.float64)
    parameters = randomize(edit)
    assert largest_angle(edit.subspace, parameters["rows.matrix"]) < 1e-7
    assert largest_angle(edit.reads, parameters["value.weight"]) < 1e-7
    assert largest_angle(edit.subspace, parameters["value.weight"]) > 0.1


def test_loreft_reads_what_w_and_r_differ_in():
    edit = LoReFT(3, 8, dtype=torch.float64)
    parameters = randomize(edit)
    difference = parameters["value.weight"] - edit.rows().detach()
    assert largest_angle(edit.reads, difference) < 1e-7
    assert largest_angle(edit.reads, edit.rows().detach()) > 0.1


def test_noreft_reads_what_its_two_matrices_differ_in():
    edit = NoReFT(3, 8, dtype=torch.float64)
    parameters = randomize(edit)
    difference = parameters["value.weight"] - parameters["rows.matrix"]
    assert largest_angle(edit.reads, difference) < 1e-7


@pytest.mark.parametrize("kind", [LoReFT, NoReFT])
def test_with_an_activation_both_matrices_are_read(kind):
    edit = kind(3, 8, activation="gelu", dtype=torch.float64)
    assert largest_angle(edit.reads, edit.rows().detach()) < 1e-7  # W = R still
    parameters = randomize(edit, "value.weight")
    both = torch.cat([parameters["value.weight"], edit.rows().detach()])
    assert largest_angle(edit.reads, both) < 1e-7


@pytest.mark.parametrize("kind", [LoReFT, NoReFT, DiReFT, ConsReFT, LobiReFT])
def test_what_is_not_read_does_not_change_the_edit(kind):
    edit = kind(3, 16, dtype=torch.float64)
    randomize(edit)
    h, other = torch.randn(2, 10, 16, dtype=torch.float64)
    same = other if edit.reads is None else edit.reads.project(h) + edit.reads.remove(other)
    assert_close(edit(same) - same, edit(h) - h)
    if edit.reads is not None:
        assert not torch.allclose(edit(other) - other, edit(h) - h)


@pytest.mark.parametrize("kind", [LoReFT, NoReFT, DiReFT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rank", "width"), [(4, 576), (32, 64), (64, 2048)])
def test_nothing_is_read_at_the_start(kind, dtype, rank, width):
    edit = kind(rank, width, dtype=dtype)
    assert edit.reads is None
    randomize(edit, "value.weight")
    assert edit.reads is not None and edit.reads.rank == rank


@pytest.mark.parametrize("kind", [LoReFT, NoReFT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_trained_intervention_that_was_rounded_to_half_precision_reads_no_rounding(kind, dtype):
    edit = kind(4, 576, dtype=dtype).to(torch.bfloat16)
    assert edit.reads is None


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4, 1e-5])
def test_a_change_of_one_direction_is_read_as_one_direction(size):
    torch.manual_seed(0)
    edit = LoReFT(4, 576)
    direction = torch.nn.functional.normalize(torch.randn(576), dim=0)
    with torch.no_grad():
        weight = dict(edit.named_parameters())["value.weight"]
        weight.add_(size * torch.outer(torch.randn(4), direction))
    # Rounding W to float32 leaves 1e-8 in each of its entries, 3e-7 in a row.
    assert largest_angle(edit.reads, direction[None]) < max(1e-5, 1e-6 / size)


def test_lobireft_reads_nothing_and_consreft_what_it_replaces():
    lobi, cons = LobiReFT(3, 8), ConsReFT(3, 8, dtype=torch.float64)
    randomize(lobi)
    randomize(cons)
    assert lobi.reads is None
    assert largest_angle(cons.reads, cons.rows().detach()) < 1e-7


# What is refused


@pytest.mark.parametrize("kind", ALL)
def test_arguments_that_do_not_fit_are_refused(kind):
    start = Subspace.random(8, 3, seed=0)
    with pytest.raises(ValueError, match=r"give rank=.*or start="):
        kind()
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        kind(0)
    with pytest.raises(ValueError, match=r"rank must be between 1 and 8 \(the width\), got 9"):
        kind(9, 8)
    with pytest.raises(ValueError, match="start has rank 3 and width 8, but rank=2"):
        kind(2, start=start)
    with pytest.raises(ValueError, match=r"start has rank 3 and width 8, but .*width=16"):
        kind(3, 16, start=start)


@pytest.mark.parametrize("kind", [LoReFT, NoReFT, DiReFT])
@pytest.mark.parametrize("width", [None, 8])
def test_an_unknown_activation_is_refused_also_in_a_template(kind, width):
    with pytest.raises(ValueError, match=r"activation must be one of \['gelu', .*got 'gello'"):
        kind(2, width, activation="gello")
