"""From nothing to the first answer: the library in a new process, with PostgreSQL running and not, and the service."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import retrieval
from benchmarks.harness.plan import Bench
from benchmarks.harness.rounds import spread
from benchmarks.stores import free_port, process
from retrieval.config import load

Json = dict[str, Any]
NAME = "started"
ROWS = 1_000
DIMENSION = 64
PATIENCE_S = 120
FIRST_SEARCH = """
import retrieval, sys
with retrieval.open(sys.argv[1]) as rag:
    print(len(rag.collection(sys.argv[2]).search([1.0] * 64)), flush=True)
"""


def startup(bench: Bench) -> Iterator[Json]:
    """Wall-clock time, the start of Python included; each way in turn."""
    folder = bench.stage.folder / "startup"
    with retrieval.open(folder, settings=load(embedding_model="hashing")) as rag:
        _fill(rag)
    ways: dict[str, Callable[[], float]] = {
        "library, embedded PostgreSQL stopped": lambda: _library(folder),
        "library, PostgreSQL running": lambda: _beside_running(folder, lambda: _library(folder)),
        "ragstone serve, embedded PostgreSQL stopped": lambda: _service(folder),
    }
    took_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(bench.sizes.rounds):
        for name, way in ways.items():
            took_s[name].append(way())
    for name, values in took_s.items():
        yield {"what": "startup", "way": name, "first_answer_s": spread(values)}


def _fill(rag: retrieval.Ragstone) -> None:
    embeddings = np.random.default_rng(0).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    collection = rag.create_collection(NAME, dimension=DIMENSION)
    collection.upsert_embeddings([f"row-{row}" for row in range(ROWS)], embeddings, ["some text"] * ROWS)


def _beside_running(folder: Path, call: Callable[[], float]) -> float:
    with retrieval.open(folder, settings=load(embedding_model="hashing")):
        return call()


def _library(folder: Path) -> float:
    command = [sys.executable, "-c", FIRST_SEARCH, str(folder), NAME]
    started_s = time.perf_counter()
    with subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True) as running:  # noqa: S603  # our own words
        assert running.stdout is not None
        answered = running.stdout.readline()
        took_s = time.perf_counter() - started_s
    if answered.strip() != "10":
        raise RuntimeError(f"a new process found {answered.strip() or 'nothing'}, not ten hits")
    return took_s


def _service(folder: Path) -> float:
    port = free_port()
    command = [sys.executable, "-m", "ops.cli", "--data", str(folder), "serve", "--port", str(port)]
    started_s = time.perf_counter()
    with process(command, _environment()):
        _first_answer(port, started_s + PATIENCE_S)
        return time.perf_counter() - started_s


def _first_answer(port: int, deadline_s: float) -> None:
    body = json.dumps({"embedding": [1.0] * DIMENSION, "top_k": 10}).encode()
    url = f"http://127.0.0.1:{port}/v1/collections/{NAME}/search"
    asked = urllib.request.Request(url, body, {"content-type": "application/json"})  # loopback
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310  # loopback
                answer.read()
                return
        except OSError:
            if time.perf_counter() > deadline_s:
                raise
            time.sleep(0.02)


def _environment() -> dict[str, str]:
    return os.environ | {"RAGSTONE_EMBEDDING_MODEL": "hashing"}
