"""Tries one effort on queries whose truth is known: what it finds, and what it takes."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.errors import FilterTooExpensive
from backends.searching import Found
from ops.measures import percentiles
from ops.recall.statistics import RecallSummary, summary
from ops.recall.truth import Examiner, Question, Truth, compare

TUNING_SHARE = 3 / 4

Search = Callable[[Question], Found]


@dataclass(frozen=True, slots=True)
class Examined:
    """A query and its truth, which is found once and used for every step."""

    question: Question
    truth: Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What searches with one effort showed; None is what they take now. `exact` were answered without the index."""

    effort: int | None
    recall: RecallSummary
    p50_ms: float
    p95_ms: float
    exact: int


def examine(examiner: Examiner, questions: Sequence[Question], until_s: float) -> list[Examined]:
    """Find the truth of each query until the time (`time.monotonic`) is up.

    Those for which there is nothing to find are left out, and those whose truth takes too long.
    """
    found = []
    for question in questions:
        if time.monotonic() > until_s:
            break
        try:
            truth = examiner.truth(question)
        except FilterTooExpensive:
            continue
        if truth.scores:
            found.append(Examined(question, truth))
    return found


def split(examined: Sequence[Examined], seed: int) -> tuple[list[Examined], list[Examined]]:
    """Return three quarters for tuning and the rest for checking; a query that was asked twice is on one side."""
    keys = sorted({one.question.embedding.tobytes() for one in examined})
    random.Random(seed).shuffle(keys)  # noqa: S311  # repeatable, not secret
    tuning = set(keys[: round(len(keys) * TUNING_SHARE)])
    sides: tuple[list[Examined], list[Examined]] = ([], [])
    for one in examined:
        sides[one.question.embedding.tobytes() not in tuning].append(one)
    return sides


def try_effort(examiner: Examiner, examined: Sequence[Examined], effort: int | None, search: Search) -> Step:
    """Ask every query once, as `search` does it; raises InvalidInput where there are none."""
    recalls, took_ms, exact = [], [], 0
    metric = examiner.collection.spec.metric
    for one in examined:
        began_s = time.perf_counter()
        found = search(one.question)
        took_ms.append((time.perf_counter() - began_s) * 1000)
        ids, scores = [hit.id for hit in found.hits], [hit.score for hit in found.hits]
        recall = compare(ids, scores, one.truth, one.question, metric).recall
        assert recall is not None  # only those with something to find were kept
        recalls.append(recall)
        exact += found.exact
    p50_ms, p95_ms = percentiles(took_ms, (50, 95)).values()
    return Step(effort=effort, recall=summary(recalls), p50_ms=p50_ms, p95_ms=p95_ms, exact=exact)
