"""How time, memory and disk grow with the collection: the same query stream on ever more rows of the same set."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import fmean
from typing import Any

from benchmarks.harness import datasets, synthetic
from benchmarks.harness.plan import DEFAULT_EFFORT, Bench
from benchmarks.harness.results import figure_of
from benchmarks.harness.rounds import Measured, interleaved, ratio
from benchmarks.harness.truth import truth_of
from benchmarks.peers.protocol import HNSW_M

Json = dict[str, Any]
PEERS = ("ragstone", "ragstone_faiss", "raw_tuned", "plain_faiss")
HALF_BYTES, ROW_NUMBER_BYTES = 2, 4
SAMPLED_ROWS = 10_000


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
    for name in PEERS:  # the limits, too: what they grow by is not ours to mend
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
            "memory_grown_bytes": of_peer["memory_grown_bytes"],
            **least_bytes(data),
        }


def least_bytes(data: datasets.DataSet) -> Json:
    """What a vector takes at the least, in bytes: its components in half precision, and what must be beside them.

    On disk that is its id, text and metadata, as UTF-8 and without any index; in memory the links of HNSW's lowest
    layer, 2 x m row numbers, which every vector has.
    """
    components = HALF_BYTES * data.embeddings.shape[1]
    text = fmean(len(text.encode()) for text in synthetic.texts(min(len(data), SAMPLED_ROWS), data.seed))
    beside = len(datasets.row_id(0)) + len(json.dumps({"n": len(data)}))
    return {
        "least_bytes_per_vector": components,
        "least_stored_per_vector": round(components + text + beside, 1),
        "least_memory_per_vector": components + 2 * HNSW_M * ROW_NUMBER_BYTES,
    }
