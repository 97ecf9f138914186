"""Subspaces against scipy, scikit-learn, closed forms and planted answers."""

import os
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from torch.testing import assert_close

from reft_interp.rounding import in_float64, numerical_rank
from reft_interp.subspace import Subspace, check_rank, expected_overlap

exactly = partial(assert_close, rtol=0, atol=1e-12)  # float64 algebra of a few dozen terms


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random(width: int, rank: int, seed: int = 0) -> Subspace:
    return Subspace.random(width, rank, seed=seed, dtype=torch.float64)


def scipy_angles(a: Subspace, b: Subspace) -> np.ndarray:
    radians = scipy.linalg.subspace_angles(a.basis.double().numpy().T, b.basis.double().numpy().T)
    return np.rad2deg(radians)[::-1]


def turned(width: int, degrees: list[float], seed: int = 0) -> tuple[Subspace, Subspace]:
    """Two subspaces with these principal angles, in a random position."""
    r = len(degrees)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    radians = np.deg2rad(np.array(degrees))[:, None]
    mixed = np.cos(radians) * q[:r] + np.sin(radians) * q[r : 2 * r]
    return Subspace(torch.from_numpy(q[:r].copy())), Subspace(torch.from_numpy(mixed))


spaces = st.builds(
    lambda width, part, seed: random(width, 1 + int(part * (width - 1)), seed),
    st.integers(1, 12),
    st.floats(0, 1),
    st.integers(0, 2**31),
)


# What a subspace is


def test_knows_its_rank_and_width_and_says_so():
    subspace = random(7, 3)
    assert (subspace.rank, subspace.width) == (3, 7)
    assert repr(subspace) == "Subspace(rank=3, width=7)"


def test_changing_the_tensor_it_was_made_of_does_not_change_it():
    rows = torch.eye(4, dtype=torch.float64)[:2].clone()
    subspace = Subspace(rows)
    rows.zero_()
    assert_close(subspace.basis, torch.eye(4, dtype=torch.float64)[:2])


def test_holds_no_gradient():
    rows = torch.eye(4, requires_grad=True)
    assert not Subspace(rows).basis.requires_grad
    assert not Subspace.from_matrix(2 * rows).basis.requires_grad


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (torch.eye(4)[:0], "between 1 and 4 rows .*got 0"),
        (torch.eye(4)[:, :2], "between 1 and 2 rows .*got 4"),
        (torch.ones(4), r"basis must have shape \(r, d\), got \(4,\)"),
        (torch.eye(4, dtype=torch.int64), "must be floating point, got torch.int64"),
        (torch.tensor([[float("nan"), 1.0]]), "basis must be finite, got 1 of 2 .*in row 0"),
        (torch.tensor([[float("inf"), 1.0]]), "not finite"),
        (2 * torch.eye(4), "orthonormal rows: .* off by 3.0e.00.*from_matrix"),
        (torch.ones(2, 2) / 2**0.5, "orthonormal rows"),
    ],
)
def test_rows_that_are_no_orthonormal_basis_are_refused(basis, message):
    with pytest.raises(ValueError, match=message):
        Subspace(basis)


# Where subspaces come from


def test_from_matrix_spans_the_rows_and_keeps_the_direction_of_the_first():
    matrix = draw(3, 8)
    subspace = Subspace.from_matrix(matrix)
    q, r = np.linalg.qr(matrix.numpy().T)
    exactly(subspace.basis, torch.from_numpy((q * np.sign(np.diag(r))).T))
    exactly(subspace.basis[0], matrix[0] / matrix[0].norm())
    exactly(subspace.project(matrix), matrix)
    assert not torch.allclose(random(8, 3, seed=1).project(matrix), matrix)  # others don't hold it


@settings(deadline=None)  # the machine may be busy
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 6))
def test_from_matrix_leaves_orthonormal_rows_as_they_are(seed, rank):
    rows = random(6, rank, seed).basis
    exactly(Subspace.from_matrix(rows).basis, rows)


def test_linearly_dependent_rows_are_refused_with_their_rank():
    matrix = draw(4, 2) @ draw(2, 8, seed=1)
    with pytest.raises(ValueError, match=r"4 rows but rank 2.*spanned_by"):
        Subspace.from_matrix(matrix)
    with pytest.raises(ValueError, match="5 rows but rank 3"):
        Subspace.from_matrix(draw(5, 3))


def test_spanned_by_gives_what_dependent_rows_span():
    basis = draw(2, 8, seed=1)
    spanned = Subspace.spanned_by(draw(4, 2) @ basis)
    assert spanned is not None and spanned.rank == 2
    assert spanned.principal_angles(Subspace.from_matrix(basis)).max() < 1e-10
    assert Subspace.spanned_by(torch.zeros(2, 8)) is None
    assert Subspace.spanned_by(torch.zeros(0, 8)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 4096), (16, 576), (40, 8)])
def test_the_numerical_rank_of_a_random_matrix_is_its_smaller_side(dtype, shape):
    # NumPy's threshold with bfloat16's epsilon would be 32 largest singular values at d = 4096.
    assert numerical_rank(draw(*shape).to(dtype)) == min(shape)


def test_the_numerical_rank_is_numpys():
    matrix = draw(6, 3) @ draw(3, 50, seed=1)
    for noise in (0.0, 1e-16, 1e-12, 1e-3):
        noisy = matrix + noise * draw(6, 50, seed=2)
        assert numerical_rank(noisy) == np.linalg.matrix_rank(noisy.numpy())
        assert numerical_rank(noisy.float()) == np.linalg.matrix_rank(noisy.float().numpy())


def test_rows_that_only_rounding_keeps_apart_are_dependent():
    row = draw(1, 64)
    for dtype in (torch.bfloat16, torch.float32):
        assert numerical_rank(torch.cat([row, 1.1 * row]).to(dtype)) == 1


@pytest.mark.parametrize("make", [Subspace.from_matrix, Subspace.spanned_by, numerical_rank])
def test_a_matrix_that_is_not_finite_is_refused(make):
    with pytest.raises(ValueError, match=r"matrix must be finite, got 1 of 4 .*not finite.*row 1"):
        make(torch.tensor([[1.0, 2.0], [1.0, float("nan")]]))


VECTOR, MATRIX, STACK = torch.ones(4), torch.eye(4), torch.ones(2, 3, 4)
means = Subspace.from_difference_of_means


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subspace.from_matrix(VECTOR), r"matrix must have shape \(r, d\), got \(4,\)"),
        (lambda: Subspace.from_matrix(STACK), r"matrix must have shape .*got \(2, 3, 4\)"),
        (lambda: Subspace.spanned_by(VECTOR), r"matrix must have shape .*got \(4,\)"),
        (lambda: Subspace.from_pca(VECTOR, 1), r"activations must have shape \(n, d\), got \(4,"),
        (lambda: Subspace.from_pca(STACK, 1), r"activations must have shape .*got \(2, 3, 4\)"),
        (lambda: Subspace.from_svd(VECTOR, 1), r"activations must have shape .*got \(4,\)"),
        (lambda: Subspace.from_svd(STACK, 1), r"activations must have shape .*got \(2, 3, 4\)"),
        (lambda: means(VECTOR, MATRIX), r"positive must have shape \(n, d\), got \(4,\)"),
        (lambda: means(MATRIX, VECTOR), r"negative must have shape \(m, 4\), as .*got \(4,\)"),
        (lambda: means(MATRIX, MATRIX[:, :1]), r"negative must have shape \(m, 4\), .*\(4, 1\)"),
    ],
)
def test_what_is_no_matrix_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_random_is_a_function_of_its_seed():
    assert_close(random(9, 4, seed=3).basis, random(9, 4, seed=3).basis, rtol=0, atol=0)
    assert not torch.allclose(random(9, 4, seed=3).basis, random(9, 4, seed=4).basis)
    before = torch.random.get_rng_state()
    random(9, 4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_random_directions_are_uniform_on_the_sphere():
    # A squared coordinate of a uniform unit vector in R^d is Beta(1/2, (d−1)/2).
    squares = [float(random(5, 2, seed).basis[1, 3] ** 2) for seed in range(400)]
    assert scipy.stats.kstest(squares, scipy.stats.beta(0.5, 2).cdf).pvalue > 0.01
    # and the test can fail: the same numbers are not those of another dimension
    assert scipy.stats.kstest(squares, scipy.stats.beta(0.5, 1).cdf).pvalue < 0.01


def test_random_subspaces_prefer_no_direction():
    mean = torch.stack([s.basis.T @ s.basis for s in (random(4, 2, i) for i in range(1000))]).mean(
        0
    )
    # Entries have a standard deviation below 0.4, so 4 standard errors are 0.05.
    assert_close(mean, 0.5 * torch.eye(4, dtype=torch.float64), rtol=0, atol=0.05)


@pytest.mark.parametrize("rank", [True, False])
def test_a_rank_is_a_whole_number(rank):
    with pytest.raises(TypeError, match=f"rank must be a whole number, got {rank!r}"):
        check_rank(rank)


@pytest.mark.parametrize("rank", [0, 5])
def test_random_refuses_a_rank_beyond_the_width(rank):
    with pytest.raises(ValueError, match=f"rank must be .*got {rank}"):
        Subspace.random(4, rank, seed=0)


def test_a_half_precision_subspace_is_kept_in_float32():
    # Rounded to bfloat16 its rows would be off by 1e-3 and no basis any more.
    assert Subspace.random(64, 4, seed=0, dtype=torch.bfloat16).basis.dtype == torch.float32
    assert Subspace.from_matrix(draw(2, 4096).bfloat16()).basis.dtype == torch.float32
    assert random(8, 2).basis.dtype == torch.float64


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_pca_finds_scikit_learns_components(rank):
    activations = draw(50, 6) @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1, 0.5]).double()) + 7
    ours = Subspace.from_pca(activations, rank).basis.numpy()
    theirs = PCA(rank).fit(activations.numpy()).components_
    cosines = (ours * theirs).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-12)


def test_pca_of_half_precision_activations_is_that_of_their_values():
    # With a component that is as large in every token as they are in language models.
    activations = (draw(80, 576) + 1000 * torch.eye(576)[3]).bfloat16()
    ours = Subspace.from_pca(activations, 5)
    exact = Subspace.from_pca(activations.double(), 5)
    assert ours.principal_angles(exact).max() < 1e-4


def test_pca_refuses_more_components_than_there_are():
    flat = draw(20, 2) @ draw(2, 6, seed=1)
    with pytest.raises(ValueError, match=r"between 1 and 2 \(the rank of .*\(20, 6\)\), got 3"):
        Subspace.from_pca(flat, 3)
    with pytest.raises(ValueError, match="got 0"):
        Subspace.from_pca(flat, 0)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        Subspace.from_pca(flat[:1], 1)
    with pytest.raises(ValueError, match="activations must be finite, got 120 of 120"):
        Subspace.from_pca(flat * torch.nan, 1)


def test_svd_finds_the_right_singular_vectors_of_activations_as_they_are():
    # Far from zero along the last dimension, along which nothing varies.
    activations = draw(50, 6) @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1, 0]).double())
    activations[:, 5] = 100
    _, _, theirs = np.linalg.svd(activations.numpy())
    for rank in (1, 4):
        ours = Subspace.from_svd(activations, rank).basis.numpy()
        np.testing.assert_allclose(np.abs((ours * theirs[:rank]).sum(1)), 1, atol=1e-12)
    mean = Subspace(torch.eye(6).double()[5:])
    assert Subspace.from_svd(activations, 1).principal_angles(mean).max() < 1
    assert Subspace.from_pca(activations, 1).principal_angles(mean).max() > 89
    with pytest.raises(ValueError, match=r"between 1 and 2 \(the rank of the activations, .*got 3"):
        Subspace.from_svd(draw(20, 2) @ draw(2, 6, seed=1), 3)


def test_rows_that_are_all_alike_have_no_component():
    same = draw(1, 6).float().expand(7, 6) * (1 + 1e-8)
    with pytest.raises(ValueError, match="between 1 and 0"):
        Subspace.from_pca(same, 1)


def test_difference_of_means_points_from_negative_to_positive():
    positive, negative = draw(10, 6) + 1, draw(15, 6, seed=1)
    expected = positive.numpy().mean(0) - negative.numpy().mean(0)
    found = Subspace.from_difference_of_means(positive, negative)
    np.testing.assert_allclose(
        found.basis[0].numpy(), expected / np.linalg.norm(expected), atol=1e-12
    )
    other = Subspace.from_difference_of_means(negative, positive)
    exactly(other.basis, -found.basis)


def test_difference_of_means_keeps_what_half_precision_would_round():
    positive, negative = draw(10, 4096).bfloat16(), draw(15, 4096, seed=1).bfloat16()
    exact = Subspace.from_difference_of_means(positive.double(), negative.double())
    found = Subspace.from_difference_of_means(positive, negative)
    assert found.principal_angles(exact).max() < 1e-4
    rounded = Subspace.from_matrix((positive.mean(0) - negative.mean(0))[None])
    assert rounded.principal_angles(exact).max() > 1e-2


def test_a_small_difference_beside_one_huge_component_is_a_direction():
    huge = 3000 * torch.eye(8)[0]
    positive = (huge + torch.eye(8)[1]).expand(5, 8).bfloat16()
    negative = huge.expand(5, 8).bfloat16()
    found = Subspace.from_difference_of_means(positive, negative)
    assert_close(found.basis, torch.eye(8)[1:2])


def test_means_without_a_difference_are_refused():
    h = draw(10, 6)
    with pytest.raises(ValueError, match=r"`positive` \(10 rows\) and `negative` \(10\) coincide"):
        Subspace.from_difference_of_means(h, h.flip(0))
    with pytest.raises(ValueError, match="got 10 and 0"):
        Subspace.from_difference_of_means(h, h[:0])
    with pytest.raises(ValueError, match="not finite"):
        Subspace.from_difference_of_means(h, h * torch.nan)


# What it does to activations


@settings(deadline=None)  # the machine may be busy
@given(subspace=spaces, seed=st.integers(0, 2**31))
def test_projecting_and_removing_divide_a_vector_in_two(subspace, seed):
    h = draw(3, 2, subspace.width, seed=seed)
    inside, outside = subspace.project(h), subspace.remove(h)
    exactly(inside + outside, h)
    exactly(subspace.project(inside), inside)
    exactly(subspace.remove(outside), outside)
    exactly(subspace.project(outside), torch.zeros_like(h))
    exactly((inside * outside).sum(-1), torch.zeros_like(h[..., 0]))
    assert not torch.allclose(inside, torch.zeros_like(h))  # it keeps something


@settings(deadline=None)  # the machine may be busy
@given(subspace=spaces, seed=st.integers(0, 2**31))
def test_coordinates_are_inner_products_with_the_rows(subspace, seed):
    h = draw(4, subspace.width, seed=seed)
    naive = [[float(row @ vector) for row in subspace.basis] for vector in h]
    exactly(subspace.coordinates(h), torch.tensor(naive, dtype=torch.float64))


def test_activations_keep_their_dtype():
    h = draw(3, 8).bfloat16()
    subspace = random(8, 3)
    exact = subspace.project(h.double())
    assert subspace.project(h).dtype == torch.bfloat16
    # Two products of at most 8 terms, each rounded to 8 bits.
    assert_close(subspace.project(h).double(), exact, rtol=0, atol=0.05)


def test_half_precision_is_rounded_once():
    subspace = Subspace.random(64, 3, seed=0)
    h = torch.randn(200, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    basis = subspace.basis.double()
    exact = h.double() @ basis.T
    torch.testing.assert_close(subspace.coordinates(h), exact.bfloat16(), atol=0, rtol=2**-8)
    outside = (h.double() - exact @ basis).bfloat16()
    assert (subspace.remove(h) != outside).float().mean() < 0.01


@pytest.mark.usefixtures("no_type_checks")
def test_activations_of_whole_numbers_are_refused():
    with pytest.raises(TypeError, match=r"floating point numbers, got torch\.int64"):
        Subspace.random(3, 1, seed=0).coordinates(torch.tensor([1, 2, 3]))


def test_activations_of_another_width_are_refused():
    for verb in (random(8, 3).coordinates, random(8, 3).project, random(8, 3).remove):
        with pytest.raises(ValueError, match=r"7 wide, but the subspace lives in R\^8"):
            verb(draw(2, 7))


# Subspaces beside each other


@settings(deadline=None)  # the machine may be busy
@given(width=st.integers(2, 12), ranks=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_principal_angles_are_scipys(width, ranks):
    a, b = random(width, min(ranks[0], width), 1), random(width, min(ranks[1], width), 2)
    angles = a.principal_angles(b)
    assert angles.shape == (min(a.rank, b.rank),)
    assert (np.diff(angles) >= -1e-9).all()
    # Where the two share a direction, scipy's angle is off by a few 1e-6 degrees.
    np.testing.assert_allclose(angles, scipy_angles(a, b), atol=1e-5)
    np.testing.assert_allclose(angles, b.principal_angles(a), atol=1e-10)


def test_principal_angles_are_those_that_were_planted():
    planted = [1e-7, 1e-5, 0.3, 44.9, 45.1, 89.9999, 90.0]
    a, b = turned(20, planted)
    np.testing.assert_allclose(a.principal_angles(b), planted, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("degrees", [1e-5, 1e-7])
def test_small_angles_keep_their_digits(degrees):
    a, b = turned(50, [degrees])
    assert a.principal_angles(b)[0] == pytest.approx(degrees, rel=1e-6)
    # From the cosine alone they would be lost.
    cosine = float(a.basis[0] @ b.basis[0])
    assert np.rad2deg(np.arccos(min(cosine, 1))) != pytest.approx(degrees, rel=1e-3)


def test_a_float32_subspace_lies_within_rounding_of_itself():
    a = Subspace.random(576, 8, seed=0)
    turned_basis = Subspace.from_matrix(draw(8, 8).float() @ a.basis)
    assert a.principal_angles(turned_basis).max() < 1e-4
    assert a.overlap(turned_basis) == pytest.approx(1, abs=1e-9)


def test_overlap_is_the_mean_squared_cosine():
    a, b = turned(20, [0.0, 30.0, 60.0, 90.0])
    assert a.overlap(b) == pytest.approx((1 + 0.75 + 0.25 + 0) / 4, abs=1e-12)
    trace = np.trace(a.basis.numpy().T @ a.basis.numpy() @ b.basis.numpy().T @ b.basis.numpy())
    assert a.overlap(b) == pytest.approx(trace / 4, abs=1e-12)


@pytest.mark.parametrize(("p", "q"), [(2, 5), (5, 2), (3, 3), (1, 12)])
def test_random_subspaces_overlap_as_much_as_expected(p, q):
    draws = [random(12, p, 2 * i).overlap(random(12, q, 2 * i + 1)) for i in range(300)]
    error = np.std(draws) / 300**0.5
    assert np.mean(draws) == pytest.approx(expected_overlap(p, q, 12), abs=4 * error + 1e-12)
    if max(p, q) < 12:
        assert abs(np.mean(draws) - min(p, q) / 13) > 4 * error  # it could have been another


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [(0, 2, "p must be at least 1, got 0"), (2, 13, r"q must be between 1 and 12 .*, got 13")],
)
def test_no_overlap_is_expected_of_ranks_that_no_subspace_has(p, q, message):
    with pytest.raises(ValueError, match=message):
        expected_overlap(p, q, 12)


@settings(deadline=None)  # the machine may be busy
@given(subspace=spaces)
def test_the_complement_is_what_is_removed(subspace):
    if subspace.rank == subspace.width:
        with pytest.raises(ValueError, match="no complement"):
            subspace.complement()
        return
    complement = subspace.complement()
    assert complement.rank == subspace.width - subspace.rank
    h = draw(3, subspace.width)
    exactly(complement.project(h), subspace.remove(h))
    assert complement.complement().principal_angles(subspace).max() < 1e-6


@settings(deadline=None)  # the machine may be busy
@given(
    width=st.integers(2, 12),
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 2**20),
)
def test_a_union_holds_its_parts_and_is_no_larger_than_it_must_be(width, ranks, seed):
    parts = [random(width, min(rank, width), seed + i) for i, rank in enumerate(ranks)]
    union = parts[0].union(*parts[1:])
    assert union.rank == min(width, sum(part.rank for part in parts))
    for part in parts:
        exactly(union.project(part.basis), part.basis)
    assert union.union(*parts).rank == union.rank


def test_a_union_counts_what_is_shared_once():
    axes = torch.eye(6, dtype=torch.float64)
    union = Subspace(axes[[0, 1, 2]]).union(Subspace(axes[[1, 2, 3]]), Subspace(axes[[2]]))
    assert union.rank == 4
    assert union.principal_angles(Subspace(axes[:4])).max() < 1e-10


def test_a_union_of_two_precisions_is_judged_by_the_coarser():
    fine = random(64, 4)
    coarse = Subspace(fine.basis.float())
    assert fine.union(coarse).rank == 4
    assert coarse.union(fine).rank == 4


def test_subspaces_of_different_spaces_do_not_compare():
    for verb in (random(8, 3).principal_angles, random(8, 3).overlap, random(8, 3).union):
        with pytest.raises(ValueError, match="different width: 8 and 7"):
            verb(random(7, 3))


# Saved and moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_saved_is_loaded(tmp_path, dtype):
    subspace = Subspace.random(8, 3, seed=0, dtype=dtype)
    subspace.save(tmp_path / "found.safetensors")
    loaded = Subspace.load(tmp_path / "found.safetensors")
    assert_close(loaded.basis, subspace.basis, rtol=0, atol=0)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file, first = tmp_path / "found", random(8, 3)
    first.save(file)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        random(8, 3, seed=1).save(file)
    assert_close(Subspace.load(file).basis, first.basis, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_without_a_subspace_is_refused(tmp_path):
    save_file({"weight": torch.eye(3)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match=r"other.safetensors holds no subspace.*'basis'"):
        Subspace.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("held", "notes", "message"),
    [
        ({"basis": torch.eye(3)}, None, "found has format None; this version reads 'Subspace 1'"),
        ({"basis": torch.eye(3)}, {"format": "Subspace 2"}, "found has format 'Subspace 2'"),
        (
            {"basis": 2 * torch.eye(3)},
            {"format": "Subspace 1"},
            "found cannot be read: basis: .*ort",
        ),
        ({"basis": torch.nan * torch.eye(3)}, {"format": "Subspace 1"}, "found: 9 of the 9 .*NaN"),
    ],
)
def test_a_file_of_something_else_is_refused_by_its_name(tmp_path, held, notes, message):
    save_file(held, str(tmp_path / "found"), notes)
    with pytest.raises(ValueError, match=message):
        Subspace.load(tmp_path / "found")


def test_a_file_that_is_cut_short_is_refused_by_its_name(tmp_path):
    file = tmp_path / "found"
    random(8, 3).save(file)
    for whole in (file.read_bytes(), b""):
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="found is damaged or no safetensors file"):
            Subspace.load(file)
    with pytest.raises(FileNotFoundError):
        Subspace.load(tmp_path / "nothing")


def test_moving_keeps_the_values():
    subspace = random(8, 3)
    moved = subspace.to("cpu")
    assert_close(moved.basis, subspace.basis, rtol=0, atol=0)
    assert in_float64(subspace.basis.float()).dtype == torch.float64


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("read", ["coordinates", "project", "remove"])
def test_what_is_read_is_a_tensor_of_floating_point_numbers(read):
    subspace, wrong = Subspace(torch.eye(2)), "activations must be"
    with pytest.raises(TypeError, match=f"{wrong} a tensor, as torch.as_tensor gives, got list"):
        getattr(subspace, read)([1.0, 2.0])
    with pytest.raises(TypeError, match=f"{wrong} floating point numbers, got torch.int64"):
        getattr(subspace, read)(torch.tensor([1, 2]))
