"""The same model without its training: what an architecture alone lets a method find."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
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
    with torch.random.fork_rng(devices=[]), _made_in(dtype):
        # Far from small seeds, with which the model itself may have begun.
        torch.default_generator.manual_seed(2**31 + seed)
        fresh = type(trained)(copy.deepcopy(trained.config))
    # Some are made in float32 whatever is asked for. Buffers stay as they were made: frequencies of
    # rotary embeddings are float32 in a trained model, too.
    for parameter in fresh.parameters():
        parameter.data = parameter.data.to(dtype)
    if is_spread(model):
        spread_like(fresh, model)
    else:
        fresh.to(device_of(model))  # pyright: ignore[reportCallIssue, reportArgumentType]
    return wrap_model(fresh, model.tokenizer, name=f"untrained {identify(model).name}")


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Weights that are made meanwhile have a dtype from the start: in float32, those of a bfloat16
    model would take twice its memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
