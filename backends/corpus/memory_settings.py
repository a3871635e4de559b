"""PostgreSQL's settings for this machine, given on its command line at each start so that they fit where it is."""

import sys
from pathlib import Path

MB = 1024 * 1024
MAX_CONNECTIONS = 100


def server_settings(memory_bytes: int, cores: int) -> dict[str, str]:
    """Return settings for a server that shares a machine of so much memory with an embedding model."""
    build_mb = maintenance_memory_bytes(memory_bytes) // MB
    return {
        "shared_buffers": f"{_within(32, memory_bytes // 4 // MB, 16_384)}MB",
        "effective_cache_size": f"{max(64, memory_bytes // 2 // MB)}MB",
        "maintenance_work_mem": f"{build_mb}MB",
        "autovacuum_work_mem": f"{min(build_mb, 256)}MB",  # three of them may run at once
        "work_mem": f"{_within(4, memory_bytes // 400 // MB, 64)}MB",
        "max_connections": str(MAX_CONNECTIONS),
        "max_worker_processes": str(max(8, cores + 4)),
        "max_parallel_workers": str(cores),
        "max_parallel_workers_per_gather": str(min(2, cores - 1)),
        "max_parallel_maintenance_workers": str(min(7, cores - 1)),  # the builder itself works too
        "max_wal_size": "2GB",
        "min_wal_size": "256MB",
        "checkpoint_timeout": "15min",
        "random_page_cost": "1.1",
        "jit": "off",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "wal_level": "replica",
    }


def maintenance_memory_bytes(memory_bytes: int) -> int:
    """Return what building one vector index may take before it goes slower."""
    return _within(64, memory_bytes // 8 // MB, 8_192) * MB


def shared_memory_type(needed_bytes: int, limits: Path = Path("/proc/sys/kernel")) -> str:
    """Return the kind of shared memory with room for a parallel index build of this size.

    A container's /dev/shm, which PostgreSQL would take, often has 64 MB, and takes the memory at once.
    """
    if sys.platform != "linux":
        return "posix"
    try:
        largest_bytes = int((limits / "shmmax").read_text())
        total_bytes = int((limits / "shmall").read_text()) * 4096
    except OSError:
        return "mmap"
    fits = needed_bytes * 2 <= min(largest_bytes, total_bytes)
    return "sysv" if fits else "mmap"  # files in the data folder: half as fast, but always there


def _within(least: int, wanted: int, most: int) -> int:
    return min(max(least, wanted), most)
