"""Linear probes find what was planted, and nothing where nothing is."""

import pytest
import torch

from reft_interp.evaluation import control_subspaces
from reft_interp.probing.linear import linear_probes, read_inside
from reft_interp.subspace import Subspace

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]


@pytest.fixture
def planted():
    """Labels written along the first coordinate of 32; a subspace that has it, one that has not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    h = torch.randn(200, 32, generator=generator)
    h[:, 0] += 6.0 * labels
    return h, labels.tolist(), Subspace(torch.eye(32)[:2]), Subspace(torch.eye(32)[2:4])


def values(frame) -> dict[str, float]:
    return dict(zip(frame["part"], frame["value"], strict=True))


def test_a_planted_label_is_read_inside_and_not_in_the_complement(planted):
    h, labels, having, _ = planted
    read = values(linear_probes(h, labels, having))
    assert read["inside"] > 0.97
    assert read["complement"] < 0.65
    assert read["shuffled labels"] < 0.65
    assert read["majority"] == 0.5


def test_elsewhere_it_is_read_in_the_complement_only(planted):
    h, labels, _, lacking = planted
    read = values(linear_probes(h, labels, lacking))
    assert read["inside"] < 0.65
    assert read["complement"] > 0.97


def test_groups_are_never_in_training_and_test_at_once():
    # Labels are drawn for each group at random, and h tells the group alone: what is learned of
    # some groups says nothing about others, so only a leak can be above chance.
    generator = torch.Generator().manual_seed(1)
    groups = [i // 10 for i in range(200)]
    by_group = torch.arange(20)[torch.randperm(20, generator=generator)] % 2
    codes = torch.randn(20, 32, generator=generator) * 3
    h = codes[groups] + 0.1 * torch.randn(200, 32, generator=generator)
    labels = by_group[groups].tolist()
    space = Subspace.random(32, 31, seed=0)
    leaking = values(linear_probes(h, labels, space))["inside"]
    apart = values(linear_probes(h, labels, space, groups=[str(g) for g in groups]))["inside"]
    assert leaking > 0.95
    assert apart < 0.8


def test_the_whole_space_has_no_complement(planted):
    h, labels, _, _ = planted
    assert "complement" not in set(linear_probes(h, labels, Subspace(torch.eye(32)))["part"])


def test_labels_that_do_not_fit_are_refused(planted):
    h, labels, having, _ = planted
    with pytest.raises(ValueError, match="199 for 200 activations"):
        linear_probes(h, labels[1:], having)
    with pytest.raises(ValueError, match="at least two values, got only 1"):
        linear_probes(h, [1] * 200, having)
    with pytest.raises(ValueError, match="got 4 of the rarest label, and 8 groups"):
        linear_probes(h[:8], [0, 1] * 4, having)
    with pytest.raises(ValueError, match="got 100 of the rarest label, and 4 groups"):
        linear_probes(h, [0, 1] * 100, having, groups=list("abcd") * 50)
    with pytest.raises(ValueError, match="got 1 of the rarest label, and 101 groups"):
        linear_probes(h[:101], [0] * 100 + [1], having)
    with pytest.raises(ValueError, match=r"each label must be in two groups at least, .* is in 1"):
        linear_probes(h, labels, having, groups=[str(i if i % 2 else 0) for i in range(200)])


def test_the_random_control_is_the_mean_and_range_of_its_draws(planted):
    h, labels, having, _ = planted
    frame = linear_probes(h, labels, having, draws=3, seed=1).set_index("part")
    inside = [
        values(linear_probes(h, labels, control, draws=1, seed=1))["inside"]
        for control in control_subspaces(32, 2, 3, seed=1)
    ]
    row = frame.loc["random subspace"]
    assert row["value"] == pytest.approx(sum(inside) / 3)
    assert (row["low"], row["high"]) == (min(inside), max(inside))


def test_several_subspaces_are_read_as_each_alone(planted):
    h, labels, having, lacking = planted
    wide = Subspace(torch.eye(32)[:5])
    frame = read_inside(h, labels, [having, lacking, wide], draws=2, seed=1)
    for subspace, (_, row) in zip((having, lacking, wide), frame.iterrows(), strict=True):
        alone = linear_probes(h, labels, subspace, draws=2, seed=1).set_index("part")
        of = {"accuracy": "inside", "random": "random subspace"}
        for column in ("accuracy", "random", "shuffled labels", "majority"):
            assert row[column] == alone.loc[of.get(column, column), "value"]
        assert (row["low"], row["high"]) == tuple(alone.loc["inside", ["low", "high"]])
        assert row["random high"] == alone.loc["random subspace", "high"]
    whole = linear_probes(h, labels, Subspace(torch.eye(32)), draws=1, seed=1)
    assert set(frame["whole vector"]) == {values(whole)["inside"]}
    with pytest.raises(ValueError, match="199 for 200 activations"):
        read_inside(h, labels[1:], [having])
