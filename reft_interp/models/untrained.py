"""The same model without its training: what an architecture alone lets a method find."""

import copy
from typing import cast

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from reft_interp.models.devices import device_of
from reft_interp.models.identity import identify
from reft_interp.models.loading import wrap_model
from reft_interp.models.sharding import is_sharded
from reft_interp.models.spreading import is_spread, spread_like


def untrained_copy(model: TransformerBridge, *, seed: int = 0) -> TransformerBridge:
    """A model of the same configuration with fresh random weights, as transformers begins training.

    Args:
        model: the trained one, which is left as it is.
        seed: of the weights; the random state of the caller is not touched.

    Raises:
        ValueError: a model whose blocks are sharded over processes.
    """
    if is_sharded(model):
        raise ValueError(
            "model: its blocks are sharded over several processes, so that there is no copy of it "
            "on each; load it without sharded=True"
        )
    trained = cast("PreTrainedModel", model.original_model)
    dtype = next(trained.parameters()).dtype
    with torch.random.fork_rng(devices=[]):
        # Far from small seeds, with which the model itself may have begun.
        torch.default_generator.manual_seed(2**31 + seed)
        fresh = type(trained)(copy.deepcopy(trained.config))
    fresh.to(dtype)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if is_spread(model):
        spread_like(fresh, model)
    else:
        fresh.to(device_of(model))  # pyright: ignore[reportCallIssue, reportArgumentType]
    return wrap_model(fresh, model.tokenizer, name=f"untrained {identify(model).name}")
