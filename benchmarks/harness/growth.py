"""How time, memory and disk grow with the collection: the same query stream on ever more rows of the same set."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import datasets
from benchmarks.harness.plan import DEFAULT_EFFORT, Bench
from benchmarks.harness.results import figure_of
from benchmarks.harness.rounds import Measured, interleaved, ratio
from benchmarks.harness.truth import truth_of

Json = dict[str, Any]
PEERS = ("ragstone", "ragstone_faiss", "raw_tuned", "plain_faiss")


def growth(bench: Bench) -> Iterator[Json]:
    """All sizes are loaded at once, and searched in turn with the default effort."""
    sizes = bench.sizes
    sets = [datasets.made_up(rows, sizes.growth_dimension, sizes.queries, bench.seed) for rows in sizes.growth_rows]
    with ExitStack() as stack:
        workers = {
            (name, data.where): worker
            for data in sets
            for name, worker in stack.enter_context(bench.stage.loaded(data, list(PEERS), bench.failures)).items()
        }
        measured = interleaved(
            workers,
            range(sizes.queries),
            sizes.rounds,
            lambda worker, block: worker.search(block, DEFAULT_EFFORT, None),
            bench.failures,
        )
        for data in sets:
            yield from _of_size(data, measured, {name: worker.loaded for name, worker in workers.items()})
    where = f"synthetic, {sizes.growth_rows[0]:,} to {sizes.growth_rows[-1]:,} x {sizes.growth_dimension}"
    for name in ("ragstone", "ragstone_faiss"):
        smallest, largest = ((name, data.where) for data in (sets[0], sets[-1]))
        if smallest in measured and largest in measured:
            yield figure_of(f"growth.{name}", ratio(measured[largest], measured[smallest]), where)


def _of_size(
    data: datasets.DataSet, measured: dict[tuple[str, str], Measured], loaded: dict[tuple[str, str], Json]
) -> Iterator[Json]:
    truth = truth_of(data)
    for (name, where), one in measured.items():
        if where != data.where:
            continue
        of_peer = loaded[name, where]
        yield {
            "what": "growth",
            "where": where,
            "rows": len(data),
            "peer": name,
            "effort": DEFAULT_EFFORT,
            **one.described(),
            **one.judged(data, truth),
            "load_s": round(of_peer["load_s"], 2),
            "bytes_per_vector": round(of_peer["size_bytes"] / len(data), 1),
            "least_bytes_per_vector": 2 * data.embeddings.shape[1],
            "memory_grown_bytes": of_peer["memory_grown_bytes"],
        }
