"""Search over HTTP at 1, 8, 32 and 128 clients: our service beside the tightest one and the peers' own servers."""

from collections.abc import Iterator
from typing import Any

from benchmarks.harness import datasets
from benchmarks.harness.plan import Bench
from benchmarks.http.contest import run_http

Json = dict[str, Any]


def serving(bench: Bench) -> Iterator[Json]:
    """On the synthetic set of the searches."""
    sizes = bench.sizes
    data = datasets.made_up(sizes.rows, sizes.dimension, sizes.queries, bench.seed)
    return run_http(data, bench.stage, sizes.http_rounds, bench.failures, sizes.http_round_s)
