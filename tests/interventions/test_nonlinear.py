"""The invertible map: it begins as a rotation, and reaches what no rotation can."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from reft_interp.interventions import DistributedInterchange, NonlinearInterchange
from reft_interp.subspace import Subspace


@pytest.mark.parametrize("width", [2, 7, 8])
def test_it_starts_as_a_distributed_interchange(width):
    edit = NonlinearInterchange(1, width)
    base, source = torch.randn(5, width), torch.randn(5, width)
    linear = DistributedInterchange(Subspace(edit.rotation().detach()[:1]))
    assert_close(edit(base, source), linear(base, source), atol=1e-5, rtol=1e-5)


def test_all_coordinates_are_the_whole_vector():
    edit = NonlinearInterchange(6, 6, hidden=4)
    with torch.no_grad():
        for parameter in edit.parameters():
            parameter.normal_()
    base, source = torch.randn(5, 6), torch.randn(5, 6)
    assert_close(edit(base, source), source, atol=1e-3, rtol=1e-3)


def test_it_swaps_a_variable_that_is_no_direction():
    """The variable is the sign of a product: no line of R² tells it, and a curve does."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(512, 2, generator=generator)
    base, source = h[:256], h[256:]
    wanted = (source.prod(-1) > 0).float() * 2 - 1

    def right(edit) -> float:
        return float((edit(base, source).prod(-1).sign() == wanted).float().mean())

    scores = []
    for nonlinear in (True, False):
        torch.manual_seed(1)
        edit = (
            NonlinearInterchange(1, 2, hidden=32)
            if nonlinear
            else DistributedInterchange(Subspace.random(2, 1, seed=0), trainable=True)
        )
        optimiser = torch.optim.Adam(edit.parameters(), lr=1e-2)
        for _ in range(400):
            optimiser.zero_grad()
            margin = edit(base, source).prod(-1) * wanted
            torch.nn.functional.softplus(-margin).mean().backward()
            optimiser.step()
        scores.append(right(edit))
    assert scores[0] > 0.9 > 0.75 > scores[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"rank": 9}, "rank must be between 1 and 8"),
        ({"rank": 1, "hidden": 0}, "hidden must be at least 1, got 0"),
        ({"rank": 1, "depth": 0}, "depth must be at least 1, got 0"),
        ({"rank": 1, "width": 1}, "rank must be between 1 and 1 .*2 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NonlinearInterchange(**{"width": 8, **arguments})


def test_a_template_has_no_subspace():
    with pytest.raises(ValueError, match="does not know its width yet"):
        _ = NonlinearInterchange(2).subspace
    assert NonlinearInterchange(2).for_width(8).subspace.rank == 8


@pytest.mark.usefixtures("no_type_checks")
def test_a_rank_of_numpy_is_saved_as_a_number():
    rank: Any = np.int64(2)
    assert json.dumps(NonlinearInterchange(rank).arguments()) == json.dumps(
        NonlinearInterchange(2).arguments()
    )
