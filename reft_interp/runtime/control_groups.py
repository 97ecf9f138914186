"""The memory that Linux's control groups leave to this process: SLURM, docker and Kubernetes set
limits by them, of which the system's own count of free memory knows nothing."""

from collections.abc import Iterator
from pathlib import Path

# Under version 2 all groups are in one tree, under version 1 those of memory have their own. Of
# each: where it is, the limit, what is taken, and what of that are files, given back when asked.
_VERSION_2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_VERSION_1 = (
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)


def left_by_groups(root: Path = Path("/")) -> int | None:
    """Bytes that are left of the tightest limit on the process's groups; None without any.

    Args:
        root: of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    found: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, most, taken, files = _VERSION_1 if controllers else _VERSION_2
        for folder in _with_parents(root / top, path):
            limit, used = _number(folder / most), _number(folder / taken)
            if limit is not None and used is not None:
                found.append(max(0, limit - used + _of_stat(folder / "memory.stat", files)))
    return min(found, default=None)


def _with_parents(top: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it, whose limits hold for it, too."""
    parts = [part for part in path.split("/") if part]
    # Inside a container the path may be that of the host, which is not seen: the files are at top.
    if ".." not in parts:
        for n in range(len(parts), 0, -1):
            yield top.joinpath(*parts[:n])
    yield top


def _number(path: Path) -> int | None:
    """What a file says; None where there is none, or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _of_stat(path: Path, name: str) -> int:
    try:
        pairs = dict(line.split() for line in path.read_text().splitlines())
        return int(pairs.get(name, 0))
    except (OSError, ValueError):
        return 0
