"""Two ways to the same logits have to agree: with a cache and without, padded and not.

Measured rather than trusted: an argument renamed in a new version of a library breaks such
things without an error. Next door, `checking` puts these numbers into a report.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from .devices import device_of

_TEXT = "The keys to the old cabinet near the doors are on the table."
_LENGTH = 8

# As a share of the logits' standard deviation. Rounding gives 1e-5 in float32 and some percent
# in bfloat16; a cache that stays empty, or positions that are off by one, give about 1.
# Quantized weights are multiplied in half precision, in another order for one token than for many.
_QUANTIZED = 0.15
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}


@dataclass(frozen=True)
class Difference:
    """How far two computations of the same logits are apart."""

    largest: float
    """The largest absolute difference between two logits."""
    tolerance: float
    """What rounding may explain, given the dtype and the spread of the logits."""

    @property
    def ok(self) -> bool:
        return self.largest <= self.tolerance  # not so for NaN

    def __str__(self) -> str:
        return f"largest difference {self.largest:.1e} (tolerance {self.tolerance:.1e})"


def is_causal(model: TransformerBridge) -> bool:
    """Whether a token sees only what is before it."""
    return getattr(model.cfg, "attention_dir", "causal") == "causal"


@torch.no_grad()
def cache_difference(model: TransformerBridge) -> Difference | None:
    """Logits of the last tokens after a cached prefix, against one run of all tokens.

    Returns:
        None for models that keep no keys and values: encoders and recurrent models.
    """
    if not is_causal(model) or getattr(model.cfg, "is_stateful", False):
        return None
    ids = sample_tokens(model)
    cut = ids.shape[1] // 2
    _, cache = model(ids[:, :cut], return_type="logits_and_cache", use_cache=True)
    return difference(model, model(ids[:, cut:], past_key_values=cache), model(ids)[:, cut:])


@torch.no_grad()
def padding_difference(model: TransformerBridge, side: Literal["left", "right"]) -> Difference:
    """Logits of a short row, padded to the length of a longer one, against those without padding.

    Positions are counted from the row's first token, as the bridge does when it gets a mask.
    """
    long = sample_tokens(model)
    short = long[:, 3:]
    pad = torch.zeros_like(long[:, :3])  # the mask hides them, whatever they are
    parts = [pad, short] if side == "left" else [short, pad]
    ids = torch.cat([torch.cat(parts, dim=1), long])
    is_pad = [pad, torch.ones_like(short)] if side == "left" else [torch.ones_like(short), pad]
    mask = torch.cat([torch.cat(is_pad, dim=1), torch.ones_like(long)])
    padded = model(ids, attention_mask=mask)[:1][mask[:1].bool()]
    return difference(model, padded[None], model(short))


def difference(
    model: TransformerBridge,
    one: Float[Tensor, "batch pos vocab"],
    other: Float[Tensor, "batch pos vocab"],
) -> Difference:
    """`one` against `other`, with the tolerance for logits of `model`."""
    largest = (one.float() - other.float()).abs().max().item()
    return Difference(largest, logit_tolerance(model, other))


def logit_tolerance(model: TransformerBridge, logits: Float[Tensor, "batch pos vocab"]) -> float:
    """How far rounding alone may move logits of `model`."""
    dtypes = {weight.dtype for weight in model.parameters()}
    share = max(_TOLERANCES.get(dtype, _QUANTIZED) for dtype in dtypes)
    return share * logits.float().std().item()


def sample_tokens(model: TransformerBridge) -> Int[Tensor, "1 pos"]:
    """A few tokens of ordinary text."""
    ids = model.tokenizer(_TEXT, return_tensors="pt")["input_ids"][:, :_LENGTH]
    return ids.to(device_of(model))
