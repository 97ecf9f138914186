"""Methods side by side: what each finds where the truth is known, and what they refuse."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import reft_interp as ri
from reft_interp.causal.labelled_activations import labelled_activations
from reft_interp.causal.rows import rows_of
from reft_interp.evaluation.controls import control_subspaces
from reft_interp.tasks import plantings

pytestmark = [pytest.mark.usefixtures("long_training"), pytest.mark.no_cover]

FITTED = [
    ri.DifferenceOfMeans(),
    ri.LinearDiscriminant(),
    ri.LogisticProbe(),
    ri.DAS(epochs=12, learning_rate=3e-2),
]


@pytest.fixture(scope="module")
def planted() -> dict[str, ri.tasks.Planting]:
    return {planting.name: planting for planting in plantings()}


@pytest.mark.parametrize("method", FITTED, ids=lambda method: method.name)
def test_each_finds_the_planted_direction(planted, method):
    one = planted["one layer"]
    found = method.fit(one.model, one.counterfactuals(240).train, "number", one.site, one.on)
    assert found.subspace.principal_angles(one.subspace).max() < 10
    assert isinstance(method, ri.Method)


def test_activations_alone_do_not_tell_a_decoy(planted):
    one = planted["decoy"]
    found = ri.compare_methods(
        one.model, one.counterfactuals(240), one.site, one.on, [ri.FullVector(), *FITTED]
    )
    # Each reads the variable there, and no interchange there changes the answer.
    assert found["difference of means"][0].value == found["no intervention"][0].value == 0.5
    assert [name for name, _ in found.rows] == [
        "whole vector", "difference of means", "LDA", "logistic probe", "DAS", "no intervention",
    ]  # fmt: skip


def test_pca_follows_the_variance_and_not_the_variable(planted):
    one = planted["one layer"]
    pairs = one.counterfactuals(240)
    held, _ = labelled_activations(one.model, pairs.train, "number", one.site, one.on)
    found = ri.PCA(rank=2).fit(one.model, pairs.train, "number", one.site, one.on)
    assert found.subspace.overlap(ri.Subspace.from_pca(held, 2)) == pytest.approx(1, abs=1e-5)
    # The subject's number and the companion's mood are all that varies at the last token.
    assert one.subspace is not None
    assert one.subspace.overlap(found.subspace) == pytest.approx(1, abs=1e-2)


def test_several_values_span_a_subspace_or_its_longest_directions(planted):
    one = planted["four values"]
    pairs = one.counterfactuals(240).train
    for method in (ri.DifferenceOfMeans, ri.LinearDiscriminant, ri.LogisticProbe):
        assert method().fit(one.model, pairs, "number", one.site, one.on).subspace.rank == 3
        found = method(rank=2).fit(one.model, pairs, "number", one.site, one.on)
        assert found.subspace.principal_angles(one.subspace).max() < 15
        with pytest.raises(ValueError, match="rank must be from 1 to 3"):
            method(rank=4).fit(one.model, pairs, "number", one.site, one.on)


def test_a_prompt_counts_once_and_has_its_value(planted):
    one = planted["one layer"]
    pairs = rows_of(one.counterfactuals(60).train)
    held, values = labelled_activations(one.model, pairs, "number", one.site, one.on)
    prompts = dict.fromkeys(row[side] for row in pairs for side in ("base", "source"))
    assert len(held) == len(values) == len(prompts)
    expected = torch.cat(ri.activations(one.model, list(prompts), one.site, one.on))
    order = {prompt: i for i, prompt in enumerate(prompts)}
    by_prompt = {row["base"]: row["base_number"] for row in pairs}
    found = {tuple(row.tolist()): value for row, value in zip(held, values, strict=True)}
    for prompt, value in by_prompt.items():
        assert found[tuple(expected[order[prompt]].tolist())] == value


def test_a_random_subspace_is_none_that_das_began_with():
    model = plantings()[0].model
    site = ri.Site("resid_post", 0)
    one, two = (ri.RandomSubspace(2, seed).fit(model, [], "x", site, "last") for seed in (0, 1))
    assert one.subspace.rank == 2
    assert one.subspace.overlap(two.subspace) < 0.9
    assert one.subspace.overlap(ri.Subspace.random(32, 2, seed=0)) < 0.9
    # Nor, with another seed, one of those that evidence has as its control beside it.
    assert max(two.subspace.overlap(other) for other in control_subspaces(32, 2, 20)) < 0.9


def test_what_cannot_be_fitted_is_refused(planted):
    one = planted["one layer"]
    pairs = one.counterfactuals(24)
    with pytest.raises(ValueError, match="no column 'base_colour'"):
        ri.DifferenceOfMeans().fit(one.model, pairs.train, "colour", one.site, one.on)
    same = [{**row, "base_number": 0, "source_number": 0} for row in rows_of(pairs.train)]
    with pytest.raises(ValueError, match="'number' never varies"):
        ri.DifferenceOfMeans().fit(one.model, same, "number", one.site, one.on)
    with pytest.raises(ValueError, match="of different names"):
        ri.compare_methods(one.model, pairs, one.site, one.on, [])
    with pytest.raises(ValueError, match="of different names"):
        ri.compare_methods(one.model, pairs, one.site, one.on, [ri.PCA(), ri.PCA(2)])
    alike = [{**row, "base": "s0 c0 then", "source": "s1 c1 then"} for row in same]
    alike[0]["base_number"] = 1
    early = ri.Site("resid_pre", 0)  # the last token is the same word everywhere
    with pytest.raises(ValueError, match="finds no direction"):
        ri.DifferenceOfMeans().fit(one.model, alike[:1], "number", early, one.on)


def test_pca_asks_for_no_variable(planted):
    one = planted["one layer"]
    rows = rows_of(one.counterfactuals(24).train)
    bare = [{name: row[name] for name in row if not name.endswith("_number")} for row in rows]
    found, other = (
        ri.PCA(2).fit(one.model, some, "number", one.site, one.on) for some in (bare, rows)
    )
    assert torch.equal(found.subspace.basis, other.subspace.basis)
    with pytest.raises(ValueError, match=r"no column 'base_number' .* that read activations"):
        ri.DifferenceOfMeans().fit(one.model, bare, "number", one.site, one.on)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("methods", [ri.PCA(), [ri.PCA], ["PCA"], "PCA", [LogisticRegression()]])
def test_what_are_no_methods_is_refused(planted, methods):
    one = planted["one layer"]
    with pytest.raises(TypeError, match=r"methods must be a list of methods, as \[DAS"):
        ri.compare_methods(one.model, one.counterfactuals(24), one.site, one.on, methods)


@pytest.mark.usefixtures("no_type_checks")
def test_a_layers_number_is_no_site(planted):
    one = planted["one layer"]
    layer: Any = 1
    asked = (
        lambda: ri.gather_evidence(one.model, one.counterfactuals(24), layer, one.on),
        lambda: ri.compare_methods(one.model, one.counterfactuals(24), layer, one.on, [ri.PCA()]),
        lambda: ri.DASCell(layer, one.on),
    )
    for ask in asked:
        with pytest.raises(TypeError, match=r"site must be a Site, as .* got 1"):
            ask()


@pytest.mark.parametrize("name", ["one layer", "four values"])
def test_boundless_das_finds_the_dimension(planted, name):
    one = planted[name]
    pairs = one.counterfactuals(240)
    edit = ri.BoundlessDAS(epochs=40).fit(one.model, pairs.train, "number", one.site, one.on)
    assert edit.subspace.rank == one.rank
    assert edit.subspace.principal_angles(one.subspace).max() < 5
    (found,) = ri.interchange_accuracies(one.model, pairs.test, [(edit, one.site, one.on)])
    assert found.value > 0.99


def test_a_mask_takes_the_coordinates_that_carry_the_variable(planted):
    one = planted["one layer"]
    assert one.subspace is not None
    pairs = one.counterfactuals(240)
    others = one.subspace.complement().basis[:7]
    basis = ri.Subspace(torch.cat([others[:3], one.subspace.basis, others[3:]]))
    edit = ri.MaskSearch(basis=basis, epochs=12).fit(
        one.model, pairs.train, "number", one.site, one.on
    )
    assert isinstance(edit, ri.MaskedInterchange)
    assert edit.chosen.tolist() == [i == 3 for i in range(8)]
    # The direction is rotated: it takes many neurons.
    neurons = ri.MaskSearch(epochs=12).fit(one.model, pairs.train, "number", one.site, one.on)
    assert isinstance(neurons, ri.MaskedInterchange)
    assert neurons.subspace.width == 32 and neurons.chosen.sum() > 3


def test_a_mask_has_one_basis(planted):
    one = planted["one layer"]
    pairs = one.counterfactuals(24).train
    found = ri.MaskSearch(components=3, epochs=1).fit(one.model, pairs, "number", one.site, one.on)
    assert isinstance(found, ri.MaskedInterchange) and len(found.chosen) == 3
    with pytest.raises(ValueError, match="give one of them, got components and basis"):
        ri.MaskSearch(components=3, basis=ri.Subspace(torch.eye(32)))


def test_a_mask_finds_the_feature_that_carries_the_variable(planted):
    """A dictionary of directions, up and down, one of which is where the variable was planted."""
    one = planted["one layer"]
    basis = torch.eye(32)
    basis[: one.subspace.rank] = one.subspace.basis
    q, _ = torch.linalg.qr(basis.T)
    directions = torch.cat([q.T, -q.T])
    features = ri.SparseAutoencoder(ri.FeatureEncoder(directions.T), directions)
    pairs = one.counterfactuals(120)
    method = ri.MaskSearch(features=features, epochs=12, sparsity=1.0, name="features")
    found = method.fit(one.model, pairs.train, "number", one.site, one.on)
    assert isinstance(found, ri.FeatureInterchange)
    score = ri.interchange_accuracy(one.model, pairs.test, found, one.site, one.on)
    assert score.value > 0.95
    chosen = set(torch.nonzero(found.chosen)[:, 0].tolist())
    planted_pair = {i + offset for i in range(one.subspace.rank) for offset in (0, 32)}
    assert chosen <= planted_pair and chosen


def test_a_free_map_stands_beside_its_score_on_an_untrained_model(planted):
    one = planted["one layer"]
    method = ri.NonlinearAlignment(epochs=2, hidden=16)
    found = ri.compare_methods(one.model, one.counterfactuals(60), one.site, one.on, [method])
    assert [name for name, _ in found.rows] == [
        "nonlinear alignment",
        "whole vector",
        "nonlinear alignment, untrained model",
        "no intervention",
    ]


def test_a_probe_says_where_there_is_nothing_to_read():
    held = torch.ones(6, 4)
    with pytest.raises(ValueError, match="logistic probe finds no direction: activations do not"):
        ri.LogisticProbe().from_activations(held, np.array(list("ababab")))


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-3])
def test_lda_finds_values_that_hardly_vary_within(noise):
    generator = torch.Generator().manual_seed(0)
    values = np.array([0, 1] * 20)
    between = torch.randn(16, generator=generator)
    held = torch.outer(torch.as_tensor(values).float(), between)
    held += noise * torch.randn(40, 1, generator=generator) * torch.eye(16)[3]
    found = ri.LinearDiscriminant().from_activations(held, values)
    expected = between.clone()
    if noise == 1e-3:  # along this dimension alone means are told apart no better
        expected[3] = 0
    assert found.subspace.principal_angles(ri.Subspace.from_matrix(expected[None])).max() < 3
    with pytest.raises(ValueError, match="LDA finds no direction"):
        ri.LinearDiscriminant().from_activations(held[:1].expand(40, -1), values)


def test_a_mask_over_directions_that_activations_have_asks_for_no_variable(planted):
    one = planted["one layer"]
    rows = rows_of(one.counterfactuals(60).train)
    bare = [{name: row[name] for name in row if not name.endswith("_number")} for row in rows]
    prompts = dict.fromkeys(row[side] for row in rows for side in ("base", "source"))
    held = torch.cat(ri.activations(one.model, list(prompts), one.site, one.on)).double()
    for method, taken in (
        (ri.MaskSearch(components=2, epochs=1), held - held.mean(0)),
        (ri.MaskSearch(singular=2, epochs=1), held),
    ):
        found = method.fit(one.model, bare, "number", one.site, one.on)
        assert isinstance(found, ri.MaskedInterchange)
        # Eigenvectors of the second moment, around the mean and around zero.
        _, vectors = torch.linalg.eigh(taken.T @ taken)
        expected = ri.Subspace(vectors[:, -2:].T.float())
        basis = ri.Subspace(found.rows())
        assert basis.principal_angles(expected).max() < 0.1


def test_counts_of_directions_are_checked_when_they_are_given():
    with pytest.raises(ValueError, match="give one of them"):
        ri.MaskSearch(components=3, singular=3)
    with pytest.raises(ValueError, match="singular must be at least 1, got 0"):
        ri.MaskSearch(singular=0)


class Untouched:
    """A method that must not be fitted."""

    name = "first"

    def fit(self, model, pairs, variable, site, on) -> ri.Intervention:
        raise AssertionError("fitted before the others were checked")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (ri.RandomSubspace(rank=33), "random subspace: rank must be between 1 and 32 .* got 33"),
        (ri.NonlinearAlignment(rank=40), "nonlinear alignment: rank .* 32 .* got 40"),
        (ri.MaskSearch(components=64), "mask: components must be between 1 and 32 .* got 64"),
        (ri.MaskSearch(singular=33), "mask: singular must be between 1 and 32 .* got 33"),
    ],
)
def test_ranks_are_checked_before_anything_is_trained(planted, method, message):
    one = planted["one layer"]
    with pytest.raises(ValueError, match=message):
        ri.compare_methods(
            one.model, one.counterfactuals(24), one.site, one.on, [Untouched(), method]
        )


def test_multi_task_das_needs_pairs_to_isolate(planted):
    one = planted["one layer"]
    rows = rows_of(one.counterfactuals(24).train)
    method = ri.DAS(isolate=True, epochs=1)
    for kind in ({}, {"kind": "cause"}):
        with pytest.raises(ValueError, match="DAS: isolate=True needs pairs some of which are"):
            method.fit(one.model, [row | kind for row in rows], "number", one.site, one.on)
    with pytest.raises(ValueError, match="DAS: isolate=True needs pairs some of which are"):
        ri.gather_evidence(one.model, one.counterfactuals(24), one.site, one.on, method=method)
    kinds = [row | {"kind": ("cause", "isolate")[i % 2]} for i, row in enumerate(rows)]
    found, plain = (
        one_method.fit(one.model, kinds, "number", one.site, one.on)
        for one_method in (method, ri.DAS(epochs=1))
    )
    assert torch.equal(found.subspace.basis, plain.subspace.basis)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    "method",
    [
        ri.DAS(), ri.DAS(isolate=True), ri.PCA(), ri.DifferenceOfMeans(), ri.MaskSearch(),
        ri.MaskSearch(singular=2), ri.NonlinearAlignment(),
    ],
    ids=str,
)  # fmt: skip
def test_counterfactuals_are_no_rows(planted, method):
    one = planted["one layer"]
    with pytest.raises(TypeError, match=r'as .*"source": .* got Counterfactuals: give its \.tr'):
        method.fit(one.model, one.counterfactuals(24), "number", one.site, one.on)
