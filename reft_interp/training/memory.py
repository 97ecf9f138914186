"""How much memory something takes at its peak."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """What was measured."""

    bytes: int | None = None
    """Above what was held at the start; None where it cannot be known (a CPU without Linux's
    /proc, or one that lets nobody reset the high-water mark)."""
    of_gpus: list[int] = field(default_factory=list)
    """The same of each GPU, in the order of their numbers; empty on a CPU."""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Within it, the highest memory is watched: of the GPUs, as a model may be spread over
    several, or of this process on a CPU.

    There is one high-water mark: one measurement within another would reset that of the outer one.
    """
    peak = Peak()
    # What is garbage, or free but kept by the allocator, is held by nobody: what fills it is new.
    gc.collect()
    if device.type == "cuda":
        gpus = range(torch.cuda.device_count())
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        before = [torch.cuda.memory_allocated(gpu) for gpu in gpus]
        yield peak
        peak.of_gpus = [torch.cuda.max_memory_allocated(gpu) - before[gpu] for gpu in gpus]
        peak.bytes = sum(peak.of_gpus)
        return
    _give_back_what_is_free()
    was_reset = _reset()
    held = _status("VmRSS")
    yield peak
    highest = _status("VmHWM")
    if was_reset and held is not None and highest is not None:
        peak.bytes = max(highest - held, 0)


def _give_back_what_is_free() -> None:
    """To the system, where the C library can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset() -> bool:
    """Whether the high-water mark is now what is held; otherwise it is that of the whole life."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
