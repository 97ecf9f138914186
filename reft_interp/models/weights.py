"""The form of weights that are read: their dtype, or 8 and 4 bits through bitsandbytes."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from .spreading import DeviceMap


@dataclass(frozen=True)
class Weights:
    """In what form weights are read, and where to.

    Args:
        dtype: of what is not quantized.
        device: where quantized weights go; others are moved later.
        quantization: in 8 or 4 bits, by bitsandbytes.
        device_map: where each layer goes, instead.

    Raises:
        TypeError: `quantization` is of another kind.
        ModuleNotFoundError: bitsandbytes is not installed.
    """

    dtype: torch.dtype
    device: torch.device
    quantization: BitsAndBytesConfig | None = None
    device_map: DeviceMap | None = None

    def __post_init__(self) -> None:
        if self.quantization is None:
            return
        if not isinstance(self.quantization, BitsAndBytesConfig):
            raise TypeError(
                "quantization_config must be a transformers.BitsAndBytesConfig, got "
                f"{self.quantization!r}"
            )
        if find_spec("bitsandbytes") is None:
            raise ModuleNotFoundError(
                "quantization_config needs the package bitsandbytes: "
                "pip install 'reft-interp[bitsandbytes]'"
            )

    @property
    def options(self) -> dict[str, Any]:
        """As `from_pretrained` takes them."""
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.device_map is not None:
            options["device_map"] = self.device_map
        if self.quantization is not None:
            options["quantization_config"] = self.quantization
            options.setdefault("device_map", {"": str(self.device)})
        return options
