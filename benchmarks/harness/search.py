"""Loads and searches of everybody on one data set: a sweep of efforts, filters, and batches."""

from collections.abc import Iterator
from typing import Any

from benchmarks.harness.batches import batches
from benchmarks.harness.datasets import DataSet
from benchmarks.harness.filters import filters
from benchmarks.harness.plan import DEFAULT_EFFORT, Bench
from benchmarks.harness.results import figure, figure_of
from benchmarks.harness.rounds import Measured, ratio, swept
from benchmarks.harness.truth import truth_of
from benchmarks.harness.workers import WorkerProcess

Json = dict[str, Any]
EQUAL_RECALL = 0.005
"""Two recalls that are this near count as the same."""
Sweep = dict[int, dict[str, Measured]]


def search(bench: Bench, data: DataSet) -> Iterator[Json]:
    """Load the data set into everybody once, and measure all that can be asked of them."""
    with bench.stage.loaded(data, bench.everybody("faiss_adapter", "raw_exact"), bench.failures) as workers:
        yield from _loads(data, workers)
        indexed = {name: worker for name, worker in workers.items() if name != "raw_exact"}
        yield from _sweep(bench, data, indexed)
        yield from batches(bench, data, workers)
        yield from filters(bench, data, workers, "unrelated")


def _loads(data: DataSet, workers: dict[str, WorkerProcess]) -> Iterator[Json]:
    for name, worker in workers.items():
        loaded = worker.loaded
        size_bytes = loaded["size_bytes"]
        yield {
            "what": "load",
            "where": data.where,
            "peer": name,
            "versions": worker.opened["versions"],
            "start_s": round(worker.start_s, 2),
            "load_s": round(loaded["load_s"], 2),
            "rows_per_s": round(len(data) / loaded["load_s"]),
            "bytes_per_vector": None if size_bytes is None else round(size_bytes / len(data), 1),
            "least_bytes_per_vector": 2 * data.embeddings.shape[1],
            "memory_grown_bytes": loaded["memory_grown_bytes"],
        }


def _sweep(bench: Bench, data: DataSet, workers: dict[str, WorkerProcess]) -> Iterator[Json]:
    """Every effort and everybody in turn; those without effort show their one point."""
    efforts = {
        effort: [name for name, worker in workers.items() if worker.opened["has_effort"] or effort == DEFAULT_EFFORT]
        for effort in bench.sizes.efforts
    }
    sweep = swept(workers, range(len(data.queries)), bench.sizes.rounds, efforts, bench.failures)
    truth = truth_of(data)
    recalls: dict[tuple[int, str], float] = {}
    for effort, measured in sweep.items():
        for name, one in measured.items():
            judged = one.judged(data, truth)
            recalls[effort, name] = judged["recall"]
            about = {"where": data.where, "peer": name, "effort": effort}
            yield {"what": "search"} | about | one.described() | judged
    yield from _figures(data, sweep, recalls)


def _figures(data: DataSet, sweep: Sweep, recalls: dict[tuple[int, str], float]) -> Iterator[Json]:
    """Us beside each of the others, where their recall is ours at the default effort."""
    ours = sweep[DEFAULT_EFFORT]
    for own, names in BESIDE.items():
        for name in names if own in ours else ():
            effort = _equal(name, recalls, recalls[DEFAULT_EFFORT, own])
            if effort is None:
                continue
            theirs = sweep[effort][name]
            about = {
                "effort": [DEFAULT_EFFORT, effort],
                "recall": [recalls[DEFAULT_EFFORT, own], recalls[effort, name]],
            }
            if name in LIMITS_OF_SEARCH:
                yield figure_of(f"search.{own}_over_{name}", ratio(ours[own], theirs), data.where, **about)
            else:
                yield figure_of(f"search.{name}_over_{own}", ratio(theirs, ours[own]), data.where, **about)
    if "ragstone_faiss" in ours and "plain_faiss" in ours:
        pairs = zip(ours["ragstone_faiss"].p50s(), ours["plain_faiss"].p50s(), strict=True)
        more_ms = sorted(a - b for a, b in pairs)
        yield figure("faiss.single_more_ms", round(more_ms[len(more_ms) // 2], 3), data.where)


LIMITS_OF_SEARCH = ("raw_tuned", "raw_psycopg", "faiss_texts")
BESIDE = {
    "ragstone": ("raw_tuned", "raw_psycopg", "langchain_postgres", "llama_index", "haystack", "txtai", "chroma"),
    "ragstone_faiss": ("faiss_texts",),
}


def _equal(name: str, recalls: dict[tuple[int, str], float], wanted: float) -> int | None:
    """The least effort, from the default one on, whose recall is not below ours; the greatest where none is."""
    efforts = sorted(effort for effort, peer in recalls if peer == name and effort >= DEFAULT_EFFORT)
    reached = (effort for effort in efforts if recalls[effort, name] >= wanted - EQUAL_RECALL)
    return next(reached, efforts[-1] if efforts else None)
