"""Controls of a joint claim: as large as what they stand for, and defined."""

import pytest
import torch
from torch.testing import assert_close
from two_variables import SITE

import reft_interp as ri
from reft_interp.causal.joint_controls import placebos, random_parts
from reft_interp.causal.shared_tokens import sharing


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


def placed(model, *places: tuple[ri.Site, str]) -> ri.IntervenedModel:
    return ri.IntervenedModel(
        model,
        [
            ri.Placement(ri.Interchange(), site, on, source=str(i))
            for i, (site, on) in enumerate(places)
        ],
    )


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(SITE, "last"), (SITE, "l1")], ("0", "1")),
        ([(SITE, "f2"), (SITE, "last")], ("0", "1")),
        ([(SITE, "first"), (SITE, "last")], ()),
        ([(SITE, "last"), (ri.Site("resid_post", 1), "last")], ()),
        ([(ri.Site("z", 0, heads=0), "last"), (ri.Site("z", 0, heads=1), "last")], ()),
        ([(ri.Site("z", 0), "last"), (ri.Site("z", 0, heads=1), "last")], ("0", "1")),
    ],
)
def test_places_are_shared_where_a_token_of_a_site_is(model, places, expected):
    assert sharing(placed(model, *places), ["A", "AB"]) == expected


def parts(model, width: int, ranks: tuple[int, ...]) -> ri.IntervenedModel:
    site = ri.Site("z", 0, heads=0) if width == 8 else SITE
    assert site.width(model) == width
    rows = ri.Subspace.random(width, sum(ranks), seed=1).basis.split(ranks)
    return ri.IntervenedModel(
        model,
        [
            ri.Placement(ri.DistributedInterchange(ri.Subspace(some)), site, "last", source=str(i))
            for i, some in enumerate(rows)
        ],
    )


@pytest.mark.parametrize("ranks", [(1, 1), (2, 3, 1), (3, 5)])
def test_placebos_move_as_far_as_the_claim(model, ranks):
    """Also where the ranks fill the space."""
    found = parts(model, 8, ranks)
    (along,) = random_parts(found, 1, seed=0)
    torch.manual_seed(0)
    h, *sources = torch.randn(1 + len(ranks), 5, 8)

    def moved(intervened: ri.IntervenedModel) -> torch.Tensor:
        new = h
        for placement, source in zip(intervened.placements, sources, strict=True):
            new = placement.intervention(new, source)
        return new - h

    placebo = moved(placebos(found, along))
    assert_close(placebo.norm(dim=-1), moved(found).norm(dim=-1), rtol=1e-3, atol=1e-5)
    if sum(ranks) < 8:
        assert not torch.allclose(placebo, moved(found), atol=1e-2)


def test_random_parts_are_orthogonal_where_they_share_a_place(model):
    first, second = random_parts(parts(model, 32, (2, 3)), 2, seed=0)
    assert_close(first["0"].basis @ first["1"].basis.T, torch.zeros(2, 3), atol=1e-6, rtol=0)
    assert first["0"].overlap(second["0"]) < 0.9
    apart = ri.IntervenedModel(
        model,
        [
            ri.Placement(
                ri.DistributedInterchange(ri.Subspace.random(32, 1, seed=1)),
                ri.Site("resid_post", layer),
                "last",
                source=str(layer),
            )
            for layer in (0, 1)
        ],
    )
    (drawn,) = random_parts(apart, 1, seed=0)
    assert drawn["0"].overlap(drawn["1"]) < 0.9  # nor the same directions at two places
