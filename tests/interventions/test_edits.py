"""What the two verbs share: templates, dropout, and the subspace that they write."""

import pytest
import torch
from torch.testing import assert_close

from reft_interp.interventions import (
    ConsReFT,
    DiReFT,
    Interchange,
    Intervention,
    LobiReFT,
    LoReFT,
    NoReFT,
)
from reft_interp.subspace import Subspace

TEMPLATES = {
    "LoReFT": lambda **options: LoReFT(4, activation="gelu", **options),
    "NoReFT": lambda **options: NoReFT(4, offset=True, **options),
    "ConsReFT": lambda **options: ConsReFT(4, **options),
    "DiReFT": lambda **options: DiReFT(4, orthonormal=True, **options),
    "LobiReFT": lambda **options: LobiReFT(4, **options),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_becomes_an_intervention_of_a_width(name):
    template = TEMPLATES[name](dropout=0.25, dtype=torch.float64)
    assert template.width is None and list(template.parameters()) == []
    built = template.for_width(16)
    assert type(built) is type(template)
    assert built.width == 16 and built.subspace.width == 16 and built.subspace.rank == 4
    assert built.arguments() == template.arguments() | {"width": 16}
    assert all(parameter.dtype == torch.float64 for parameter in built.parameters())
    assert built.for_width(16) is built
    # each is a module of its own, with rows of its own
    other = template.for_width(16)
    assert other.subspace.principal_angles(built.subspace).max() > 1


def test_what_a_template_becomes_depends_on_torchs_seed():
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(LoReFT(2).for_width(8).subspace.basis)
    assert torch.equal(made[0], made[1])
    assert not torch.allclose(made[0], made[2])


@pytest.mark.parametrize("template", [*(make() for make in TEMPLATES.values()), Interchange()])
def test_a_template_refuses_to_work(template):
    name = type(template).__name__
    h = torch.randn(2, 8)
    with pytest.raises(ValueError, match=f"{name} does not know its width yet: give width="):
        template(h, h if template.needs_source else None)
    for attribute in ("subspace", "reads"):
        with pytest.raises(ValueError, match=f"{name} does not know its width yet"):
            getattr(template, attribute)


def test_a_whole_vector_interchange_takes_the_width_of_its_site():
    assert Interchange().for_width(16).width == 16
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        Interchange(0)


def test_a_bare_intervention_does_nothing():
    bare = Intervention(8)
    with pytest.raises(NotImplementedError):
        bare(torch.randn(2, 8))
    for attribute in ("subspace", "reads"):
        with pytest.raises(NotImplementedError):
            getattr(bare, attribute)


def random_edit(dropout: float) -> LoReFT:
    torch.manual_seed(0)
    edit = LoReFT(3, 8, dropout=dropout, dtype=torch.float64)
    with torch.no_grad():
        for parameter in edit.parameters():
            parameter.normal_()
    return edit


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.95])
def test_dropout_falls_on_the_edit_and_not_on_h(dropout):
    edit = random_edit(dropout)
    h = torch.randn(500, 8, dtype=torch.float64) + 5
    whole = random_edit(0.0)(h) - h
    torch.manual_seed(1)
    change = edit.train()(h) - h
    dropped = change == 0
    # what is left is scaled up, so that its mean stays
    assert_close(change[~dropped], whole[~dropped] / (1 - dropout))
    # 4000 components: 5 standard errors are below 0.04
    assert dropped.double().mean().item() == pytest.approx(dropout, abs=0.04)


def test_nothing_is_dropped_in_evaluation():
    edit = random_edit(0.9)
    h = torch.randn(500, 8, dtype=torch.float64)
    assert torch.equal(edit.eval()(h), random_edit(0.0)(h))
    assert not torch.allclose(edit.train()(h), edit.eval()(h))


@pytest.mark.parametrize("make", TEMPLATES.values())
@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2])
def test_dropout_must_leave_something(make, dropout):
    with pytest.raises(ValueError, match=f"dropout must be at least 0 and below 1, got {dropout}"):
        make(dropout=float(dropout))


def test_directions_that_are_all_zero_write_nothing():
    edit = DiReFT(2, 8)
    with torch.no_grad():
        for parameter in edit.rows.parameters():
            parameter.zero_()
    with pytest.raises(ValueError, match="DiReFT writes nothing: its directions are all zero"):
        _ = edit.subspace


def test_dependent_directions_write_what_they_span():
    edit = NoReFT(3, 8, dtype=torch.float64)
    rows = torch.randn(2, 8, dtype=torch.float64)
    with torch.no_grad():
        for parameter in edit.rows.parameters():
            parameter.copy_(torch.stack([rows[0], rows[1], rows[0] - 2 * rows[1]]))
    assert edit.subspace.rank == 2
    assert edit.subspace.principal_angles(Subspace.from_matrix(rows)).max() < 1e-8
