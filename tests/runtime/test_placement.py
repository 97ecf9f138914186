"""A placement on a model, and on a batch."""

import pytest
import torch

from reft_interp.interventions import Interchange, LoReFT, VectorAddition
from reft_interp.positions import Positions, first_last, span
from reft_interp.runtime import Placement
from reft_interp.runtime.placement import Edit
from reft_interp.sites import Site


def test_says_what_is_where():
    placed = Placement(LoReFT(2), Site("z", 1, heads=(0, 3)), "f3+l1")
    assert str(placed) == "LoReFT at blocks.1.attn.hook_z[0,3] on f3+l1"


def test_reads_positions_as_they_are_written():
    site = Site("resid_post", 0)
    assert Placement(LoReFT(2), site, "f3+l1").on == first_last(3, 1)
    assert Placement(LoReFT(2), site, "subject").on == span("subject")
    with pytest.raises(ValueError, match="positions 'f3 and l1'"):
        Placement(LoReFT(2), site, "f3 and l1")


@pytest.mark.usefixtures("no_type_checks")
def test_what_is_no_intervention_is_refused():
    with pytest.raises(TypeError, match=r"must be an Intervention, as LoReFT\(rank=4\), got str"):
        Placement("LoReFT", Site("resid_post", 0), "l1")  # pyright: ignore[reportArgumentType]


def test_a_source_that_nothing_reads_is_refused():
    site = Site("resid_post", 0)
    with pytest.raises(ValueError, match="LoReFT reads none: leave it out, got 'left'"):
        Placement(LoReFT(4), site, "l1", source="left")
    assert Placement(Interchange(), site, "l1", source="left").source == "left"


def test_a_template_gets_the_width_of_its_site(tiny):
    model = tiny("llama")
    built = Placement(LoReFT(2), Site("z", 1, heads=(0, 3)), "f1").built_for(model)
    assert built.intervention.width == 16
    assert built.built_for(model).intervention is built.intervention


@pytest.mark.parametrize("width", [2, 5])
def test_an_edit_changes_its_tokens_and_no_others(width):
    activation = torch.randn(2, 4, width)
    at = Positions(torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2]))
    vector = torch.arange(1.0, width + 1)
    expected = activation.clone()
    expected[0, 3] += vector
    expected[1, 0] += vector
    expected[1, 2] += vector
    before = activation.clone()
    edit = Edit(VectorAddition(vector), Site("resid_post", 0), at)
    assert torch.equal(edit.apply(activation), expected)
    assert torch.equal(activation, before)  # not in place
