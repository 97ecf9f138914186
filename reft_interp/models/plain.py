"""The transformers model under a bridge, as transformers makes it: what other libraries adapt."""

import copy
from typing import Any, cast

from accelerate import init_empty_weights
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from .sharding import is_sharded
from .spreading import is_spread, spread_like

_WRAPPED = "._original_component"
"""What the bridge adds to the names of the modules that it wraps."""


def plain_copy(model: TransformerBridge) -> PreTrainedModel:
    """A transformers model without hooks that computes what the bridge computes.

    Its parameters are the bridge's own tensors, so that it takes no memory: what is trained in it
    must be new (adapters), or be cloned first. It has no dropout of its own, as the bridge has none
    when it is trained in.

    Args:
        model: the bridge, which is left as it is.

    Returns:
        The model, in eval mode, its parameters frozen, with the bridge's settings for generation;
        attention is torch's own (scaled_dot_product_attention) where the architecture has it.

    Raises:
        ValueError: the bridge holds no weights of some of the model's names, or not the whole of
            them, or in 8 or 4 bits.
    """
    check_plain(model)
    hooked = cast("PreTrainedModel", model.original_model)
    config = copy.deepcopy(hooked.config)
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        for name, value in vars(part).items():
            # "dropout", gpt2's "attn_pdrop", opt's "layerdrop", which leaves out whole layers.
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
    with init_empty_weights(include_buffers=False):
        plain = _make(type(hooked), config)
    # How it generates, and where it stops, was loaded from a file of its own; encoders have none.
    generates = getattr(hooked, "generation_config", None)
    if generates is not None:
        plain.generation_config = copy.deepcopy(generates)
    held = {name.replace(_WRAPPED, ""): tensor for name, tensor in hooked.state_dict().items()}
    wanted = plain.state_dict()
    # Tied weights may stand under one of their names only.
    tied = set(getattr(plain, "all_tied_weights_keys", None) or {})
    missing = [name for name in wanted if name not in held and name not in tied]
    if missing:
        raise ValueError(
            f"model: the bridge of {model.cfg.model_name} holds no weights for {missing[0]}, so "
            "that there is no plain model of it"
        )
    for name in wanted:
        if name in held:
            _place(plain, name, held[name])
    plain.tie_weights()
    for name, buffer in plain.named_buffers():
        if name not in wanted:
            _place(plain, name, buffer.to(hooked.device))
    if is_spread(model):
        spread_like(plain, model)
    return plain.requires_grad_(False).eval()


def check_plain(model: TransformerBridge) -> None:
    """Raise where no plain model can be made of a bridge, which `plain_copy` then does not try.

    Raises:
        ValueError: its blocks are sharded, or its weights quantized.
    """
    if is_sharded(model):
        raise ValueError(
            "model: its blocks are sharded over several processes, so that there is no plain model "
            "of it here; load it without sharded=True"
        )
    hooked: Any = model.original_model
    whole = all(weight.is_floating_point() for weight in hooked.parameters())
    if getattr(hooked, "hf_quantizer", None) is not None or not whole:
        raise ValueError(
            f"model: the weights of {model.cfg.model_name} are quantized (quantization_config), "
            'of which no plain copy can be made: load it without, as with dtype="bfloat16"'
        )


def _make(cls: type[PreTrainedModel], config) -> PreTrainedModel:
    try:
        return cls._from_config(config, attn_implementation="sdpa")
    except ValueError:  # the architecture has none
        return cls._from_config(config, attn_implementation="eager")


def _place(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    if last in owner._parameters:
        owner._parameters[last] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[last] = tensor
