"""Rotary angles that depend on the longest text of a batch, so that a token's keys are not its
own."""

from typing import Any

from transformer_lens.model_bridge import TransformerBridge

_BY_LENGTH = ("longrope", "dynamic")


def length_of_other_angles(model: TransformerBridge) -> int | None:
    """The tokens above which the angles of a batch are others (longrope, dynamic NTK); None of a
    model whose angles are the same at any length."""
    of_all: Any = model.original_model.config
    config = of_all.get_text_config()
    given: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given |= getattr(config, name, None) or {}
    # Of models whose layers differ, one for each kind of layer.
    several = [of for of in given.values() if isinstance(of, dict)] or [given]
    lengths = [
        of.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for of in several
        if of.get("rope_type", of.get("type")) in _BY_LENGTH
    ]
    return min(lengths, default=None)
