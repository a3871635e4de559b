"""Sees recall fall below its target and says so once; takes back an effort whose tuning made searches worse."""

import logging
from dataclasses import dataclass

from backends.corpus.database import Database
from backends.corpus.observations import WatchedTuning, recent_recalls, take_back, watched_tunings
from backends.efforts import Band
from ops.measures import percentiles
from ops.recall.statistics import RecallSummary, summary
from retrieval.library import Ragstone

RECENT_S = 86_400.0
RECENT_QUERIES = 200
"""What is judged: so many of the newest queries, since older ones may be of an index that was another then."""
WATCHED_S = 7 * 86_400.0
GUARD_QUERIES = 30
GUARD_SEARCHES = 100
"""How many searches it takes before a tuning is judged by their recall, and by their 99th percentile."""
SLOWER = 1.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one band of a collection stands: the recall of its newest queries beside its target."""

    collection: str
    backend: str
    band: Band
    target: float
    recall: RecallSummary

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below the target: then chance alone is no explanation."""
        return self.recall.high < self.target

    def __str__(self) -> str:
        found = self.recall
        return (
            f"{self.collection}, {self.backend}, {band_words(self.band)}: recall {found.mean:.3f} "
            f"({found.low:.3f} to {found.high:.3f}) on {found.queries} queries, target {self.target:g}"
        )


def band_words(band: Band) -> str:
    """Say which searches a band has."""
    return {"all": "searches without a filter", "<0.1%": "filters that match less than 0.1%"}.get(
        band, f"filters that match {band} or more"
    )


def standings(database: Database, rag: Ragstone) -> list[Standing]:
    """Return how every collection stands, by band, on the index that serves it."""
    return [
        Standing(
            collection=recent.collection,
            backend=recent.backend,
            band=recent.band,
            target=rag.settings.recall_target if recent.recall_target is None else recent.recall_target,
            recall=summary(recent.recalls),
        )
        for recent in recent_recalls(database, RECENT_S, RECENT_QUERIES)
    ]


def below_target(database: Database, rag: Ragstone) -> list[Standing]:
    """Return the bands whose recall is surely below its collection's target."""
    return [standing for standing in standings(database, rag) if standing.below]


class Watch:
    """Remembers what it has said, so that each change is logged once. For one thread."""

    def __init__(self, rag: Ragstone) -> None:
        self._rag = rag
        self._below: set[tuple[str, str, Band]] = set()

    def look(self) -> None:
        """Look at every collection, and at every effort that was tuned of late."""
        for standing in standings(self._rag.database, self._rag):
            self._tell(standing)
        for watched in watched_tunings(self._rag.database, WATCHED_S):
            guard(self._rag.database, watched)

    def _tell(self, standing: Standing) -> None:
        key = standing.collection, standing.backend, standing.band
        if standing.below and key not in self._below:
            self._below.add(key)
            log.warning("recall is below its target: %s; see `ragstone recall tune %s`", standing, standing.collection)
        elif not standing.below and key in self._below:
            self._below.discard(key)
            log.warning("recall is not below its target any more: %s", standing)


def guard(database: Database, watched: WatchedTuning) -> bool:
    """Take an effort back where searches got worse with it, and return whether that was so."""
    problem = worse(watched)
    if problem is None or not take_back(database, watched.tuning):
        return False
    tuning = watched.tuning
    log.warning(
        "the %s effort %d of %s (%s) is taken back, %s holds again: %s",
        tuning.backend,
        tuning.effort,
        watched.collection,
        band_words(tuning.band),
        "the default" if tuning.previous is None else tuning.previous,
        problem,
    )
    return True


def worse(watched: WatchedTuning) -> str | None:
    """Say what got worse since an effort was set; None where nothing did, or too little is known.

    Recall is worse where its mean is below the target and its whole interval below what it was. (The lower bound
    alone would condemn every tuning at first: few queries have a low one.) The 99th percentile is worse above the
    limit that was set with the effort: 1.5 times what it was, and what the effort was then found to cost.
    """
    tuning = watched.tuning
    if len(watched.recalls) >= GUARD_QUERIES:
        found = summary(watched.recalls)
        if found.high < tuning.recall_before and found.mean < tuning.target:
            return (
                f"recall {found.mean:.3f} on {found.queries} queries, it was {tuning.recall_before:.3f} before, "
                f"target {tuning.target:g}"
            )
    if tuning.p99_limit_ms is not None and len(watched.search_ms) >= GUARD_SEARCHES:
        p99_ms = percentiles(watched.search_ms, (99,))["p99"]
        if p99_ms > tuning.p99_limit_ms:
            return f"p99 {p99_ms:.1f} ms, expected were at most {tuning.p99_limit_ms:.1f} ms"
    return None


def p99_limit_ms(search_ms: list[float], cost_ratio: float) -> float | None:
    """Return the 99th percentile above which a tuning is taken back; None where too few searches are known."""
    if len(search_ms) < GUARD_SEARCHES:
        return None
    return SLOWER * max(cost_ratio, 1.0) * percentiles(search_ms, (99,))["p99"]
