"""Joint searches trained together: each ends where it would alone."""

import pytest
from torch.testing import assert_close
from two_variables import SITE, joint_pairs, planted_model

import reft_interp as ri
from reft_interp.causal.joint_cells import JointCell, fit_das_jointly_each
from reft_interp.causal.shuffling import resample, shuffled_pairs

PLACES = {"first": (SITE, "last", 1), "second": (SITE, "last", 2)}


def test_cells_end_where_each_would_alone(tiny_parts):
    model, rows = planted_model(tiny_parts), joint_pairs(count=24).train.to_list()
    alone = {
        "seed 0": (JointCell(PLACES, epochs=2), rows),
        "seed 1": (JointCell(PLACES, 1, epochs=2), rows),
        "other places": (
            JointCell({**PLACES, "second": (ri.Site("resid_post", 1), "last", 1)}, epochs=2), rows
        ),
        "shuffled": (
            JointCell(PLACES, 1, epochs=2, shuffled_labels=True), shuffled_pairs(rows, "", 1)
        ),
        "resampled": (
            JointCell(PLACES, epochs=2, resampled_pairs=3), [rows[i] for i in resample(24, 3)]
        ),
    }  # fmt: skip
    together = fit_das_jointly_each(
        model, rows, [cell for cell, _ in alone.values()], progress=False
    )
    for (name, (cell, own)), found in zip(alone.items(), together, strict=True):
        expected = ri.fit_das_jointly(
            model, own, cell.places, epochs=2, seed=cell.seed, progress=False
        )
        for variable, subspace in expected.subspaces.items():
            angle = found.subspaces[variable].principal_angles(subspace).max()
            assert angle < 0.01, (name, variable)
        losses = [one.losses["loss"].to_list() for one in (found, expected)]
        assert_close(*losses, atol=1e-5, rtol=0)
    bases = {name: one.subspaces["first"].basis for name, one in zip(alone, together, strict=True)}
    for name in ("seed 1", "shuffled", "resampled"):
        with pytest.raises(AssertionError):
            other = "seed 1" if name == "shuffled" else "seed 0"
            assert_close(bases[name], bases[other])
