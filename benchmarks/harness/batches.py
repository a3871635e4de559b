"""Batches of 32 queries on FAISS: alone, through our adapter, with texts, and through the library.

All have the same kind of graph and the same effort, so they compare as many rows; recalls stand beside each share.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.harness.datasets import DataSet
from benchmarks.harness.plan import DEFAULT_EFFORT, Bench
from benchmarks.harness.results import figure_of
from benchmarks.harness.rounds import Measured, interleaved, spread
from benchmarks.harness.truth import truth_of
from benchmarks.harness.workers import WorkerProcess

Json = dict[str, Any]
BATCH = 32
BATCHES_IN_TURN = 16
"""So many that a turn lasts: the first ones of a turn wake the threads."""
PEERS = ("plain_faiss", "faiss_adapter", "faiss_texts", "ragstone_faiss")
SHARES = {
    "faiss.adapter_share": ("faiss_adapter", "plain_faiss"),
    "faiss.library_share": ("ragstone_faiss", "faiss_texts"),
}


def batches(bench: Bench, data: DataSet, workers: dict[str, WorkerProcess]) -> Iterator[Json]:
    """Everybody in turn, the queries repeated where they are few."""
    positions = [*range(len(data.queries) // BATCH * BATCH)]
    measured = interleaved(
        {name: worker for name, worker in workers.items() if name in PEERS},
        positions * max(1, BATCHES_IN_TURN * BATCH // max(1, len(positions))),
        bench.sizes.rounds,
        lambda worker, block: worker.search_many(block, BATCH, DEFAULT_EFFORT),
        bench.failures,
        BATCH * BATCHES_IN_TURN,
    )
    truth = truth_of(data)
    judged = {name: one.judged(data, truth) for name, one in measured.items()}
    for name, one in measured.items():
        about = {"where": data.where, "peer": name, "batch": BATCH, "effort": DEFAULT_EFFORT}
        yield {"what": "batches"} | about | one.described(BATCH) | judged[name]
    for figure, (ours, theirs) in SHARES.items():
        if ours in measured and theirs in measured:
            recall = [judged[ours]["recall"], judged[theirs]["recall"]]
            yield figure_of(figure, _share(measured[ours], measured[theirs]), data.where, recall=recall)


def _share(ours: Measured, theirs: Measured) -> Json:
    """How fast we are as a share of how fast they are, at the median batch, round by round."""
    return spread([b / a for a, b in zip(ours.p50s(), theirs.p50s(), strict=True)])
