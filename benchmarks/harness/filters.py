"""Filters of 10 %, 1 % and 0.1 %: unrelated to the embeddings, and related, asked where they match and where not."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.harness.datasets import DataSet, related
from benchmarks.harness.plan import DEFAULT_EFFORT, REAL_ROWS, Bench, filtering
from benchmarks.harness.results import figure, figure_of
from benchmarks.harness.rounds import Measured, interleaved, ratio
from benchmarks.harness.truth import Truth, truth_of
from benchmarks.harness.workers import WorkerProcess

Json = dict[str, Any]
SHARES = {"10 %": 10, "1 %": 100, "0.1 %": 1_000}
RAW = ("raw_tuned", "raw_exact")
NEAR_FULL_RECALL = 0.985
"""Raw approximate search is a limit where it finds what a user would want found, or as much as we do."""


def filters(
    bench: Bench,
    data: DataSet,
    workers: dict[str, WorkerProcess],
    relation: str,
    positions: Sequence[int] | None = None,
) -> Iterator[Json]:
    """Ask every query, or those at `positions`, with each filter."""
    asked = range(len(data.queries)) if positions is None else positions
    for share, part in SHARES.items():
        bound = max(len(data) // part, 1)
        measured = interleaved(
            filtering(workers),
            asked,
            bench.sizes.rounds,
            lambda worker, block, bound=bound: worker.search(block, DEFAULT_EFFORT, bound),  # type: ignore[misc]  # its default
            bench.failures,
        )
        yield from _judged(data, measured, truth_of(data, bound), {"share": share, "relation": relation})


def related_filters(bench: Bench, data: DataSet) -> Iterator[Json]:
    """The same rows with numbers that go with the embeddings: a quarter of the queries asks near, and one far away.

    The peers take part in a full run alone.
    """
    moved = related(data)
    quarter = max(len(moved.queries) // 4, 1)
    names = ["ragstone", "ragstone_faiss", *RAW, *(bench.others if bench.sizes.name == "full" else ())]
    with bench.stage.loaded(moved, names, bench.failures) as workers:
        yield from filters(bench, moved, workers, "correlated", range(quarter))
        far = range(len(moved.queries) - quarter, len(moved.queries))
        yield from filters(bench, moved, workers, "anti-correlated", far)


def _judged(data: DataSet, measured: dict[str, Measured], truth: Truth, about: Json) -> Iterator[Json]:
    judged = {name: one.judged(data, truth) for name, one in measured.items()}
    for name, one in measured.items():
        yield {"what": "filter", "where": data.where, "peer": name} | about | one.described() | judged[name]
    words = f"{data.where}, {about['relation']} {about['share']}"
    for name in ("ragstone", "ragstone_faiss"):
        if name not in measured:
            continue
        ours = judged[name]
        yield figure(f"filter.{name}.recall", ours["recall"], words)
        yield figure(f"filter.{name}.short_answers", ours["short_answers"], words)
        is_unrelated = about["relation"] == "unrelated"
        if is_unrelated:
            yield figure_of(f"filter.{name}.p50_ms", measured[name].described()["p50_ms"], words)
        beside_raw = f"filter.{name}_over_raw"
        if is_unrelated and len(data) == REAL_ROWS:
            beside_raw += "_unrelated"  # at that size the target is in milliseconds
        yield from _beside_raw(beside_raw, measured[name], ours["recall"], measured, judged, words)


def _beside_raw(
    name: str, ours: Measured, recall: float, measured: dict[str, Measured], judged: dict[str, Json], words: str
) -> Iterator[Json]:
    """Us beside the faster of raw approximate and raw exact search, of those that find enough."""
    enough = min(NEAR_FULL_RECALL, recall - 0.005)
    limits = {raw: measured[raw] for raw in RAW if raw in measured and judged[raw]["recall"] >= enough}
    if limits:
        fastest = min(limits, key=lambda raw: limits[raw].described()["p50_ms"]["median"])
        yield figure_of(name, ratio(ours, limits[fastest]), words, limit=fastest)
