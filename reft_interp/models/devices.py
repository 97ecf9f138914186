"""Dtypes and devices by name, refused before anything is loaded; and where weights are."""

import os

import torch
from transformer_lens.model_bridge import TransformerBridge

from .identity import dtype_name
from .spreading import is_spread

_DTYPES = {
    dtype_name(dtype): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
}


def find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point dtype by itself or by name.

    Raises:
        ValueError: unknown or not supported for weights.
        TypeError: neither a dtype nor a string.
    """
    if not isinstance(dtype, (torch.dtype, str)):
        raise TypeError(f"dtype must be a torch dtype or its name, got {dtype!r}")
    name = dtype if isinstance(dtype, str) else dtype_name(dtype)
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {name!r}")
    return _DTYPES[name]


def find_device(device: torch.device | str | None) -> torch.device:
    """A device by itself or by name; by default a GPU if torch sees one, else the CPU.

    Of several processes that torchrun or accelerate launched on a machine, each gets the GPU of
    its number.

    Raises:
        ValueError: torch can't use it here; the message lists what it can use.
    """
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        number = os.environ.get("LOCAL_RANK")
        return torch.device("cuda" if number is None else f"cuda:{number}")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be one that torch can use here ({', '.join(available_devices())}), "
            f"got {str(device)!r}"
        ) from error
    return found


def device_of(model: TransformerBridge) -> torch.device:
    """Where the model's first weights are; what is fed in, interventions and constants are there
    too, wherever other layers may be."""
    return next(model.parameters()).device


def devices_of_attention(model: TransformerBridge) -> list[torch.device]:
    """Where each block keeps keys and values."""
    if not is_spread(model):
        return [device_of(model)] * len(model.blocks)
    return [next(getattr(block, "attn", block).parameters()).device for block in model.blocks]


def available_devices() -> list[str]:
    """What can be passed as `device` on this machine."""
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return devices + (["mps"] if torch.backends.mps.is_available() else [])
