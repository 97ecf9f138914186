"""Edits in orthogonal parts of one basis: at the start, far from it, trained and saved."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reft_interp.interop import save_pyreft
from reft_interp.interventions import (
    RED,
    ConsReFT,
    DiReFT,
    Intervention,
    LinearCombination,
    LobiReFT,
    LoReFT,
    NoReFT,
    orthogonal_parts,
)
from reft_interp.interventions.rows import OrthonormalRows
from reft_interp.runtime import IntervenedModel, Placement
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.training import fit_reft, train

D = 8
KINDS = [LoReFT(2), ConsReFT(2), LobiReFT(1), DiReFT(2, orthonormal=True), LoReFT(1)]
ROWS = [
    {"prompt": "The key near the doors", "answer": " is", "edits": "a"},
    {"prompt": "The keys to the old cabinet", "answer": " are", "edits": "b"},
    {"prompt": "Paris", "answer": " is", "edits": ["a", "b"]},
]


def stir(*edits: nn.Module, seed: int = 0) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for edit in edits:
            for parameter in edit.parameters():
                parameter.normal_()


def basis(*edits: Intervention) -> torch.Tensor:
    return torch.cat([edit.subspace.basis for edit in edits]).double()


def off_by(rows: torch.Tensor) -> float:
    return float((rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).abs().max())


@pytest.mark.parametrize("outside", [None, Subspace.random(12, 3, seed=9)])
def test_parts_are_orthonormal_together_wherever_training_takes_them(outside):
    parts = orthogonal_parts(*KINDS, width=12, outside=outside, seed=4)
    at_start = basis(*parts)
    for _ in range(2):
        assert [part.subspace.rank for part in parts] == [2, 2, 1, 2, 1]
        assert off_by(basis(*parts)) < 1e-5
        if outside is not None:
            assert (basis(*parts) @ outside.basis.double().T).abs().max() < 1e-5
        stir(*parts)
    assert (basis(*parts) - at_start).abs().max() > 0.1  # it went somewhere


def test_they_start_as_the_identity():
    h = torch.randn(20, D)
    for part in orthogonal_parts(LoReFT(3), DiReFT(3, orthonormal=True), width=D):
        assert torch.equal(part(h), h)


def test_both_at_once_each_part_holds_what_its_edit_alone_gives():
    parts = orthogonal_parts(LoReFT(3), LoReFT(2), width=D)
    stir(*parts)
    h = torch.randn(20, D)
    both = LinearCombination(parts, [1, 1])(h)
    for part in parts:
        inside = part.subspace.coordinates
        assert_close(inside(both), inside(part(h)), atol=1e-5, rtol=1e-5)
        assert (inside(both) - inside(h)).abs().max() > 0.1
    outside = parts[0].subspace.union(parts[1].subspace).remove
    assert_close(outside(both), outside(h), atol=1e-5, rtol=1e-5)
    # Not so of two edits that share directions.
    free = [LoReFT(3, D), LoReFT(2, D)]
    stir(*free, seed=1)
    inside = free[0].subspace.coordinates
    together = LinearCombination(free, [1, 1])(h)
    assert (inside(together) - inside(free[0](h))).abs().max() > 0.1


def test_one_after_the_other_the_later_leaves_what_the_earlier_wrote():
    first, second = orthogonal_parts(LoReFT(3), ConsReFT(2), width=D)
    stir(first, second)
    h = torch.randn(20, D)
    inside = first.subspace.coordinates
    assert_close(inside(second(first(h))), inside(first(h)), atol=1e-5, rtol=1e-5)
    # A constant reads nothing that the first wrote outside of its own part.
    inside = second.subspace.coordinates
    assert_close(inside(second(first(h))), inside(second(h)), atol=1e-5, rtol=1e-5)


def test_the_gradient_is_that_of_the_shared_rows():
    parts = [part.double() for part in orthogonal_parts(LoReFT(2), LobiReFT(2), width=5)]
    both = nn.ModuleList(parts)
    stir(both)
    h = torch.randn(3, 5, dtype=torch.float64)
    names = [name for name, _ in both.named_parameters()]
    assert len([name for name in names if "whole" in name]) == 1

    def function(*given: torch.Tensor) -> torch.Tensor:
        values = dict(zip(names, given, strict=True))
        for i in (0, 1):  # by hand: rows of the one matrix, made orthonormal
            values[f"{i}.rows.whole.matrix"] = values["0.rows.whole.matrix"]
        edited = h
        for i, part in enumerate(parts):
            own = {n.removeprefix(f"{i}."): v for n, v in values.items() if n.startswith(f"{i}.")}
            edited = torch.func.functional_call(part, own, (edited,))
        return edited

    at = tuple(p.detach().clone().requires_grad_() for p in both.parameters())
    assert torch.autograd.gradcheck(function, at)


def placed(model, parts) -> IntervenedModel:
    site = Site("resid_post", 0)
    return IntervenedModel(
        model,
        [Placement(part, site, "l2", name=name) for part, name in zip(parts, "ab", strict=True)],
    )


def test_trained_together_they_stay_apart_and_are_saved_as_interventions_of_their_own(
    tiny, tmp_path
):
    model = tiny("llama")
    parts = orthogonal_parts(LoReFT(3), DiReFT(2, orthonormal=True), width=32)
    before = basis(*parts)
    both = placed(model, parts)
    losses = train(both, ROWS * 2, epochs=8, batch_size=3, learning_rate=0.05, progress=False)
    assert losses["loss"].iloc[-1] < losses["loss"].iloc[0] - 0.5
    assert (basis(*parts) - before).abs().max() > 0.01
    assert off_by(basis(*parts)) < 1e-5
    both.save(tmp_path)
    loaded = IntervenedModel.load(tmp_path, model)
    assert_close(loaded.logits(ROWS), both.logits(ROWS), atol=1e-5, rtol=1e-5)
    for placement, part in zip(loaded.placements, parts, strict=True):
        assert type(placement.intervention) is type(part)
        assert isinstance(placement.intervention.get_submodule("rows"), OrthonormalRows)
        assert_close(placement.intervention.subspace.basis, part.subspace.basis)


def test_a_state_is_put_back(tiny):
    parts = orthogonal_parts(
        LoReFT(3), LobiReFT(2), width=32, outside=Subspace.random(32, 4, seed=1)
    )
    both = placed(tiny("llama"), parts)
    stir(both, seed=2)
    state, logits = copy.deepcopy(both.state_dict()), both.logits(ROWS)
    stir(both, seed=3)
    assert not torch.allclose(both.logits(ROWS), logits, atol=1e-2)
    both.load_state_dict(state)
    assert_close(both.logits(ROWS), logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(RuntimeError, match="Missing key"):
        both.load_state_dict({name: t for name, t in state.items() if "rows" not in name})


def test_checkpoints_are_written_but_a_training_that_cannot_go_on_exactly_does_not(tiny, tmp_path):
    parts = orthogonal_parts(LoReFT(3), LobiReFT(2), width=32)
    both = placed(tiny("llama"), parts)
    options = {"epochs": 1, "batch_size": 3, "progress": False, "checkpoints": tmp_path}
    train(both, ROWS, **options)
    (last,) = tmp_path.glob("checkpoint-*")
    loaded = IntervenedModel.load(last, both.model)
    assert_close(loaded.logits(ROWS), both.logits(ROWS), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"resume=True: an intervention here shares its basis"):
        train(both, ROWS, resume=True, **options)


def test_trained_after_another_it_stays_outside_of_it(tiny):
    model, site = tiny("llama"), Site("resid_post", 0)
    options = {"epochs": 4, "batch_size": 2, "learning_rate": 0.05, "progress": False}
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in ROWS]
    first = fit_reft(model, rows[:2], LoReFT(3), site, "last", **options)
    [start] = orthogonal_parts(LoReFT(2), width=32, outside=first.subspace)
    before = start.subspace
    second = fit_reft(model, rows[1:], start, site, "last", **options)
    assert second.subspace.overlap(before) < 0.999
    assert off_by(torch.cat([first.subspace.basis, second.subspace.basis])) < 1e-5


def test_pyreft_gets_the_rows_as_they_are_used(tiny, tmp_path):
    parts = orthogonal_parts(LoReFT(3), LoReFT(2), width=32)
    stir(*parts)
    model = tiny("gpt2")
    save_pyreft(IntervenedModel(model, Placement(parts[1], Site("resid_post", 0), "l1")), tmp_path)
    (file,) = tmp_path.glob("*.bin")
    saved = torch.load(file, weights_only=True)
    assert_close(saved["rotate_layer"].T, parts[1].subspace.basis)


def test_what_cannot_be_a_part_is_refused():
    with pytest.raises(ValueError, match="templates must hold at least one"):
        orthogonal_parts(width=D)
    with pytest.raises(ValueError, match=r"templates must be like .*, got LoReFT with width 8"):
        orthogonal_parts(LoReFT(2, D), width=D)
    with pytest.raises(ValueError, match=r"templates must be like .*, got RED"):
        orthogonal_parts(RED(), width=D)
    for free in (NoReFT(2), DiReFT(2)):
        with pytest.raises(ValueError, match=f"orthonormal rows, got {type(free).__name__}, whose"):
            orthogonal_parts(free, width=D)
    with pytest.raises(ValueError, match=r"ranks \[5, 4\] sum to 9, but there is room for 8"):
        orthogonal_parts(LoReFT(5), LoReFT(4), width=D)
    outside = Subspace.random(D, 4, seed=0)
    with pytest.raises(ValueError, match=r"ranks \[5\] sum to 5, but there is room for 4"):
        orthogonal_parts(LoReFT(5), width=D, outside=outside)
    with pytest.raises(ValueError, match=r"outside lives in R\^8, but width is 9"):
        orthogonal_parts(LoReFT(5), width=9, outside=outside)
