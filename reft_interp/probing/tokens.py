"""Which tokens the directions of a subspace promote, by TransformerLens's logit readout."""

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import logit_readout

from reft_interp.models.devices import device_of
from reft_interp.models.spreading import is_spread
from reft_interp.rounding import in_float64
from reft_interp.shapes import check_shape
from reft_interp.subspace import Subspace


def principal_axes(subspace: Subspace, activations: Float[Tensor, "n d"]) -> Float[Tensor, "r d"]:
    """The subspace's directions in order of how much activations vary along them.

    A subspace has no directions of its own, only a span; this is a choice of axes that depends
    on nothing but the data. Each points to where the activations' mean lies.
    """
    h = activations.detach().float().cpu()
    coordinates = in_float64(subspace.coordinates(h))
    centred = coordinates - coordinates.mean(0)
    # Eigenvectors, in columns and by rising variance, of an r x r matrix however many rows there
    # are; all r of them, where a decomposition of few rows would have fewer.
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.T.flip(0).float() @ subspace.basis.float().cpu()
    return axes * torch.where((axes @ h.mean(0)) < 0, -1.0, 1.0)[:, None]


def promoted_tokens(
    model: TransformerBridge, directions: Float[Tensor, "r d"], *, top: int = 8
) -> pd.DataFrame:
    """The tokens whose logits each direction raises most, and those its negative raises.

    Args:
        model: a decoder; the directions go through its final norm and unembedding.
        directions: of the residual stream.
        top: how many tokens.

    Returns:
        Columns direction (from 1), sign ("+" or "−"), tokens (by falling logit).

    Raises:
        ValueError: directions of another width than the residual stream; no tokens asked for, or
            more than there are.
    """
    check_shape("directions", directions, ("r", model.cfg.d_model), "the width of the model")
    if not 1 <= top <= model.cfg.d_vocab:
        raise ValueError(f"top must be between 1 and {model.cfg.d_vocab}, the tokens, got {top}")
    rows = []
    for sign, factor in (("+", 1.0), ("−", -1.0)):
        for i, ids in enumerate(_top_tokens(model, factor * directions, top).tolist()):
            tokens = [repr(model.tokenizer.decode([token]))[1:-1] for token in ids]
            rows.append({"direction": i + 1, "sign": sign, "tokens": "  ".join(tokens)})
    return pd.DataFrame(rows).sort_values(["direction", "sign"], ignore_index=True)


def _top_tokens(
    model: TransformerBridge, directions: Float[Tensor, "r d"], top: int
) -> Int[Tensor, "r top"]:
    directions = directions.to(device_of(model), next(model.parameters()).dtype)
    spread = is_spread(model)
    if spread:
        # The readout expects norm and unembedding on one device, and an unembedding that shares
        # the embedding's weights is with it.
        with torch.no_grad():
            there = next(model.ln_final.parameters()).device
            directions = model.ln_final(directions.to(there)[None])[0]
    read = logit_readout(model, directions, apply_ln=not spread, top_k=top)
    assert read.top_ids is not None  # as top_k was given
    return read.top_ids
