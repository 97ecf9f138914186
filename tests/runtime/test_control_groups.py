"""Limits of control groups, in trees written as Linux writes them."""

from pathlib import Path

import pytest
import torch

from reft_interp.runtime import planning
from reft_interp.runtime.control_groups import left_by_groups

GB = 10**9


def written(root: Path, files: dict[str, str | int]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def test_a_job_of_slurm_has_what_its_own_group_leaves(tmp_path):
    """Version 2: the step's group has no limit, the job's has 32 GB, the machine's none."""
    job = "sys/fs/cgroup/system.slice/job_7"
    files: dict[str, str | int] = {
        "proc/self/cgroup": "0::/system.slice/job_7/step_0",
        f"{job}/step_0/memory.max": "max",
        f"{job}/step_0/memory.current": 11 * GB,
        f"{job}/memory.max": 32 * GB,
        f"{job}/memory.current": 12 * GB,
        f"{job}/memory.stat": f"anon 7\ninactive_file {2 * GB}\nactive_file 9",
        # Of another job.
        "sys/fs/cgroup/system.slice/job_8/memory.max": GB,
        "sys/fs/cgroup/system.slice/job_8/memory.current": 0,
    }
    assert left_by_groups(written(tmp_path, files)) == 22 * GB


def test_a_container_of_version_1_sees_its_own_group_at_the_top(tmp_path):
    files: dict[str, str | int] = {
        "proc/self/cgroup": "11:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/system.slice",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 8 * GB,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 3 * GB,
        "sys/fs/cgroup/memory/memory.stat": f"cache 5\ntotal_inactive_file {GB}",
    }
    assert left_by_groups(written(tmp_path, files)) == 6 * GB


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/"},
        {
            "proc/self/cgroup": "0::/../../other",
            "sys/fs/cgroup/memory.max": "max",
            "sys/fs/cgroup/memory.current": 5,
            "sys/other/memory.max": 5,
        },
    ],
)
def test_without_limits_nothing_is_known(tmp_path, files):
    assert left_by_groups(written(tmp_path, files)) is None


def test_more_than_the_limit_leaves_nothing(tmp_path):
    files: dict[str, str | int] = {
        "proc/self/cgroup": "0::/a",
        "sys/fs/cgroup/a/memory.max": GB,
        "sys/fs/cgroup/a/memory.current": GB + 5,
    }
    assert left_by_groups(written(tmp_path, files)) == 0


def test_free_memory_is_within_the_limit(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(planning, "left_by_groups", lambda: 1000)
    assert planning.free_memory(cpu) == 1000
    monkeypatch.setattr(planning, "left_by_groups", lambda: None)
    assert planning.free_memory(cpu) > 1000
    monkeypatch.setattr(planning, "left_by_groups", lambda: 2**62)
    assert planning.free_memory(cpu) < 2**62
