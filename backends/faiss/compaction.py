"""Sealing the delta into a segment and merging segments, beside the searches and the changes."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backends.corpus.machine import usable_cores
from backends.faiss.library import at_most_threads
from backends.faiss.making import Rows
from backends.faiss.segment import Segment
from backends.faiss.selecting import within
from backends.faiss.state import Delta, State
from backends.types import Embeddings, Ids, Progress

MAX_SEGMENTS = 8
MAX_DEAD_SHARE = 0.3

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The work was told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one new segment is made of, as it was when the work began: these segments and this delta."""

    segments: tuple[Segment, ...] = ()
    delta: Delta


def next_job(state: State, delta_rows: int) -> Job | None:
    """Say what is to be done: seal a delta of `delta_rows` rows, or merge segments; None where all is well.

    All segments are merged when more than MAX_DEAD_SHARE of their rows are dead. When there are more than
    MAX_SEGMENTS, the smaller ones are, so that one large segment is not made again for each few that come:
    a row is then merged a number of times that grows with the logarithm of the rows.
    """
    nothing = state.delta.after(state.delta.next_serial)
    if len(state.delta.ids) >= delta_rows:
        return Job(delta=state.delta)
    rows = sum(len(segment.ids) for segment in state.segments)
    dead = rows - sum(segment.live.count for segment in state.segments)
    if dead > MAX_DEAD_SHARE * rows:
        return Job(segments=state.segments, delta=nothing)
    if len(state.segments) > MAX_SEGMENTS:
        return Job(segments=_smaller(state.segments), delta=nothing)
    return None


def rows_of(job: Job) -> Rows:
    """Return the live rows of a job, in the order of their ids."""
    live = [segment.live.rows() for segment in job.segments]
    ids = np.concatenate([*(s.ids[rows] for s, rows in zip(job.segments, live, strict=True)), job.delta.ids])
    places = np.concatenate([*live, np.arange(len(job.delta.ids))])
    sources = np.repeat(np.arange(len(live) + 1), [*map(len, live), len(job.delta.ids)])
    order = np.argsort(ids)

    def take(positions: Ids) -> Embeddings:
        at = order[positions]
        taken = np.empty((len(at), job.delta.embeddings.shape[1]), np.float32)
        for source in np.unique(sources[at]):
            chosen = sources[at] == source
            rows = places[at[chosen]]
            in_delta = source == len(job.segments)
            taken[chosen] = job.delta.embeddings[rows] if in_delta else job.segments[source].embeddings(rows)
        return taken

    return Rows(ids[order], take)


def swapped(state: State, job: Job, made: Segment) -> State:
    """Put the new segment in the place of what it was made of; what died meanwhile is dead in it too."""
    now = {segment.name: segment for segment in state.segments}
    replaced = {segment.name for segment in job.segments}
    died = [_died(segment, now.get(segment.name)) for segment in job.segments]
    died.append(job.delta.ids[~within(job.delta.serials, state.delta.serials)])
    made = made.without(np.unique(np.concatenate(died)))
    others = tuple(segment for segment in state.segments if segment.name not in replaced)
    sealed = job.delta.serials[-1] if len(job.delta.serials) else -1
    return State(
        segments=(*others, made) if made.live.count else others,
        delta=state.delta.after(sealed),
        applied=state.applied,
    )


def _died(before: Segment, now: Segment | None) -> Ids:
    if now is None:
        return before.live_ids()
    return before.ids[before.live.rows_not_in(now.live)]


def _smaller(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Take two from the smallest on, and further ones that are at most twice all those before."""
    chosen: list[Segment] = []
    rows = 0
    for segment in sorted(segments, key=lambda segment: segment.live.count):
        if len(chosen) >= 2 and segment.live.count > 2 * rows:
            break
        chosen.append(segment)
        rows += segment.live.count
    return tuple(chosen)


class Background:
    """One thread that works while there is something to do. `start` and `stop` are for one thread at a time."""

    def __init__(self, work: Callable[[Progress], None]) -> None:
        self._work = work
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Let it work, if it does not already."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="faiss-compaction")
            self._thread.start()

    def stop(self) -> None:
        """Let it end, within seconds, and wait for it. What it had not finished is not done."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None
            self._stopping.clear()

    def _run(self) -> None:
        try:
            with at_most_threads(max(1, usable_cores() // 2)):  # half of them stay with the searches
                self._work(self._check)
        except Stopped:
            log.debug("FAISS: sealing and merging were stopped")
        except Exception:
            log.exception("FAISS: sealing or merging failed; it is tried again after the next change")

    def _check(self, _: int) -> None:
        if self._stopping.is_set():
            raise Stopped
