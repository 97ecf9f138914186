"""Methods that read activations, on activations whose answer is known; `test_methods` has models.

Truth: closed forms of planted means, scikit-learn where nothing is shrunk, and that names of values
say nothing.
"""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import reft_interp as ri
from reft_interp.causal.reading_methods import ReadingMethod

READERS = (ri.DifferenceOfMeans, ri.LinearDiscriminant, ri.LogisticProbe)


def span(rows) -> ri.Subspace:
    return ri.Subspace.from_matrix(torch.as_tensor(np.array(rows, float)))


def drawn(seed: int, counts: tuple[int, ...], width: int = 6) -> tuple[torch.Tensor, np.ndarray]:
    """Activations around a mean a value, with a covariance that is no multiple of the identity."""
    rng = np.random.default_rng(seed)
    values = np.repeat(list("abcdef")[: len(counts)], counts)
    means = np.repeat(rng.normal(size=(len(counts), width)), counts, axis=0)
    noise = rng.normal(size=(len(values), width)) @ rng.normal(size=(width, width)) / 2
    return torch.from_numpy(means + noise), values


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("rank", [1, 2, None])
def test_what_values_are_called_changes_nothing(reader, rank):
    held, values = drawn(0, (30, 60, 90, 40))
    renamed = np.array([{"a": "z", "b": "y", "c": "a", "d": "m"}[value] for value in values])
    method: ReadingMethod = reader(rank=rank)
    one, other = (method.from_activations(held, given) for given in (values, renamed))
    # A logistic regression stops where its loss hardly falls, which may be a step apart.
    assert one.subspace.principal_angles(other.subspace).max() < 0.5
    assert one.subspace.rank == (rank or 3)


def test_the_longest_of_the_means_are_the_principal_axes_of_their_scatter():
    # Around their weighted mean, 0, the means are on two axes: 6 · 1² on the first, 2 · 1.2² on the
    # second. Differences from any one value would mix the axes.
    means = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.2, 0], [0, -1.2, 0]])
    counts = (3, 3, 1, 1)
    held = torch.from_numpy(np.repeat(means, counts, axis=0))
    values = np.repeat(list("abcd"), counts)
    for reader in (ri.DifferenceOfMeans, ri.LinearDiscriminant):
        one = reader(rank=1).from_activations(held, values).subspace
        assert one.principal_angles(span([[1, 0, 0]])).max() < 1e-4
    # Each value as often as the others, the second axis is the longer one.
    held, values = torch.from_numpy(means), np.array(list("abcd"))
    one = ri.DifferenceOfMeans(rank=1).from_activations(held, values).subspace
    assert one.principal_angles(span([[0, 1, 0]])).max() < 1e-4
    every = ri.DifferenceOfMeans().from_activations(held, values).subspace
    assert every.rank == 2
    assert every.principal_angles(span(means[[0, 2]])).max() < 1e-4


def test_the_first_discriminant_is_what_tells_most_and_not_what_moves_most():
    # Along the first dimension means are 6 apart with deviation 4, along the second 1 with 0.1.
    rng = np.random.default_rng(0)
    means = np.array([[0, 0, 0], [6.0, 0, 0], [0, 1.0, 0]])
    values = np.repeat(list("abc"), 2000)
    held = np.repeat(means, 2000, axis=0) + rng.normal(size=(6000, 3)) * [4, 0.1, 1]
    found = {
        reader: reader(rank=1).from_activations(torch.from_numpy(held), values).subspace
        for reader in (ri.DifferenceOfMeans, ri.LinearDiscriminant)
    }
    assert found[ri.LinearDiscriminant].principal_angles(span([[0, 1, 0]])).max() < 2
    assert found[ri.DifferenceOfMeans].principal_angles(span([[1, 0, 0]])).max() < 15


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_discriminants_are_those_of_scikit_learn_where_nothing_is_shrunk(rank):
    held, values = drawn(1, (4000, 8000, 2000, 6000))
    theirs = LinearDiscriminantAnalysis(solver="svd", n_components=rank).fit(held.numpy(), values)
    found = ri.LinearDiscriminant(rank=rank).from_activations(held, values).subspace
    # With thousands of examples Ledoit and Wolf shrink by some thousandths.
    assert found.principal_angles(span(theirs.scalings_[:, :rank].T)).max() < 0.5


def test_all_discriminants_are_what_a_shrunken_one_reads():
    held, values = drawn(2, (8, 10, 12), width=40)  # fewer examples than dimensions
    theirs = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=LedoitWolf())
    weights = theirs.fit(held.numpy(), values).coef_
    found = ri.LinearDiscriminant().from_activations(held, values).subspace
    assert found.principal_angles(span(weights[1:] - weights[0])).max() < 1e-3
    # Within what is read, the first tells most: the ratio of variances, by a search on a circle.
    first = ri.LinearDiscriminant(rank=1).from_activations(held, values).subspace.basis[0].numpy()
    between = np.cov(held.numpy().T) * 0
    for value, share in zip(theirs.classes_, theirs.priors_, strict=True):
        away = held.numpy()[values == value].mean(0) - held.numpy().mean(0)
        between += share * np.outer(away, away)

    def ratio(direction):
        return direction @ between @ direction / (direction @ theirs.covariance_ @ direction)

    angles = np.linspace(0, np.pi, 400)
    a, b = found.basis.numpy()
    best = max(ratio(np.cos(angle) * a + np.sin(angle) * b) for angle in angles)
    assert ratio(first) == pytest.approx(best, rel=1e-3)


def test_logistic_weights_count_beside_their_mean():
    """Three values at the corners of a triangle, the third the farthest: by symmetry it lies along
    the axis through that corner, whichever name it has."""
    corners = np.array([[-0.3, 0], [0.3, 0], [0, 4.0]])
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(500, 2))
    noise = np.concatenate([noise, noise * [-1, 1]])  # the same to the left and to the right
    held = torch.from_numpy(np.concatenate([corner + noise for corner in corners]))
    for names in ("abc", "cba", "bca"):
        found = ri.LogisticProbe(rank=1).from_activations(held, np.repeat(list(names), 1000))
        assert found.subspace.principal_angles(span([[0, 1]])).max() < 0.5


def test_too_few_examples_to_shrink_are_said():
    held = torch.zeros(4, 3, dtype=torch.float64)
    held[:, 0] = torch.tensor([0, 1, 0, 1])
    held[2:, 1] = 5
    with pytest.raises(ValueError, match=r"LDA: activations within a value .* 4 examples are too"):
        ri.LinearDiscriminant().from_activations(held, np.array(list("aabb")))


def test_a_probe_of_activations_that_differ_by_rounding_finds_nothing():
    # As those of prompts that are alike, run in batches of other shapes.
    held = torch.full((40, 4), 0.1)
    held[::2] = torch.nextafter(held[::2], torch.ones(20, 4))
    assert held.std() > 0
    with pytest.raises(ValueError, match="finds no direction: activations do not differ at all"):
        ri.LogisticProbe().from_activations(held, np.array(["a", "b"] * 20))
