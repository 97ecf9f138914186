"""MIB's aggregation, by hand."""

import numpy as np
import pandas as pd
import pytest

import reft_interp as ri
from reft_interp.causal.patching import Patching

ROWS = [
    # layer, tokens, set, iia
    (0, "last", "a", 0.2), (0, "last", "b", 0.4), (0, "first", "a", 0.9), (0, "first", "b", 0.1),
    (1, "last", "a", 1.0), (1, "last", "b", 0.8), (1, "first", "a", 0.0), (1, "first", "b", 0.1),
]  # fmt: skip
FRAME = pd.DataFrame(ROWS, columns=["layer", "tokens", "pairs", "iia"]).assign(site="s")


def test_sets_are_averaged_then_sites_compared_then_layers():
    found = ri.mib_scores(FRAME, counterfactuals="pairs")
    # Layer 0: last .3, first .5; layer 1: last .9, first .05.
    assert found.mean == pytest.approx((0.5 + 0.9) / 2)
    assert found.highest == pytest.approx(0.9)
    assert list(found.layers["tokens"]) == ["first", "last"]
    assert str(found) == "mean over layers 0.700, highest 0.900"
    one = ri.mib_scores(FRAME.query("pairs == 'a'"))
    assert (one.mean, one.highest) == (pytest.approx(0.95), 1.0)


def test_a_site_that_lacks_a_set_is_no_candidate():
    # Without set b, "first" of layer 0 would have .9, where it has .5 and "last" .3.
    for lacking in (FRAME.drop(index=3), FRAME.assign(iia=FRAME["iia"].mask(FRAME.index == 3))):
        found = ri.mib_scores(lacking, counterfactuals="pairs")
        assert found.mean == pytest.approx((0.3 + 0.9) / 2) and found.unscored == ()
        assert list(found.layers["tokens"]) == ["last", "last"]
    none = FRAME.assign(iia=FRAME["iia"].mask(FRAME["pairs"] == "b"))
    with pytest.raises(ValueError, match="for each of the 2 sets of 'pairs', every site lacks"):
        ri.mib_scores(none, counterfactuals="pairs")


def test_layers_without_a_score_are_named():
    # Of layer 0 each site lacks a set.
    frame = FRAME.assign(iia=FRAME["iia"].mask(FRAME.index.isin([0, 3])))
    found = ri.mib_scores(frame, counterfactuals="pairs")
    assert (found.mean, found.highest) == (pytest.approx(0.9), pytest.approx(0.9))
    assert found.unscored == (0,) and list(found.layers["layer"]) == [1]
    assert str(found) == (
        "mean over layers 0.900, highest 0.900; without layer 0, where no site has all scores"
    )
    more = pd.concat([frame, frame.assign(layer=2, iia=None)])
    assert "without layers 0, 2, where" in str(ri.mib_scores(more, counterfactuals="pairs"))
    assert ri.mib_scores(frame.query("pairs == 'a'")).unscored == ()


def test_failed_cells_are_left_out_and_mistakes_told():
    failed = FRAME.assign(iia=[None, None, *FRAME["iia"][2:]])
    assert ri.mib_scores(failed, counterfactuals="pairs").mean == pytest.approx(0.7)
    with pytest.raises(ValueError, match="one row a site and counterfactual set"):
        ri.mib_scores(FRAME)
    with pytest.raises(ValueError, match="columns layer, site, tokens, iia; layer missing"):
        ri.mib_scores(FRAME.drop(columns="layer"))
    with pytest.raises(ValueError, match="all 8 are missing"):
        ri.mib_scores(FRAME.assign(iia=float("nan")))


def test_results_with_tables_are_compared_as_what_they_are():
    sites = (ri.Site("resid_post", 0),)
    values = np.zeros((1, 1, 2))
    frame = pd.DataFrame({"layer": [0, 1]})
    made = [
        lambda: ri.Attribution(sites, ("last",), values),
        lambda: Patching(sites, ("last",), values[0, 0], values),
        lambda: ri.Disentanglement(sites[0], frame),
        lambda: ri.MIBScores(0.0, 0.0, frame),
    ]
    for make in made:
        one = make()
        assert one == one and one != make()
    assert all(of.__eq__ is object.__eq__ for of in (ri.DASResult, ri.JointDASResult))
