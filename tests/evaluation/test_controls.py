"""Random subspaces that controls are made of."""

import pytest

from reft_interp.evaluation import control_subspaces
from reft_interp.subspace import Subspace


def test_no_control_is_where_a_search_with_a_small_seed_begins():
    starts = [Subspace.random(16, 2, seed=seed) for seed in range(20)]
    controls = control_subspaces(16, 2, 10, seed=0) + control_subspaces(16, 2, 10, seed=1)
    assert max(a.overlap(b) for a in starts for b in controls) < 0.99
    assert starts[0].overlap(Subspace.random(16, 2, seed=0)) > 0.9999  # the check can fail


def test_the_same_seed_gives_the_same_and_all_differ():
    first, again = (control_subspaces(16, 2, 3, seed=4) for _ in range(2))
    assert [a.overlap(b) for a, b in zip(first, again, strict=True)] == pytest.approx([1, 1, 1])
    assert first[0].overlap(first[1]) < 0.99


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        control_subspaces(16, 2, 0)
