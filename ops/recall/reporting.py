"""Measures the recall of one collection now, by band of filter selectivity."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

from backends.corpus.collections import CollectionState, find_collection
from backends.efforts import BANDS, Band
from backends.errors import Conflict, FilterTooExpensive
from backends.filters import Filter
from ops.moving.gentle import gentle_database
from ops.recall import questions
from ops.recall.statistics import RecallSummary, summary
from ops.recall.truth import Examiner, Question, compare
from retrieval.library import Ragstone
from retrieval.placement import recall_target_of

QUERIES = 200
LEAST_STORED = 20
"""Fewer captured queries are made up to the number asked for by drawn ones."""
BUDGET_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BandRecall:
    """What was found of one band. `distance_ratio` is None where an inner product is compared.

    `short` are queries with fewer hits than there were to find, `exact` those that were answered by comparing every
    chunk that matches, `drawn` those that nobody asked.
    """

    backend: str
    band: Band
    target: float
    recall: RecallSummary
    distance_ratio: float | None
    short: int
    exact: int
    drawn: int

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below the target."""
        return self.recall.high < self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found, by band. `left_out` are queries whose exact answer takes longer than two minutes."""

    bands: list[BandRecall]
    left_out: int


@dataclass(slots=True)
class _Tally:
    recalls: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    short: int = 0
    exact: int = 0
    drawn: int = 0


def measure_now(
    rag: Ragstone,
    name: str,
    count: int = QUERIES,
    *,
    drawn: bool = False,
    filter: Filter | None = None,
    seed: int = 0,
) -> Report:
    """Search as users do, on captured queries or drawn ones, and compare with exact searches.

    Drawn ones are taken where that is asked for, or fewer than 20 are captured. `filter` replaces the queries' own.
    After ten minutes it ends with those that are done. Nothing is stored. Raises CollectionNotFound, and Conflict
    where there is nothing to search.
    """
    collection = find_collection(rag.database, name)
    if not collection.chunks:
        raise Conflict(f"collection {name!r} is empty: there is no recall to measure")
    asked = questions.with_filter(_questions(rag, collection, count, drawn, seed), filter)
    tallies: dict[Band, _Tally] = defaultdict(_Tally)
    left_out = 0
    with gentle_database(rag) as gentle:
        examiner = Examiner(rag, gentle, collection)
        deadline_s = time.monotonic() + BUDGET_S
        for question in asked:
            try:
                _ask(examiner, question, tallies)
            except FilterTooExpensive:
                left_out += 1
            if time.monotonic() > deadline_s:
                break
    target = recall_target_of(collection, rag.settings)
    bands = [_of_band(collection, target, band, tallies[band]) for band in BANDS if band in tallies]
    return Report(bands=bands, left_out=left_out)


def _questions(rag: Ragstone, collection: CollectionState, count: int, drawn: bool, seed: int) -> list[Question]:
    stored = [] if drawn else questions.stored(rag.database, collection, count)
    if len(stored) >= min(LEAST_STORED, count):
        return stored
    return stored + questions.drawn(rag.database, collection, count - len(stored), [], seed)


def _ask(examiner: Examiner, question: Question, tallies: dict[Band, _Tally]) -> None:
    truth = examiner.truth(question)
    found = examiner.found(question)
    ids, scores = [hit.id for hit in found.hits], [hit.score for hit in found.hits]
    measured = compare(ids, scores, truth, question, examiner.collection.spec.metric)
    if measured.recall is None:
        return  # nothing matches: there was nothing to find
    tally = tallies[truth.band]
    tally.recalls.append(measured.recall)
    if measured.distance_ratio is not None:
        tally.ratios.append(measured.distance_ratio)
    tally.short += bool(measured.short)
    tally.exact += found.exact
    tally.drawn += question.drawn


def _of_band(collection: CollectionState, target: float, band: Band, tally: _Tally) -> BandRecall:
    return BandRecall(
        backend=collection.backend,
        band=band,
        target=target,
        recall=summary(tally.recalls),
        distance_ratio=sum(tally.ratios) / len(tally.ratios) if tally.ratios else None,
        short=tally.short,
        exact=tally.exact,
        drawn=tally.drawn,
    )
