"""Attention without copies of shared key-value heads, where nobody looks inside it.

The bridge computes attention itself, so that patterns can be hooked, and copies each key-value
head for all query heads that share it. In a replay of few tokens on a long prefix, these copies
and their gradients take longer than the rest of a block's attention. Here the query heads that
share keys are stacked instead: the same products, no copy. transformers' own sdpa would copy as
well wherever there is a mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge
from transformer_lens.model_bridge.generalized_components.position_embeddings_attention import (
    PositionEmbeddingsAttentionBridge,
)
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from reft_interp.models.consistency import difference, sample_tokens
from reft_interp.runtime.shadowing import shadowed

_NAME = "reft_interp_grouped"
# Parts of an attention bridge whose hooks fire whoever computes the attention.
_OUTSIDE = ("q", "k", "v", "o", "hook_in", "hook_out")
# The hook points of an attention bridge that fire only if it computes the attention.
_inside: "WeakKeyDictionary[nn.Module, list[HookPoint]]" = WeakKeyDictionary()
_exact: "WeakKeyDictionary[TransformerBridge, bool]" = WeakKeyDictionary()


def grouped_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads pos d_head"],
    key: Float[Tensor, "batch kv_heads past d_head"],
    value: Float[Tensor, "batch kv_heads past d_head"],
    attention_mask: Float[Tensor, "batch 1 pos past"] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch pos heads d_head"], None]:
    """Softmax attention, as transformers' modules call it; the patterns are not given out."""
    batch, heads, pos, width = query.shape
    shared = key.shape[1]
    copies = heads // shared
    stacked = query.reshape(batch, shared, copies * pos, width)
    scores = (stacked @ key.transpose(-2, -1)) * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(batch, shared, copies, pos, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]
    pattern = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    pattern = nn.functional.dropout(pattern, p=dropout, training=module.training)
    mixed = pattern.view(batch, shared, copies * pos, -1) @ value
    return mixed.view(batch, heads, pos, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, grouped_attention)
AttentionMaskInterface.register(_NAME, eager_mask)


@contextmanager
def grouped(model: TransformerBridge) -> Iterator[None]:
    """Within it, blocks whose attention nobody looks into compute it without copies.

    Nothing changes on models whose query heads do not share keys, or on which it was not exact.
    """
    if not _is_exact(model):
        yield
        return
    with _replaced(model):
        yield


@torch.no_grad()
def _is_exact(model: TransformerBridge) -> bool:
    """Whether it gives the bridge's own logits; measured once a model."""
    if model not in _exact:
        if not _shares_heads(model):
            _exact[model] = False
        else:
            tokens = sample_tokens(model)
            plain = model(tokens)
            try:
                with _replaced(model):
                    _exact[model] = difference(model, model(tokens), plain).ok
            except (TypeError, ValueError, RuntimeError):
                # An architecture whose attention takes something that is not known here.
                _exact[model] = False
    return _exact[model]


@contextmanager
def _replaced(model: TransformerBridge) -> Iterator[None]:
    # A block whose attention is looked into keeps the bridge's own, which needs the mask that
    # this one takes: the two masks are the same.
    attentions = [block.attn for block in model.blocks if not _looked_into(block.attn)]
    config: Any = model.original_model.config
    before = config._attn_implementation
    with shadowed({one: partial(AttentionBridge.forward, one) for one in attentions}):
        try:
            config._attn_implementation = _NAME
            yield
        finally:
            config._attn_implementation = before


def _shares_heads(model: TransformerBridge) -> bool:
    return all(
        type(getattr(block, "attn", None)) is PositionEmbeddingsAttentionBridge
        and getattr(block.attn.original_component, "num_key_value_groups", 1) > 1
        and not block.attn.compatibility_mode
        for block in model.blocks
    )


def _looked_into(attention: nn.Module) -> bool:
    """Whether a hook, or an option of the bridge, needs what only its own attention computes."""
    config = attention.config
    options = ("use_split_qkv_input", "use_attn_in", "use_attn_result")
    if any(getattr(config, option, False) for option in options):
        return True
    if attention not in _inside:
        parts = [getattr(attention, name) for name in _OUTSIDE if hasattr(attention, name)]
        outside = {id(point) for part in parts for point in part.modules()}
        points = [point for point in attention.modules() if isinstance(point, HookPoint)]
        _inside[attention] = [point for point in points if id(point) not in outside]
    return any(point.fwd_hooks or point.bwd_hooks for point in _inside[attention])
