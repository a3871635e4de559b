"""Ready embeddings into an empty store until the index has them all, by everybody in turn."""

from collections.abc import Iterator
from typing import Any

from benchmarks.harness.datasets import DataSet
from benchmarks.harness.plan import Bench
from benchmarks.harness.results import figure_of
from benchmarks.harness.rounds import spread, turned
from benchmarks.harness.workers import WorkerFailed

Json = dict[str, Any]
PEERS = ("ragstone", "raw_tuned", "raw_psycopg")


def ingest(bench: Bench, data: DataSet) -> Iterator[Json]:
    """Each load begins with a new process and an empty database, none of which is timed."""
    stem = bench.stage.saved(data)
    rates: dict[str, list[float]] = {}
    names = [*PEERS, *bench.others]
    for number in range(bench.sizes.ingest_rounds):
        for name in turned(list(names), number):
            try:
                with bench.stage.worker(name) as worker:
                    rates.setdefault(name, []).append(len(data) / worker.load(stem)["load_s"])
            except WorkerFailed as failure:
                bench.failures.append(str(failure))
                names.remove(name)
                rates.pop(name, None)
    for name, values in rates.items():
        yield {"what": "ingest", "where": data.where, "peer": name, "rows_per_s": spread(values)}
        if name not in PEERS:
            times = spread([ours / theirs for ours, theirs in zip(rates["ragstone"], values, strict=True)])
            yield figure_of(f"ingest.over_{name}", times, data.where)
