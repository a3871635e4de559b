"""Us, the peers and the limit, side by side in one run: results as JSON lines, and a report.

    python -m benchmarks.bench [--size small|full|tiny] [--parts search ...] [--out .bench/results]
    python -m benchmarks.bench --report FILE.jsonl ...

PostgreSQL is the embedded one, in a temporary folder, or the one that --postgres names by URL, database included; its
role must be allowed to create databases and extensions. Peers take part whose environments are installed (`make
bench-peers`), or those that --peers names. `benchmarks/README.md` says how everything is measured.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from backends.corpus.server import attach
from benchmarks.harness import datasets
from benchmarks.harness.filters import related_filters
from benchmarks.harness.growth import growth
from benchmarks.harness.ingest import ingest
from benchmarks.harness.plan import REAL_ROWS, SIZES, Bench, installed
from benchmarks.harness.report import write_report
from benchmarks.harness.results import Results, described, read
from benchmarks.harness.scripts import scripts
from benchmarks.harness.search import search
from benchmarks.harness.serving import serving
from benchmarks.harness.startup import startup
from benchmarks.harness.texts import text_queries
from benchmarks.harness.workers import Stage

Json = dict[str, Any]
Part = Callable[[Bench], Iterator[Json]]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped then, too
    arguments = _arguments()
    if arguments.report:
        earlier = [result for path in arguments.report for result in read(path)]
        print(write_report(earlier, arguments.report[-1].with_suffix("")))
        return
    stem = arguments.out / f"{arguments.size}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    with _stage(arguments.postgres) as stage, stem.with_suffix(".jsonl").open("w", encoding="utf-8") as file:
        others = installed() if arguments.peers is None else tuple(arguments.peers)
        bench = Bench(SIZES[arguments.size], stage, arguments.seed, others, stage.folder)
        results = Results(file, described(arguments.seed, arguments.size, _version(stage.postgres_url)))
        for name in arguments.parts:
            _do(bench, name, results)
    print(write_report(results.all, stem))
    if bench.failures:
        sys.exit(f"{len(bench.failures)} failed; the report says what")


def _do(bench: Bench, name: str, results: Results) -> None:
    """Measure one part; what fails is told in the results, and the other parts follow."""
    began_s, told, load = time.perf_counter(), len(bench.failures), os.getloadavg()[0]
    try:
        for result in PARTS[name](bench):
            results.add(result)
    except Exception as error:  # the other parts may still be measured
        bench.failures.append(f"{name}: {type(error).__name__}: {error}")
    for failure in bench.failures[told:]:
        results.add({"what": "failure", "part": name, "why": failure})
    took_s = time.perf_counter() - began_s
    results.add({"what": "part", "part": name, "took_s": round(took_s, 1), "load_before": round(load, 2)})
    print(f"{name}: {took_s:.0f} s", flush=True)
    for failure in bench.failures[told:]:
        print(f"  failed: {failure}", flush=True)


def _search(bench: Bench) -> Iterator[Json]:
    for data in _sets(bench):
        yield from search(bench, data)


def _related(bench: Bench) -> Iterator[Json]:
    for data in _sets(bench):
        yield from related_filters(bench, data)


def _sets(bench: Bench) -> Iterator[datasets.DataSet]:
    """The synthetic set, and in a full run the real ones that are at hand."""
    sizes = bench.sizes
    yield datasets.made_up(sizes.rows, sizes.dimension, sizes.queries, bench.seed)
    if sizes.name == "full":
        yield from datasets.available(sizes.queries, REAL_ROWS, bench.seed)


def _ingest(bench: Bench) -> Iterator[Json]:
    sizes = bench.sizes
    yield from ingest(bench, datasets.made_up(sizes.ingest_rows, sizes.dimension, 1, bench.seed))


PARTS: dict[str, Part] = {
    "startup": startup,
    "ingest": _ingest,
    "search": _search,
    "related": _related,
    "growth": growth,
    "http": serving,
    "text": text_queries,
    "scripts": scripts,
}


@contextmanager
def _stage(postgres_url: str | None) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="ragstone-bench-") as folder:
        if postgres_url is not None:
            yield Stage(postgres_url, Path(folder))
            return
        server = attach(Path(folder) / "postgres")
        try:
            yield Stage(server.url, Path(folder))
        finally:
            server.detach()


def _version(postgres_url: str) -> str:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else "unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--peers", nargs="*", help="beside our own and the limits; default: all that are installed")
    parser.add_argument("--postgres", metavar="URL")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(".bench/results"), help="a folder for results and report")
    parser.add_argument(
        "--report", nargs="+", type=Path, metavar="FILE", help="only make the report of earlier results"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
