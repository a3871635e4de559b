"""Finds the least effort that surely reaches a recall on what users ask, by band of filter selectivity, and sets it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.database import Database
from backends.corpus.observations import recent_recalls
from backends.corpus.observations import tune as set_tuned
from backends.efforts import BANDS, Band, effort_of
from backends.errors import Conflict, InvalidInput
from ops.moving.gentle import gentle_database
from ops.recall import questions
from ops.recall.knobs import Knob, knob_of
from ops.recall.statistics import RecallSummary, monotone, queries_needed
from ops.recall.steps import TUNING_SHARE, Examined, Step, examine, split, try_effort
from ops.recall.truth import Examiner, Question
from ops.recall.watching import RECENT_QUERIES, RECENT_S, p99_limit_ms
from retrieval.library import Ragstone

QUERIES = 2_000
LEAST_QUERIES = 50
BUDGET_S = 600.0
"""What the exact answers of one band may take, before it is tuned on those that are there."""
WARM_UP = 20
STEPS_BEYOND = 2
"""Steps that are still tried after one has met the target: what they show may pull it down again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandTuning:
    """What was found for one band, and done.

    `now` is what searches take before, `steps` the ladder as far as it was climbed, on `queries` queries of which
    `drawn` were asked by nobody. `effort` is the least whose lower bound meets the target; `chosen` is its step and
    `checked` its recall on other queries. `problem` says why there is none, or why it is not set.
    """

    band: Band
    knob: str
    target: float
    queries: int
    drawn: int
    now: Step
    steps: list[Step]
    chosen: Step | None = None
    checked: RecallSummary | None = None
    problem: str | None = None
    applied: bool = False

    @property
    def effort(self) -> int | None:
        """The effort that was found; None where none was."""
        return None if self.chosen is None else self.chosen.effort


def tune(
    rag: Ragstone,
    name: str,
    target: float,
    *,
    band: Band | None = None,
    count: int = QUERIES,
    dry_run: bool = False,
    seed: int = 0,
) -> list[BandTuning]:
    """Tune the index that serves a collection, for one band or for all that users ask, and set what was found.

    Three quarters of up to `count` captured queries of a band find the effort, the others check it. Where there are
    too few, made-up ones join them. Raises CollectionNotFound, InvalidInput, Conflict where there is nothing to ask,
    and Unsupported where the backend has no effort.
    """
    if not 0 < target < 1:
        raise InvalidInput("target", f"found {target:g}; needed more than 0 and less than 1")
    collection = find_collection(rag.database, name)
    with gentle_database(rag) as gentle:
        tuner = _Tuner(rag, gentle, collection, target, count, seed)
        found = [tuner.tune(one) for one in tuner.bands(band)]
        return found if dry_run else [tuner.apply(one) for one in found]


class _Tuner:
    """Tunes one collection, as it stands."""

    def __init__(
        self, rag: Ragstone, gentle: Database, collection: CollectionState, target: float, count: int, seed: int
    ) -> None:
        self._rag = rag
        self._collection = collection
        self._target = target
        self._count = count
        self._seed = seed
        self._examiner = Examiner(rag, gentle, collection)
        self._asked: list[Question] = []
        self._stored: dict[Band, list[Examined]] = {}
        knob_of(self._examiner.attached.index, questions.TOP_K, collection.chunks)  # before anything takes long

    def bands(self, wanted: Band | None) -> list[Band]:
        """Return the bands that can be tuned, and find the truth of their captured queries."""
        kept = self._rag.settings.recall_kept_queries
        self._asked = questions.stored(self._rag.database, self._collection, kept)
        asked = questions.stored(self._rag.database, self._collection, kept, wanted)
        plain = [question for question in asked if question.filter is None][: self._count]
        filtered = [question for question in asked if question.filter is not None][: self._count * (len(BANDS) - 1)]
        for one in self._examine([*plain, *filtered]):
            self._stored.setdefault(one.truth.band, []).append(one)
        found = [band for band in BANDS if band == "all" or band in self._stored]
        if wanted is None:
            return found
        if wanted not in found:
            raise Conflict(f"no captured query of {self._collection.name!r} has a filter in band {wanted}")
        return [wanted]

    def tune(self, band: Band) -> BandTuning:
        """Climb the ladder until the target is met, and check what was found on other queries."""
        stored = self._stored.get(band, [])[: self._count]
        if stored and self._try(stored[:WARM_UP], None).exact == len(stored[:WARM_UP]):
            return replace(self._begun(band, stored), problem="they are answered exactly: no effort is at work")
        tuning, checking = split(self._completed(band, stored), self._seed)
        if not tuning or not checking:
            raise Conflict(f"{self._collection.name!r} has too little to search: there is nothing to tune")
        self._try(tuning[:WARM_UP], None)
        return self._checked(self._climbed(self._begun(band, tuning), tuning), checking)

    def apply(self, found: BandTuning) -> BandTuning:
        """Set the effort that was found, unless there is a problem, or it is what searches take already."""
        if found.problem is not None or found.chosen is None or found.effort == found.now.effort:
            return found
        assert found.effort is not None
        cost_ratio = found.chosen.p95_ms / max(found.now.p95_ms, 1e-3)
        set_tuned(
            self._rag.database,
            self._collection,
            found.band,
            found.effort,
            target=self._target,
            recall_before=found.now.recall.mean,
            p99_limit_ms=p99_limit_ms(self._known_ms(found.band), cost_ratio),
        )
        return replace(found, applied=True)

    def _begun(self, band: Band, tuning: Sequence[Examined]) -> BandTuning:
        return BandTuning(
            band=band,
            knob=self._knob(tuning).name,
            target=self._target,
            queries=len(tuning),
            drawn=sum(one.question.drawn for one in tuning),
            now=replace(self._try(tuning, None), effort=self._effort_now(band)),
            steps=[],
        )

    def _completed(self, band: Band, stored: list[Examined]) -> list[Examined]:
        """Captured queries of a band; where they are too few, as many made-up ones as it takes, for they are easier."""
        least = min(self._count, max(LEAST_QUERIES, math.ceil(queries_needed(self._target) / TUNING_SHARE) + 1))
        if len(stored) >= least:
            return stored
        like = [one.question for one in stored]
        wanted = (least if stored else self._count) - len(stored)
        made = questions.made_up(self._rag.database, self._collection, wanted, like, self._asked, self._seed)
        return stored + [one for one in self._examine(made) if one.truth.band == band]

    def _examine(self, asked: Sequence[Question]) -> list[Examined]:
        return examine(self._examiner, asked, time.monotonic() + BUDGET_S)

    def _knob(self, examined: Sequence[Examined]) -> Knob:
        top_k = min(one.question.top_k for one in examined)
        return knob_of(self._examiner.attached.index, top_k, self._collection.chunks)

    def _effort_now(self, band: Band) -> int | None:
        return effort_of(self._collection.efforts.get(self._collection.backend, {}), band)

    def _try(self, examined: Sequence[Examined], effort: int | None) -> Step:
        """Try an effort; None is what searches take now."""
        untuned = partial(self._examiner.found_untuned, effort=effort)
        return try_effort(self._examiner, examined, effort, self._examiner.found if effort is None else untuned)

    def _climbed(self, found: BandTuning, tuning: Sequence[Examined]) -> BandTuning:
        knob = self._knob(tuning)
        needed = queries_needed(self._target)
        if len(tuning) < needed:
            problem = f"{len(tuning)} queries are too few to show a recall of {self._target:g}: it takes {needed}"
            return replace(found, problem=problem)
        steps: list[Step] = []
        for effort in knob.ladder():
            steps.append(self._try(tuning, effort))
            met = least_that_meets(steps, self._target)
            if met is not None and len(steps) - steps.index(met) > STEPS_BEYOND:
                break
        chosen = least_that_meets(steps, self._target)
        best = max(step.recall.low for step in steps)
        short = f"no {knob.name} up to {knob.most} reaches it: the lower bound came to {best:.4f}"
        return replace(found, steps=steps, chosen=chosen, problem=None if chosen else short)

    def _checked(self, found: BandTuning, checking: Sequence[Examined]) -> BandTuning:
        if found.chosen is None:
            return found
        checked = self._try(checking, found.effort).recall
        problem = None
        if checked.high < self._target:
            problem = f"on {checked.queries} other queries it finds {checked.mean:.4f} alone: it is not set"
        return replace(found, checked=checked, problem=problem)

    def _known_ms(self, band: Band) -> list[float]:
        """What users' searches of the band took of late."""
        for recent in recent_recalls(self._rag.database, RECENT_S, RECENT_QUERIES):
            if (recent.collection, recent.band) == (self._collection.name, band):
                return recent.search_ms
        return []


def least_that_meets(steps: Sequence[Step], target: float) -> Step | None:
    """Return the step of the least effort whose lower bound meets the target, on a curve made monotone."""
    lows = monotone([step.recall.low for step in steps])
    return next((step for step, low in zip(steps, lows, strict=True) if low >= target), None)
