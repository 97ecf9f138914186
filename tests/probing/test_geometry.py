"""Angles and overlaps, against planes whose position is known."""

import math

import numpy as np
import pytest
import torch

from reft_interp.probing.geometry import (
    angles_between,
    overlap_beside_chance,
    random_angles,
    variance_inside,
)
from reft_interp.subspace import Subspace


def test_angles_of_a_planted_plane():
    turned = torch.zeros(2, 6)
    turned[0, 0] = 1.0
    turned[1, 1], turned[1, 2] = math.cos(math.radians(30)), math.sin(math.radians(30))
    frame = angles_between(Subspace(torch.eye(6)[:2]), Subspace(turned))
    assert frame["index"].tolist() == [1, 2]
    assert frame["angle"].tolist() == pytest.approx([0.0, 30.0], abs=1e-3)


def test_random_lines_meet_at_the_angle_that_theory_gives():
    # In R^3 the angle between random lines has density sin: its mean is one radian.
    frame = random_angles((1, 1), 3, draws=2000)
    assert frame["angle"].item() == pytest.approx(math.degrees(1.0), abs=2.0)
    assert frame["low"].item() < frame["angle"].item() < frame["high"].item()


def test_overlap_stands_beside_what_chance_gives():
    a = Subspace(torch.eye(8)[:2])
    found = overlap_beside_chance(a, Subspace(torch.eye(8)[1:5]))
    assert found["overlap"] == pytest.approx(0.5)
    assert found["expected at random"] == pytest.approx(4 / 8)
    draws = [a.overlap(Subspace.random(8, 4, seed=i)) for i in range(500)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.02)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found["random low"] == pytest.approx(low, abs=0.06)
    assert found["random high"] == pytest.approx(high, abs=0.06)


def test_variance_inside_is_that_of_the_coordinates():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(4000, 4, generator=generator) * torch.tensor([3.0, 1.0, 2.0, 1.0]) + 100
    assert variance_inside(Subspace(torch.eye(4)[:1]), h) == pytest.approx(9 / 15, abs=0.02)
    assert variance_inside(Subspace(torch.eye(4)), h) == pytest.approx(1.0)
    assert math.isnan(variance_inside(Subspace(torch.eye(4)[:1]), h[:1].repeat(7, 1)))
