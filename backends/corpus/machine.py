"""What this process may use of the machine: memory and cores, within the limits of its control group."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

NO_LIMIT = 1 << 60  # version 1 says "no limit" with a number near 2**63


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """Return the machine's memory, or the least of our control groups' limits where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [number for number in _numbers(group / name) if 0 < number < NO_LIMIT]
    return min(limits)


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores that we may run on, rounded up from a control group's share of them; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    limits = [float(len(affinity(0)) if affinity else os.cpu_count() or 1)]
    for group in _groups(root, "cpu"):
        quota = _numbers(group / "cpu.max") or [
            *_numbers(group / "cpu.cfs_quota_us"),
            *_numbers(group / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and min(quota) > 0:
            limits.append(quota[0] / quota[1])
    return max(1, math.ceil(min(limits)))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Give our control groups of either version for this controller, the innermost first."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            mount = mounts / controller if controllers else mounts
            group = mount / path.strip("/")
            yield from [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]


def _numbers(file: Path) -> list[int]:
    words = _read(file).split()
    return [int(word) for word in words] if all(word.lstrip("-").isdigit() for word in words) else []


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
