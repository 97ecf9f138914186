"""A model whose layers are on several devices of one process (accelerate's `device_map`).

accelerate moves what one layer hands to the next. Prompts, interventions and constants are on the
device of the first weights (`devices.device_of`), and edits go there and back.
"""

from typing import Any

from accelerate import dispatch_model
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

DeviceMap = str | dict[str, Any]
"""What transformers takes as `device_map`: "auto" and its like, or the device of each module."""


def is_spread(model: TransformerBridge) -> bool:
    """Whether a device map put it on several devices."""
    return len(_devices(model.original_model)) > 1


def check_not_offloaded(model: PreTrainedModel) -> None:
    """Raise where some of a model had no room on the devices that compute.

    Raises:
        ValueError: weights on the disk, or in main memory beside others on a GPU.
    """
    devices = _devices(model)
    if "disk" in devices or ("cpu" in devices and len(devices) > 1):
        away = [n for n, at in _map_of(model).items() if str(at) in ("cpu", "disk")]
        raise ValueError(
            f"device_map: {away[0]} and {len(away) - 1} other modules are on none of the devices "
            "that compute, and moving weights in for each run is not supported. Where there is no "
            "room: load in bfloat16 or with quantization_config=, or on more devices"
        )


def spread_like(model: PreTrainedModel, other: TransformerBridge) -> None:
    """Put each layer of a model where another that is spread has it."""
    dispatch_model(model, _map_of(other.original_model))


def _map_of(model: nn.Module) -> dict[str, Any]:
    return getattr(model, "hf_device_map", None) or {}


def _devices(model: nn.Module) -> set[str]:
    return {str(device) for device in _map_of(model).values()}
