"""FAISS alone, through the adapter, on the device it finds: exact and approximate, as a share of the memory's rate.

    python -m benchmarks.faiss_device --rows 10000000 --dimension 768 [--kinds flat,ivf_pq] [--out results.jsonl]

An exact search reads every stored byte: what it reads a second is set beside what a plain copy of the same memory
reads, on the card with torch, on a CPU with NumPy. Queries come one by one, and in batches of 32 and 1,024.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from backends.faiss import FaissIndex
from backends.types import Batch, Embeddings, IndexIdentity, IndexSpec
from backends.vectors import prepare
from ops.measures import percentiles

BATCHES = (1, 32, 1_024)
CANDIDATES = 40
TOP_K = 10
ROWS_AT_ONCE = 50_000
CALLS = 20
COPY_BYTES = 1 << 30


def main() -> None:
    arguments = _arguments()
    spec = IndexSpec(dimension=arguments.dimension)
    rate = _copied_bytes_per_s()
    results = []
    truth: list[set[int]] = []
    for kind in arguments.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            owner = IndexIdentity(collection_id=1, system_identifier=1, timeline=1, index_id=1)
            index = FaissIndex(spec, owner, folder=Path(folder), kind=kind, device=arguments.device)
            started_s = time.perf_counter()
            index.build(_batches(arguments.rows, spec), 1)
            build_s = time.perf_counter() - started_s
            queries = prepare(_points(BATCHES[-1], spec.dimension, seed=arguments.rows), spec)
            found = [set(ids[:TOP_K].tolist()) for ids in index.search(queries[:100], CANDIDATES).ids]
            truth = truth or found  # the first kind is the exact one
            shared = sum(len(mine & true) for mine, true in zip(found, truth, strict=True))
            result = {"kind": index.stats().details["kind"], "device": index.stats().details["device"]}
            result |= {"build_s": round(build_s, 1), "recall": round(shared / (TOP_K * len(truth)), 4)}
            for size in BATCHES:
                result |= _speed(index, queries[:size], arguments.rows * spec.dimension * 2, rate)
            results.append(result)
            index.close()
    described = {"gpus": faiss.get_num_gpus(), "python": platform.python_version(), "faiss": faiss.__version__}
    described |= {"rows": arguments.rows, "dimension": spec.dimension, "copy_gb_per_s": round(rate / 1e9, 1)}
    for result in results:
        print(json.dumps(described | result))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(described | result) + "\n" for result in results)


def _speed(index: FaissIndex, queries: Embeddings, stored_bytes: int, rate: float) -> dict[str, Any]:
    took_s = []
    for _ in range(CALLS):
        started_s = time.perf_counter()
        index.search(queries, CANDIDATES)
        took_s.append(time.perf_counter() - started_s)
    p50_s = percentiles(took_s, (50,))["p50"]
    size = len(queries)
    return {
        f"p50_ms_{size}": round(p50_s * 1e3, 3),
        f"queries_per_s_{size}": round(size / p50_s, 1),
        f"share_of_copy_{size}": round(stored_bytes / p50_s / rate, 3),
    }


def _copied_bytes_per_s() -> float:
    """Bytes read a second by a copy within the memory that the index lies in."""
    if faiss.get_num_gpus():
        import torch

        source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return _rate(lambda: (target.copy_(source), torch.cuda.synchronize()))
    here = np.zeros(COPY_BYTES, np.uint8)
    there = np.ones_like(here)
    return _rate(lambda: np.copyto(there, here))


def _rate(copy: Callable[[], object]) -> float:
    copy()
    started_s = time.perf_counter()
    for _ in range(3):
        copy()
    return 3 * COPY_BYTES / (time.perf_counter() - started_s)


def _batches(rows: int, spec: IndexSpec) -> Iterator[Batch]:
    for start in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - start)
        embeddings = prepare(_points(count, spec.dimension, seed=start), spec)
        ids = np.arange(start, start + count, dtype=np.int64)
        yield Batch(ids=ids, embeddings=embeddings, attributes=[{}] * count)


def _points(count: int, dimension: int, seed: int) -> Embeddings:
    """Points around a thousand centres, the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((1_000, dimension), dtype=np.float32)
    drawn = np.random.default_rng(seed + 1)
    points = centres[drawn.integers(0, len(centres), count)]
    points += 0.7 * drawn.standard_normal((count, dimension), dtype=np.float32)
    made: Embeddings = points
    return made


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--kinds", default="flat,ivf_pq", help="the exact one first: recall is against it")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--out", type=Path, help="append the results to this file, one JSON document a line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
