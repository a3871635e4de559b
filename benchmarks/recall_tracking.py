"""What tracking recall tells, and what it costs: on pgvector and FAISS, with embeddings and queries that are given.

    python -m benchmarks.recall_tracking --npz mnist-784.npz
    python -m benchmarks.recall_tracking --npz mnist-784.npz --rows 10000 --queries 2000 --rounds 4 --round-s 4

Arrays `train` and `test`, compared by l2. The last ones of `train` are not stored but asked, shuffled with `test`; as
many as `test` has are kept from tuning. One JSON line for each thing that is shown:

coverage  how often the reported 95 % interval of a sample of 20 % covers the recall of the 2,000 queries it is of
filtered  recall and short hits of filters that match 10 %, 1 % and 0.1 %
alert     whether recall below its target is told, once ef_search is forced to 10; on FAISS, whose HNSW looks at 40
          candidates at least, also for the first rows in an IVF index whose nprobe is forced to 1
tune      `recall tune --target 0.99`: what it reaches on queries it did not see, and how many steps above the least
overhead  searches with tracking beside searches without, in rounds that take turns: ratios of p50 and p99
"""

import argparse
import json
import logging
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import retrieval
from backends.corpus.collections import find_collection
from backends.corpus.observations import set_effort
from backends.filters import parse
from backends.types import Embeddings
from backends.vectors import prepare
from ops import moving, recall
from ops.measures import percentiles
from ops.moving.gentle import gentle_database
from ops.recall.knobs import knob_of
from ops.recall.statistics import summary
from ops.recall.steps import Examined, examine, try_effort
from ops.recall.truth import Examiner, Question, compare
from retrieval import Collection, Ragstone
from retrieval.config import load

NAME = "tracked"
FEW = "few"
FEW_ROWS = 20_000
TOP_K = 10
TARGET = 0.99
OF_EACH_DRAW = 2_000
SAMPLED = 0.2
ALERT_QUERIES = 200
FILTERED_QUERIES = 300
FILTERS = {"10%": {"n": {"$lt": 100}}, "1%": {"n": {"$lt": 10}}, "0.1%": {"n": 0}}
RESAMPLES = 10_000
SETTLE_S = 2.0
MOST_WAITING = 100


def main() -> None:
    arguments = _arguments()
    logging.basicConfig(level=logging.WARNING)
    with np.load(arguments.npz) as file:
        train, test = file["train"].astype(np.float32), file["test"].astype(np.float32)
    asked = np.concatenate([train[len(train) - arguments.queries :], test])
    np.random.default_rng(0).shuffle(asked)  # those of `test` are the harder ones
    queries, unseen = asked[: arguments.queries], asked[arguments.queries :]
    train = train[: min(arguments.rows, len(train) - arguments.queries)]
    with tempfile.TemporaryDirectory() as folder:
        with _opened(folder) as rag:
            _load(rag, train)
            if "overhead" in arguments.parts:
                _print("pgvector", len(train), overhead=_overhead(rag, queries, arguments))
            examined = _truths(rag, queries)
        for backend in ("pgvector", "faiss"):
            _on(folder, backend, examined, unseen, arguments)
        if "alert" in arguments.parts:
            found = _alert_of_lists(folder, train[:FEW_ROWS], queries[:ALERT_QUERIES])
            _print("faiss ivf_sq8", min(FEW_ROWS, len(train)), alert_nprobe_1=found)


def _on(folder: str, backend: str, examined: list[Examined], unseen: Embeddings, arguments: argparse.Namespace) -> None:
    """Show everything but the overhead on one backend."""
    queries = np.array([one.question.embedding for one in examined])
    with _opened(folder) as rag:
        _arrive(rag, backend)
        rows = find_collection(rag.database, NAME).chunks
        if "coverage" in arguments.parts:
            _print(backend, rows, coverage=_coverage(rag, examined, arguments.draws))
        if "filtered" in arguments.parts:
            _print(backend, rows, filtered=_filtered(rag, queries[:FILTERED_QUERIES]))
    if "alert" in arguments.parts:
        with _opened(folder, ef_search=10, recall_sample=1.0, recall_budget_s_per_min=60.0) as rag:
            _print(backend, rows, alert=_alert(rag, NAME, queries[:ALERT_QUERIES]))
    if "tune" in arguments.parts:
        with _opened(folder, recall_sample=1.0, recall_budget_s_per_min=0.0) as rag:
            _print(backend, rows, tune=_tune(rag, queries, unseen))


def _coverage(rag: Ragstone, examined: list[Examined], draws: int) -> dict[str, Any]:
    """The recall of each query is found once; then draws of them are sampled as live queries are."""
    with _examiner(rag) as examiner:
        found = [_recall(examiner, one) for one in examined]
    recalls = np.array(found)
    covered, widths = 0, []
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        population = generator.choice(recalls, min(OF_EACH_DRAW, len(recalls)), replace=False)
        reported = summary(population[generator.random(len(population)) < SAMPLED].tolist(), seed)
        covered += int(reported.low <= population.mean() <= reported.high)
        widths.append(reported.high - reported.low)
    return {
        "draws": draws,
        "covered": covered,
        "queries": len(recalls),
        "recall": round(float(recalls.mean()), 4),
        "mean_width": round(float(np.mean(widths)), 4),
    }


def _filtered(rag: Ragstone, queries: Embeddings) -> list[dict[str, Any]]:
    """Ask each query with each filter, as a user would, and compare with the truth."""
    found = []
    with _examiner(rag) as examiner:
        for expected, filter in FILTERS.items():
            questions = [replace(one, filter=parse(filter)) for one in _questions(examiner, queries)]
            found.append(_band(examiner, expected, examine(examiner, questions, float("inf"))))
    return found


def _band(examiner: Examiner, expected: str, examined: Sequence[Examined]) -> dict[str, Any]:
    step = try_effort(examiner, examined, None, examiner.found)
    hits = [len(examiner.found(one.question).chunks) for one in examined]
    bands = {one.truth.band for one in examined}
    return {
        "expected": expected,
        "bands": sorted(bands),
        "recall": round(step.recall.mean, 4),
        "interval": [round(step.recall.low, 4), round(step.recall.high, 4)],
        "queries": len(examined),
        "short": sum(hit < min(TOP_K, len(one.truth.scores)) for hit, one in zip(hits, examined, strict=True)),
        "answered_exactly": step.exact,
        "p50_ms": round(step.p50_ms, 2),
    }


def _alert_of_lists(folder: str, train: Embeddings, queries: Embeddings) -> dict[str, Any]:
    """Index some rows by lists, and look at one list a query."""
    with _opened(folder, faiss_kind="ivf_sq8") as rag:
        _load(rag, train, FEW)
        _arrive(rag, "faiss", FEW)
        with rag.database.connection() as connection:
            set_effort(connection, find_collection(rag.database, FEW).id, "faiss", "all", 1)
    with _opened(folder, recall_sample=1.0, recall_budget_s_per_min=60.0) as rag:
        return _alert(rag, FEW, queries)


def _alert(rag: Ragstone, name: str, queries: Embeddings) -> dict[str, Any]:
    """Search as users do while recall is tracked, until all of it is measured."""
    collection = rag.collection(name)
    collection.configure(recall_target=TARGET)
    _forget(rag)
    with recall.running(rag):
        for query in queries:
            collection.search(query, TOP_K)
        deadline_s = time.monotonic() + 600
        while (standing := _standing(rag, name)) is None or standing.recall.queries < len(queries):
            if time.monotonic() > deadline_s:
                raise SystemExit("the queries were not measured within ten minutes")
            time.sleep(0.2)
    collection.configure(recall_target=None)
    found = standing.recall
    return {
        "fired": standing.below,
        "target": standing.target,
        "recall": round(found.mean, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "queries": found.queries,
    }


def _standing(rag: Ragstone, name: str) -> recall.Standing | None:
    found = recall.standings(rag.database, rag)
    return next((one for one in found if (one.collection, one.band) == (name, "all")), None)


def _forget(rag: Ragstone) -> None:
    """What was asked before, of other settings, has no part in this."""
    with rag.database.connection() as connection:
        connection.execute("DELETE FROM ragstone.captured_query")


def _tune(rag: Ragstone, asked: Embeddings, unseen: Embeddings) -> dict[str, Any]:
    """Let queries be captured, tune on them, and try what was found on others."""
    collection = rag.collection(NAME)
    _forget(rag)
    with recall.running(rag) as capture:
        assert capture is not None
        for number, query in enumerate(asked[: rag.settings.recall_kept_queries], start=1):
            collection.search(query, TOP_K)
            while number - capture.captured - capture.dropped > MOST_WAITING:
                time.sleep(0.01)
    began_s = time.monotonic()
    (found,) = recall.tune(rag, NAME, TARGET, band="all")
    took_s = time.monotonic() - began_s
    result = {
        "target": TARGET,
        "knob": found.knob,
        "effort": found.effort,
        "problem": found.problem,
        "queries": found.queries,
        "drawn": found.drawn,
        "took_s": round(took_s, 1),
        "now": _step(found.now),
        "steps": [_step(step) for step in found.steps],
    }
    return result if found.effort is None else result | _on_unseen(rag, found.effort, unseen)


def _on_unseen(rag: Ragstone, effort: int, unseen: Embeddings) -> dict[str, Any]:
    with _examiner(rag) as examiner:
        examined = examine(examiner, _questions(examiner, unseen), float("inf"))
        ladder = knob_of(examiner.attached.index, TOP_K, examiner.collection.chunks).ladder()
        ladder = ladder[: ladder.index(effort) + 1]
        recalls = [
            try_effort(examiner, examined, one, partial(examiner.found_untuned, effort=one)).recall.mean
            for one in ladder
        ]
    least = next((step for step, found in enumerate(recalls) if found >= TARGET), None)
    return {
        "unseen_queries": len(examined),
        "unseen_recall": round(recalls[-1], 4),
        "steps_above_least": None if least is None else len(ladder) - 1 - least,
        "unseen_recall_by_effort": dict(zip(ladder, [round(found, 4) for found in recalls], strict=True)),
    }


def _overhead(rag: Ragstone, queries: Embeddings, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds of searches, with tracking as it is by default and without, in turns that a coin begins."""
    collection = rag.collection(NAME)
    order = random.Random(0)  # noqa: S311  # repeatable, not secret
    ratios: list[float] = []
    took_ms: dict[bool, list[float]] = {True: [], False: []}
    for number in range(arguments.rounds):
        found: dict[bool, list[float]] = {}
        for tracked in order.sample([True, False], 2):
            shifted = np.roll(queries, 997 * number, axis=0)
            with recall.running(rag) if tracked else nullcontext():
                _round(collection, shifted, SETTLE_S)  # a service starts once, and is not asked how long that takes
                found[tracked] = _round(collection, shifted, arguments.round_s)
            took_ms[tracked] += found[tracked]
        ratios.append(_p50(found[True]) / _p50(found[False]))
    p99 = {tracked: percentiles(took, (99,))["p99"] for tracked, took in took_ms.items()}
    low, high = _interval(ratios)
    return {
        "rounds": arguments.rounds,
        "searches": {"on": len(took_ms[True]), "off": len(took_ms[False])},
        "p50_ms": {"on": round(_p50(took_ms[True]), 3), "off": round(_p50(took_ms[False]), 3)},
        "p50_ratio": round(float(np.mean(ratios)), 4),
        "p50_ratio_interval": [round(low, 4), round(high, 4)],
        "p99_ms": {"on": round(p99[True], 3), "off": round(p99[False], 3)},
        "p99_ratio": round(p99[True] / p99[False], 4),
    }


def _round(collection: Collection, queries: Embeddings, round_s: float) -> list[float]:
    took_ms: list[float] = []
    ends_s = time.perf_counter() + round_s
    while (began_s := time.perf_counter()) < ends_s:
        collection.search(queries[len(took_ms) % len(queries)], TOP_K)
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    return took_ms


def _p50(took_ms: list[float]) -> float:
    return percentiles(took_ms, (50,))["p50"]


def _interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the bootstrapped 95 % interval of the mean of ratios, one a round."""
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def _load(rag: Ragstone, train: Embeddings, name: str = NAME) -> None:
    collection = rag.create_collection(name, dimension=train.shape[1], metric="l2")
    ids = [f"d{n}" for n in range(len(train))]
    collection.upsert_embeddings(ids, train, ["text"] * len(ids), [{"n": n % 1_000} for n in range(len(ids))])
    collection.wait_until_indexed(1_800)


def _arrive(rag: Ragstone, backend: str, name: str = NAME) -> None:
    if find_collection(rag.database, name).backend != backend:
        move = moving.work_on(rag, moving.start(rag, name, backend))
        assert move.phase == "done", move


def _truths(rag: Ragstone, queries: Embeddings) -> list[Examined]:
    with _examiner(rag) as examiner:
        return examine(examiner, _questions(examiner, queries), float("inf"))


def _questions(examiner: Examiner, queries: Embeddings) -> list[Question]:
    prepared = prepare(queries, examiner.collection.spec)
    return [Question(embedding=embedding, filter=None, top_k=TOP_K) for embedding in prepared]


def _recall(examiner: Examiner, one: Examined) -> float:
    chunks = examiner.found(one.question).chunks
    ids, scores = [chunk.id for chunk in chunks], [chunk.score for chunk in chunks]
    measured = compare(ids, scores, one.truth, one.question, examiner.collection.spec.metric).recall
    assert measured is not None
    return measured


def _step(step: Any) -> dict[str, Any]:
    return {
        "effort": step.effort,
        "recall": round(step.recall.mean, 4),
        "low": round(step.recall.low, 4),
        "p50_ms": round(step.p50_ms, 2),
        "p95_ms": round(step.p95_ms, 2),
    }


@contextmanager
def _examiner(rag: Ragstone) -> Iterator[Examiner]:
    with gentle_database(rag) as gentle:
        yield Examiner(rag, gentle, find_collection(rag.database, NAME))


def _opened(folder: str, **given: object) -> Ragstone:
    return retrieval.open(folder, settings=load(data=folder, embedding_model="hashing", placement="advise", **given))


def _print(backend: str, rows: int, **result: Any) -> None:
    print(json.dumps({"backend": backend, "rows": rows} | result), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=60_000, help="the queries are others, from the end of `train`")
    parser.add_argument("--queries", type=int, default=4_000, help="queries whose truth is found")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--round-s", type=float, default=10.0, help="seconds of a round, with tracking and without")
    parts = ("coverage", "filtered", "alert", "tune", "overhead")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    return parser.parse_args()


if __name__ == "__main__":
    main()
