"""Screening keeps the places where a variable was planted."""

import pytest

from reft_interp.causal import DASCell, screen_cells
from reft_interp.sites import Site
from reft_interp.sweeps import grid
from reft_interp.tasks import plantings


@pytest.fixture(scope="module")
def planting():
    return plantings()[0]


def test_the_place_that_matters_is_kept_with_all_its_cells(planting):
    pairs = planting.counterfactuals(60)
    layers = range(planting.model.cfg.n_layers)
    cells = grid([Site("resid_post", i) for i in layers], ["f1", "l1"], ranks=[1, 2])
    kept = screen_cells(planting.model, pairs.train, cells, 0.5)
    places = {(cell.site.layer, str(cell.on)) for cell in kept}
    assert (planting.site.layer, "l1") in places
    # What stands at the first token above the last layer is read by nobody.
    assert (layers[-1], "f1") not in places
    assert len(kept) == len(cells) // 2
    assert [cells.index(cell) for cell in kept] == sorted(cells.index(cell) for cell in kept)
    (one, other) = screen_cells(planting.model, pairs.train, cells, 1e-6)
    assert one.site == other.site and {one.rank, other.rank} == {1, 2}
    assert screen_cells(planting.model, pairs.train, cells, 1) == cells


def test_a_share_of_the_places_is_no_place_more_by_rounding(planting):
    assert 0.28 * 25 > 7  # as numbers of a computer go
    sites = [Site("resid_pre", 0), *(Site("resid_post", i) for i in range(4))]
    cells = grid(sites, ["f1", "f2", "l1", "l2", "every"], ranks=[1])
    pairs = planting.counterfactuals(60).train
    assert len(screen_cells(planting.model, pairs, cells, 0.28)) == 7
    assert len(screen_cells(planting.model, pairs, cells, 0.281)) == 8


def test_says_what_is_wrong(planting):
    pairs = planting.counterfactuals(60).train
    with pytest.raises(ValueError, match="keep must be above 0 and at most 1, got 0"):
        screen_cells(planting.model, pairs, [DASCell(Site("resid_post", 0), "last")], 0.0)
    with pytest.raises(ValueError, match="cells must hold at least one cell"):
        screen_cells(planting.model, pairs, [], 0.5)
