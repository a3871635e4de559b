"""Ready embeddings into an empty store: until a search finds all, and until the index has all; everybody in turn."""

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
    loads: dict[str, list[Json]] = {}
    names = [*PEERS, *bench.others]
    for number in range(bench.sizes.ingest_rounds):
        for name in turned(list(names), number):
            try:
                with bench.stage.worker(name) as worker:
                    loads.setdefault(name, []).append(worker.load(stem))
            except WorkerFailed as failure:
                bench.failures.append(str(failure))
                names.remove(name)
                loads.pop(name, None)
    for name, seen in loads.items():
        stored, indexed = ([len(data) / one[stage] for one in seen] for stage in ("stored_s", "load_s"))
        yield {
            "what": "ingest",
            "where": data.where,
            "peer": name,
            "stored_rows_per_s": spread(stored),
            "rows_per_s": spread(indexed),
        }
        if name not in PEERS:
            yield figure_of(f"ingest.over_{name}", _times(loads["ragstone"], seen, "stored_s"), data.where)
            yield figure_of(f"ingest.until_indexed_over_{name}", _times(loads["ragstone"], seen, "load_s"), data.where)


def _times(ours: list[Json], theirs: list[Json], stage: str) -> Json:
    """How many times as fast we are, round by round."""
    return spread([their[stage] / our[stage] for our, their in zip(ours, theirs, strict=True)])
