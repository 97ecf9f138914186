"""The same model without its training: what an architecture alone lets a method find."""

from typing import cast

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from reft_interp.models.identity import identify
from reft_interp.models.loading import wrap_model


def untrained_copy(model: TransformerBridge, *, seed: int = 0) -> TransformerBridge:
    """A model of the same configuration with fresh random weights, as transformers begins training.

    Args:
        model: the trained one, which is left as it is.
        seed: of the weights; the random state of the caller is not touched.
    """
    trained = cast("PreTrainedModel", model.original_model)
    dtype, device = next(trained.parameters()).dtype, next(trained.parameters()).device
    with torch.random.fork_rng(devices=[]):
        # Far from small seeds, with which the model itself may have begun.
        torch.default_generator.manual_seed(2**31 + seed)
        fresh = type(trained)(trained.config)
    fresh.to(device=device, dtype=dtype)  # pyright: ignore[reportCallIssue]
    return wrap_model(fresh, model.tokenizer, name=f"untrained {identify(model).name}")
