"""The embedded server's settings: sized to the machine, its control group, and its shared memory."""

import os
import sys
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.corpus.machine import usable_cores, usable_memory_bytes
from backends.corpus.memory_settings import maintenance_memory_bytes, server_settings, shared_memory_type
from backends.corpus.server import attach
from tests.unit.server_user import postmaster_pid

MB = 1024 * 1024
GB = 1024 * MB


def megabytes(setting: str) -> int:
    assert setting.endswith("MB")
    return int(setting.removesuffix("MB"))


@given(memory_bytes=st.integers(256 * MB, 2048 * GB), cores=st.integers(1, 512))
def test_settings_fit_any_machine(memory_bytes: int, cores: int) -> None:
    """What is taken at once stays well below the memory, nothing falls below what PostgreSQL needs."""
    settings = server_settings(memory_bytes, cores)
    buffers = megabytes(settings["shared_buffers"])
    assert 32 <= buffers <= memory_bytes / MB / 4
    assert buffers + megabytes(settings["maintenance_work_mem"]) <= memory_bytes / MB / 2
    assert 4 <= megabytes(settings["work_mem"]) <= 64
    assert int(settings["max_parallel_maintenance_workers"]) < cores
    assert int(settings["max_parallel_workers"]) <= int(settings["max_worker_processes"])


def test_durability_is_never_traded() -> None:
    """What is acknowledged is on disk, on the smallest machine too."""
    settings = server_settings(256 * MB, 1)
    assert {settings[name] for name in ("fsync", "synchronous_commit", "full_page_writes")} == {"on"}
    assert settings["wal_level"] == "replica"


def test_a_running_server_has_the_settings(tmp_path: Path) -> None:
    """PostgreSQL takes each from its command line, not from a file that would go along with a moved folder."""
    server = attach(tmp_path / "data")
    wanted = server_settings(usable_memory_bytes(), usable_cores())
    with psycopg.connect(server.url) as connection:
        found = connection.execute(
            "SELECT name, source FROM pg_settings WHERE name = ANY(%s)", ([*wanted, "dynamic_shared_memory_type"],)
        ).fetchall()
        shared = connection.execute("SHOW dynamic_shared_memory_type").fetchone()
    server.detach()
    assert dict(found) == dict.fromkeys([*wanted, "dynamic_shared_memory_type"], "command line")
    assert shared == (shared_memory_type(maintenance_memory_bytes(usable_memory_bytes())),)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm")
def test_a_parallel_build_takes_nothing_of_dev_shm(tmp_path: Path) -> None:
    """Workers that build a vector index together share memory elsewhere: a container's /dev/shm is too small."""
    server = attach(tmp_path / "data")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            "CREATE TABLE points AS SELECT ARRAY[i, 1]::vector(2) AS point FROM generate_series(1, 900) i"
        )
        connection.execute("SET max_parallel_maintenance_workers = 2")
        connection.execute("SET min_parallel_table_scan_size = 0")
        connection.execute("SET client_min_messages = debug1")
        heard: list[str] = []
        connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        connection.execute("CREATE INDEX ON points USING hnsw (point vector_l2_ops)")
        mapped = Path(f"/proc/{postmaster_pid(tmp_path / 'data')}/maps").read_text()
    server.detach()
    assert any("parallel" in word for word in heard), heard
    assert "/dev/shm" not in mapped


def test_shared_memory_is_chosen_by_what_the_system_allows(tmp_path: Path) -> None:
    """Where the kernel's limits are too low for a build, or are not told, files take the place of shared memory."""
    if sys.platform != "linux":
        assert shared_memory_type(GB, tmp_path) == "posix"
        return
    assert shared_memory_type(GB, tmp_path) == "mmap"
    for largest_bytes, pages, kind in (
        (2**64 - 2**24 - 1, 2**64 - 2**24 - 1, "sysv"),
        (32 * MB, 2**40, "mmap"),
        (2**40, 1000, "mmap"),
    ):
        (tmp_path / "shmmax").write_text(f"{largest_bytes}\n")
        (tmp_path / "shmall").write_text(f"{pages}\n")
        assert shared_memory_type(GB, tmp_path) == kind


def control_group(root: Path, line: str, files: dict[str, str]) -> Path:
    """Lay out what the system tells a process of its control group."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.max": "209715200\n"}),
        (
            "0::/a/b\n",
            {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "209715200\n"},
        ),
        ("4:memory:/docker/x\n0::/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "209715200\n"}),
    ],
    ids=["version 2", "version 2, a group above", "version 1 in a container"],
)
def test_memory_is_what_the_control_group_leaves(tmp_path: Path, line: str, files: dict[str, str]) -> None:
    """A limit anywhere above us counts, in both versions of control groups."""
    assert usable_memory_bytes(control_group(tmp_path, line, files)) == 200 * MB


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            "5:cpu,cpuacct:/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        (
            "5:cpu:/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
    ],
)
def test_cores_are_what_the_control_group_leaves(
    tmp_path: Path, line: str, files: dict[str, str], cores: int | None
) -> None:
    """Half a core is one core; no limit leaves what the machine has."""
    unlimited = usable_cores(tmp_path / "nothing")
    assert usable_cores(control_group(tmp_path, line, files)) == (cores or unlimited)


def test_no_limit_leaves_the_machines_memory(tmp_path: Path) -> None:
    """Version 1 says "no limit" with a huge number, a machine without control groups says nothing."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert usable_memory_bytes(tmp_path / "nothing") == whole
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}
    assert usable_memory_bytes(control_group(tmp_path, "4:memory:/\n", files)) == whole
