"""Which device runs the model, with how many threads, in which arithmetic."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import torch

from backends.errors import InvalidSettings

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
SHORT_PASS_TOKENS = 64
BF16_DOT_PRODUCTS = ("avx512_bf16", "amx_bf16")


def choose_device(wanted: str) -> str:
    """Return "cuda", "mps" or "cpu": the best there is for "auto", else the one asked for, or InvalidSettings."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, is_there in there.items() if is_there)
    if not there.get(wanted, False):
        raise InvalidSettings(
            "embedding_device",
            f"found {wanted!r}, which torch does not see here; needed one of "
            f"{', '.join(device for device, is_there in there.items() if is_there)}, or auto",
        )
    return wanted


def fast_dtype(device: str) -> torch.dtype:
    """Return the fastest arithmetic of the device: half precision only where its dot products are in hardware."""
    if device == "cuda":
        return torch.float16
    if device == "cpu":
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
        if any(capabilities.get(name) for name in BF16_DOT_PRODUCTS):
            return torch.bfloat16
    return torch.float32


def numerics(dtype: torch.dtype) -> str:
    """Return the name of an arithmetic for the stamp, for example "float32"."""
    return str(dtype).removeprefix("torch.")


def available_cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota_cores(CPU_QUOTA) or cores))


def limit_threads() -> None:
    """Keep torch from starting more threads than there are cores to run them: they would spin against each other."""
    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


@contextmanager
def threads_for(tokens: int, device: str) -> Iterator[None]:
    """Run a pass of so many tokens in one thread where it is short, else in all of torch's.

    Two threads save a short pass half a millisecond on an idle machine. Where anything else wants a core, a model
    server or PostgreSQL, they wait for each other: a pass of 2 ms was seen to take 25.
    """
    threads = torch.get_num_threads()
    if device != "cpu" or tokens > SHORT_PASS_TOKENS or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _quota_cores(path: Path) -> int | None:
    """Read a container's CPU quota, `MICROSECONDS PERIOD` or `max PERIOD`; None where there is none."""
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None
