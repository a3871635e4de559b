"""Backups beside raw binary COPY of the same rows, and what they cost as the corpus grows, in turns in one run.

    python -m benchmarks.backup [--rows 500000] [--dimension 384] [--rounds 3] [--jobs 2] [--out results.jsonl]

Raw COPY TO writes what it is sent to two files, texts and embeddings, and syncs them; raw COPY FROM loads these files
into tables of the same layout with the same keys. Each is done by one session after the other and by two at once.
Create writes a backup and syncs it; restore loads it, builds the keys and switches, without a vector index; both with
one session and with `--jobs`. An incremental backup follows after one row in a hundred was replaced. Memory is the peak
of a process that backs up and restores, and nothing else, at an eighth of the rows and at all of them.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

import retrieval
from backends.corpus.collections import create_collection, delete_collection
from backends.corpus.queries import query
from backends.types import IndexSpec
from ops import backup
from retrieval.config import load
from retrieval.library import Ragstone

ROWS_PER_UPSERT = 20_000
WORDS = 60
VOCABULARY = 5_000
READ_BYTES = 1 << 18
SETTINGS = {"embedding_model": "hashing", "index_min_chunks": 10**9}


def main() -> None:
    arguments = _arguments()
    if arguments.memory_of is not None:
        print(json.dumps(_peak_of(arguments.memory_of, arguments.jobs)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = list(_measure(Path(folder), arguments))
    described = {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()}
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**described, **result}) + "\n" for result in results)


def _measure(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    size = {"rows": arguments.rows, "dimension": arguments.dimension}
    with retrieval.open(folder / "data", settings=load(**SETTINGS)) as rag:
        table_id = _fill(rag, arguments.rows, arguments.dimension)
        times = _rounds(rag, folder, table_id, arguments)
        yield _shown({"what": "create"} | size | _compared(times, "create", "copy_to"))
        yield _shown({"what": "restore"} | size | _compared(times, "restore", "copy_from"))
        yield _shown({"what": "incremental"} | size | _incremental(rag, folder, arguments))
    few, all_ = (_memory(folder, rows, arguments) for rows in (arguments.rows // 8, arguments.rows))
    yield _shown({"what": "memory"} | size | {"peak_mb_at_an_eighth": few, "peak_mb": all_})


def _rounds(rag: Ragstone, folder: Path, table_id: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Every way in turn, so that what the machine does meanwhile meets all of them."""
    jobs = arguments.jobs
    ways: dict[str, Callable[[], object]] = {
        "copy_to": lambda: _both(lambda table: _copy_to(rag, folder, table, table_id), at_once=False),
        "copy_to_two_sessions": lambda: _both(lambda table: _copy_to(rag, folder, table, table_id), at_once=True),
        "create": lambda: backup.create(rag, _repo(folder, 1), jobs=1),
        f"create_{jobs}_jobs": lambda: backup.create(rag, _repo(folder, jobs), jobs=jobs),
        "restore": lambda: backup.restore(rag, _repo(folder, 1), as_name="restored", jobs=1),
        f"restore_{jobs}_jobs": lambda: backup.restore(rag, _repo(folder, jobs), as_name="restored", jobs=jobs),
    }
    times: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            times.setdefault(name, []).append(_timed(way))
            if name.startswith("restore"):
                rag.delete_collection("restored")
        for name, at_once in (("copy_from", False), ("copy_from_two_sessions", True)):
            times.setdefault(name, []).append(_copy_from(rag, folder, arguments.dimension, at_once=at_once))
    return times


def _compared(times: dict[str, list[float]], ours: str, limit: str) -> dict[str, Any]:
    """Medians, and each of our ways as a share of the speed of raw COPY."""
    middle = {name: statistics.median(values) for name, values in times.items()}
    kept = {name: round(value, 2) for name, value in middle.items() if name.startswith((ours, limit))}
    one, several = (
        next(name for name in kept if name.startswith(ours) and name.endswith(end)) for end in (ours, "jobs")
    )
    return {
        "s": kept,
        "share_of_copy": round(middle[limit] / middle[one], 2),
        "share_of_copy_several": round(middle[limit] / middle[several], 2),
        "share_of_two_copies_several": round(middle[f"{limit}_two_sessions"] / middle[several], 2),
    }


def _incremental(rag: Ragstone, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Replace one row in a hundred, spread over the whole, and back up what changed."""
    repo = str(folder / "chain")
    full_s = _timed(lambda: backup.create(rag, repo, jobs=arguments.jobs))
    found, took_s = [], []
    for number in range(arguments.rounds):
        rows = np.arange(number, arguments.rows, 100)
        _upsert(rag, rows, arguments.dimension, seed=number + 1)
        took_s.append(_timed(lambda: found.append(backup.create(rag, repo, incremental=True, jobs=arguments.jobs))))
    [full] = [made for made in backup.list_backups(repo).complete if made.kind == "full"]
    size_bytes = statistics.median(made.size_bytes for made in found)
    return {
        "changed": round(statistics.median(made.collections[0].written for made in found) / arguments.rows, 4),
        "full_s": round(full_s, 2),
        "incremental_s": round(statistics.median(took_s), 3),
        "share_of_time": round(statistics.median(took_s) / full_s, 4),
        "full_bytes": full.size_bytes,
        "incremental_bytes": size_bytes,
        "share_of_bytes": round(size_bytes / full.size_bytes, 4),
    }


def _memory(folder: Path, rows: int, arguments: argparse.Namespace) -> int:
    data = folder / f"memory-{rows}"
    with retrieval.open(data, settings=load(**SETTINGS)) as rag:
        _fill(rag, rows, arguments.dimension)
    command = [sys.executable, "-m", "benchmarks.backup", "--memory-of", str(data), "--jobs", str(arguments.jobs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # our own module
    peak_mb: int = json.loads(done.stdout)
    return peak_mb


def _peak_of(data: Path, jobs: int) -> int:
    """Back up and restore in this process, and return the most memory that it took, in MiB."""
    repo = str(data.with_name(f"{data.name}-repo"))
    with retrieval.open(data, settings=load(**SETTINGS)) as rag:
        backup.create(rag, repo, jobs=jobs)
        backup.restore(rag, repo, as_name="restored", jobs=jobs)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _fill(rag: Ragstone, rows: int, dimension: int) -> int:
    """Make the corpus, and return the number in its tables' names."""
    collection = rag.create_collection("corpus", dimension=dimension)
    for start in range(0, rows, ROWS_PER_UPSERT):
        _upsert(rag, np.arange(start, min(start + ROWS_PER_UPSERT, rows)), dimension, seed=0)
    return collection.id


def _upsert(rag: Ragstone, rows: NDArray[np.int64], dimension: int, seed: int) -> None:
    random = np.random.default_rng([seed, int(rows[0])])
    embeddings = random.standard_normal((len(rows), dimension)).astype(np.float32)
    texts = [" ".join(f"w{word}" for word in row) for row in random.integers(0, VOCABULARY, (len(rows), WORDS))]
    metadata = [{"year": 2000 + int(row) % 25, "topic": f"t{row % 100}"} for row in rows]
    rag.collection("corpus").upsert_embeddings([f"doc-{row:08d}" for row in rows], embeddings, texts, metadata)


def _both(copy: Callable[[str], None], *, at_once: bool) -> None:
    if not at_once:
        copy("chunk")
        copy("embedding")
        return
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(copy, ("chunk", "embedding")))


def _copy_to(rag: Ragstone, folder: Path, table: str, table_id: int) -> None:
    name = sql.Identifier("ragstone", f"{table}_{table_id}")
    statement = sql.SQL("COPY {} TO STDOUT (FORMAT BINARY)").format(name)
    with _raw(rag) as raw, raw.cursor() as cursor, (folder / f"{table}.copy").open("wb", READ_BYTES) as file:
        with cursor.copy(statement) as copy:
            for row in copy:
                file.write(row)
        file.flush()
        os.fsync(file.fileno())


def _copy_from(rag: Ragstone, folder: Path, dimension: int, *, at_once: bool) -> float:
    spec = IndexSpec(dimension=dimension)
    state = create_collection(rag.database, "raw", spec, None, "pgvector")
    took_s = _timed(lambda: _both(lambda table: _load(rag, folder, table, state.id), at_once=at_once))
    delete_collection(rag.database, "raw")
    return took_s


def _load(rag: Ragstone, folder: Path, table: str, table_id: int) -> None:
    statement = query("changes", "copy_chunks" if table == "chunk" else "copy_embeddings", table_id)
    with (
        _raw(rag) as raw,
        raw.cursor() as cursor,
        (folder / f"{table}.copy").open("rb") as file,
        cursor.copy(statement) as copy,
    ):
        while block := file.read(READ_BYTES):
            copy.write(block)


def _raw(rag: Ragstone) -> psycopg.Connection[Any]:
    return psycopg.connect(rag.database.conninfo, autocommit=True)


def _repo(folder: Path, jobs: int) -> str:
    return str(folder / f"repo-{jobs}")


def _timed(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(result), flush=True)
    return result


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
