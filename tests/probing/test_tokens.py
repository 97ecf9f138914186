"""Promoted tokens, against the model's own unembedding."""

import pytest
import torch

from reft_interp.probing.tokens import principal_axes, promoted_tokens
from reft_interp.subspace import Subspace


def test_a_direction_promotes_the_tokens_that_the_unembedding_says(tiny):
    model = tiny("llama")
    direction = model.W_U[:, 17].detach()[None]  # along token 17's own column
    frame = promoted_tokens(model, direction, top=3)
    with torch.no_grad():
        logits = model.unembed(model.ln_final(direction[:, None]))[0, 0]
    expected = [repr(model.tokenizer.decode([t]))[1:-1] for t in logits.topk(3).indices.tolist()]
    assert frame.loc[frame["sign"] == "+", "tokens"].item() == "  ".join(expected)
    lowest = [repr(model.tokenizer.decode([t]))[1:-1] for t in (-logits).topk(3).indices.tolist()]
    assert frame.loc[frame["sign"] == "−", "tokens"].item() == "  ".join(lowest)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("top", [0, 10**6])
def test_what_the_readout_cannot_give_is_refused(tiny, top):
    model = tiny("llama")
    with pytest.raises(ValueError, match=f"top must be between 1 and {model.cfg.d_vocab}.*{top}"):
        promoted_tokens(model, torch.ones(1, 32), top=top)
    with pytest.raises(ValueError, match=r"directions must have shape \(r, 32\), .*got \(32,\)"):
        promoted_tokens(model, torch.ones(32))


def test_principal_axes_are_ordered_span_the_subspace_and_point_to_the_mean():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(500, 6, generator=generator) * torch.tensor([1.0, 5.0, 2.0, 9.0, 1.0, 1.0])
    h += 1.0
    axes = principal_axes(Subspace(torch.eye(6)[:3]), h)
    assert torch.allclose(axes.abs(), torch.eye(6)[[1, 2, 0]], atol=0.1)
    assert (axes @ h.mean(0) >= 0).all()
    assert Subspace(axes).overlap(Subspace(torch.eye(6)[:3])) > 0.9999


@pytest.mark.parametrize("rows", [2, 40])
def test_principal_axes_are_those_of_the_singular_value_decomposition(rows):
    subspace = Subspace.random(8, 3, seed=0)
    h = torch.randn(rows, 8, generator=torch.Generator().manual_seed(1))
    axes = principal_axes(subspace, h)
    inside = subspace.coordinates(h)
    expected = torch.linalg.svd(inside - inside.mean(0), full_matrices=True).Vh @ subspace.basis
    varies = min(3, rows - 1)  # what comes after these has no order
    cosines = (axes * expected).sum(-1).abs()
    assert cosines[:varies].tolist() == pytest.approx([1.0] * varies, abs=1e-5)
    assert torch.allclose(axes @ axes.T, torch.eye(3), atol=1e-5)


def test_principal_axes_of_many_rows_take_no_memory_that_grows_by_their_square():
    n = 300_000  # of which a square matrix would be 360 GB
    h = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 4, 2, 3])
    assert torch.allclose(
        principal_axes(Subspace(torch.eye(4)), h).abs(), torch.eye(4)[[1, 3, 2, 0]], atol=0.05
    )
