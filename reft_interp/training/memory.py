"""How much memory something takes at its peak."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """What was measured."""

    bytes: int | None = None
    """Above what was held at the start; None where it cannot be known (a CPU without Linux's
    /proc)."""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Within it, the highest memory is watched: of the GPU, or of this process on a CPU."""
    peak = Peak()
    # What is garbage, or free but kept by the allocator, is held by nobody: what fills it is new.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - held
        return
    _give_back_what_is_free()
    with suppress(OSError):
        _RESET.write_text("5")  # the high-water mark becomes what is held now
    held = _status("VmRSS")
    yield peak
    highest = _status("VmHWM")
    if held is not None and highest is not None:
        peak.bytes = max(highest - held, 0)


def _give_back_what_is_free() -> None:
    """To the system, where the C library can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int | None:
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
