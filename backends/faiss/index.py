"""The index itself: one state that searches read and that changes, builds and compaction replace."""

import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backends.base import VectorIndex
from backends.corpus.machine import usable_memory_bytes
from backends.errors import IndexUnavailable
from backends.faiss.compaction import Background, next_job, rows_of, swapped
from backends.faiss.gpu import card_for, free_bytes
from backends.faiss.kinds import Device, Kind, check_kind, kind_for
from backends.faiss.making import Rows, made
from backends.faiss.segment import Hits, Segment, merged
from backends.faiss.segment_files import Opening, write_segment
from backends.faiss.sharing import Sharing
from backends.faiss.snapshots import MANIFEST, load, save, saved_applied
from backends.faiss.spool import spooled
from backends.faiss.state import State, empty_delta
from backends.filters import Filter
from backends.types import (
    Batch,
    Candidates,
    Capabilities,
    Change,
    Embeddings,
    Ids,
    IndexIdentity,
    IndexSpec,
    IndexStats,
    Progress,
    nobody,
)

DELTA_ROWS = 20_000
"""Rows that are compared one by one before they are sealed: about two milliseconds of a search."""
UNFINISHED = "unfinished"

log = logging.getLogger(__name__)


class FaissIndex(VectorIndex):
    """Approximate search in this process's memory, saved to and mapped from files in `folder`.

    The constructor does nothing but check; the first use loads the snapshot, if it is whole and this index's.
    One process owns the folder: the one that calls `build` or `save`. From then on it seals and merges too, in a
    thread of the index. Others load, may apply changes in their own memory, and `reload`; they never write.

    `kind` is one of `backends.faiss.kinds.KINDS`, or "auto"; `device` is auto, cpu or gpu; `ef_search` is HNSW's
    default effort, and never less than the candidates that are wanted. `delta_rows` is when the delta is sealed.
    Raises InvalidSettings.
    """

    name = "faiss"
    capabilities = Capabilities(selects_ids=True, snapshots=True)

    def __init__(
        self,
        spec: IndexSpec,
        identity: IndexIdentity,
        *,
        folder: Path,
        kind: str = "auto",
        device: str = "auto",
        ef_search: int = 40,
        delta_rows: int = DELTA_ROWS,
    ) -> None:
        self.spec = spec
        self.identity = identity
        self._folder = folder
        self._kind = kind
        self._card = card_for(device)
        if kind != "auto":
            check_kind(kind, self._device, self._has_cagra)
        self._ef_search = ef_search
        self._delta_rows = delta_rows
        self._sharing = Sharing()
        self._write = threading.Lock()
        self._state: State | None = None
        self._saved: State | None = None
        self._loaded = False
        self._owner = self._closed = False
        self._read_ns = 0  # when the manifest was written that was read last
        self._background = Background(self._compact)

    def build(self, batches: Iterable[Batch], applied: int, progress: Progress = nobody) -> None:
        """Replace what is there, in memory and in the folder; what was there is searched until this is done.

        The rows pass through a file in the folder, so that memory holds the new index alone. `progress` counts
        those that are in the index, so it begins when all are read.
        """
        self._background.stop()

        def going_on(rows: int) -> None:
            self._require_open()
            progress(rows)

        with _understood(self._folder):
            work = self._work_folder()
            with spooled(batches, work, self.spec) as rows:
                segments = (self._made(rows, going_on),) if len(rows.ids) else ()
            self._require_open()
            with self._write:
                self._publish(State(segments=segments, delta=empty_delta(self.spec), applied=applied), segments)
                self._loaded = self._owner = True
                self._save()

    def apply(self, changes: Sequence[Change]) -> int:
        self._usable()
        with self._write:
            state = self._usable()
            self._state = state = state.changed(changes)
        if self._owner and next_job(state, self._delta_rows):
            self._background.start()
        return state.applied

    @property
    def is_rough(self) -> bool:
        """Flat and HNSW keep half precision, as the corpus does by default."""
        state = self._state
        kinds = {segment.kind for segment in state.segments} if state is not None else set()
        return self.spec.precision != "half" or not kinds <= {"flat", "hnsw"}

    def search(
        self,
        queries: Embeddings,
        candidates: int,
        filter: Filter | None = None,
        effort: int | None = None,
        allowed: Ids | None = None,
    ) -> Candidates:
        """Find candidates. `effort` is ef_search for HNSW and the number of lists (nprobe) for IVF.

        A query's answer does not depend on those that are searched with it.
        """
        del filter  # the corpus decides; `allowed` is how it narrows
        state = self._usable()
        if not len(queries):
            return Candidates(ids=[], scores=[], applied=state.applied)
        parts = self._sharing.search(len(queries), lambda: self._parts(state, queries, candidates, effort, allowed))
        ids, scores = merged(parts, candidates)
        return Candidates(ids=ids, scores=scores, applied=state.applied)

    def _parts(
        self, state: State, queries: Embeddings, candidates: int, effort: int | None, allowed: Ids | None
    ) -> list[Hits]:
        """Search every segment, and the delta where there is one or nothing else."""
        found = []
        for segment in state.segments:
            default = self._ef_search if segment.kind in ("hnsw", "cagra") else 0
            found.append(segment.search(queries, candidates, self.spec, effort or default, allowed))
        if len(state.delta.ids) or not found:
            found.append(state.delta.search(queries, candidates, self.spec, allowed))
        return found

    def ids(self) -> Iterator[Ids]:
        state = self._usable()
        yield state.delta.ids
        for segment in state.segments:
            yield segment.live_ids()

    def stats(self) -> IndexStats:
        """Say how it stands in this process; `size_bytes` is of its files, and of the delta in memory."""
        state = self._current()
        if state is None:
            return IndexStats(count=0, applied=0, size_bytes=0, ready=False)
        rows = sum(len(segment.ids) for segment in state.segments)
        live = sum(segment.live.count for segment in state.segments)
        files = sum(file.size_bytes for segment in state.segments for file in segment.files)
        return IndexStats(
            count=state.count,
            applied=state.applied,
            size_bytes=files + state.delta.embeddings.nbytes + state.delta.ids.nbytes,
            ready=True,
            details={
                "kind": "+".join(sorted({segment.kind for segment in state.segments})) or self._kind,
                "device": self._device,
                "segments": len(state.segments),
                "dead_share": round(1 - live / rows, 3) if rows else 0.0,
                "delta_rows": len(state.delta.ids),
            },
        )

    def ping(self) -> None:
        """Nothing to reach: it is in this process."""

    def save(self) -> int:
        """Make what is applied durable. The owner alone calls it; it goes on sealing from then on."""
        self._usable()
        with self._write, _understood(self._folder):
            self._owner = True
            return self._save()

    def reload(self) -> None:
        """Take the newest snapshot, where it is newer than what this process has: for processes that do not own it."""
        state = self._current()
        if (written_ns := self._written_ns()) == self._read_ns:
            return  # it was read already, and taken or refused
        if saved_applied(self._folder) > (state.applied if state else -1):
            self._read_ns = written_ns
            newer = load(self._folder, self.identity, Opening(self.spec, self._card))
            with self._write:
                if newer and (self._state is None or newer.applied > self._state.applied):
                    self._state = newer

    def drop(self) -> None:
        self._background.stop()
        with self._write, _understood(self._folder):
            self._state = self._saved = None
            self._loaded = True
            (self._folder / MANIFEST).unlink(missing_ok=True)  # first, so that no part of it can be loaded
            if self._folder.exists():
                shutil.rmtree(self._folder)

    def close(self) -> None:
        """Stop sealing and merging, and let the memory go. What was not saved is applied again by the next process."""
        self._closed = True
        self._background.stop()
        with self._write:
            self._state = self._saved = None
            self._loaded = True

    @property
    def _device(self) -> Device:
        return "cpu" if self._card is None else "gpu"

    @property
    def _has_cagra(self) -> bool:
        return self._card is not None and self._card.has_cagra

    def segments(self) -> list[Segment]:
        """Return the segments as they are now, to be looked at; raises IndexUnavailable where there are none."""
        state = self._current()
        if state is None:
            raise IndexUnavailable(f"there is no FAISS index {self.identity.name} here that could be looked at")
        return list(state.segments)

    def _current(self) -> State | None:
        """Return the state, loading the snapshot the first time; None where there is nothing that can be searched."""
        if not self._loaded:
            with self._write:
                if not self._loaded:
                    self._read_ns = self._written_ns()
                    self._state = self._saved = load(self._folder, self.identity, Opening(self.spec, self._card))
                    self._loaded = True
        return self._state

    def _written_ns(self) -> int:
        try:
            return (self._folder / MANIFEST).stat().st_mtime_ns
        except OSError:
            return 0

    def _require_open(self) -> None:
        if self._closed:
            raise IndexUnavailable(f"the FAISS index {self.identity.name} was closed while it was being built")

    def _usable(self) -> State:
        state = self._current()
        if state is None:
            raise IndexUnavailable(f"the FAISS index {self.identity.name} is not built; rebuild the collection's index")
        return state

    def _save(self) -> int:
        """Save the state, unless it is saved already. The lock is held: nothing may be put in the folder meanwhile."""
        state = self._state
        assert state is not None
        if state is not self._saved:
            save(self._folder, state, self.identity, self.spec)
            self._saved = state
        return state.applied

    def _compact(self, progress: Progress) -> None:
        """Seal and merge until nothing is left to do: the work of the background thread."""
        while (state := self._state) and (job := next_job(state, self._delta_rows)):
            self._work_folder()
            segment = self._made(rows_of(job), progress)
            with self._write:
                if self._state is not None:
                    self._publish(swapped(self._state, job, segment), (segment,))

    def _made(self, rows: Rows, progress: Progress) -> Segment:
        """Make a segment of rows, in the folder for what is unfinished."""
        kind = self._kind_for(len(rows.ids))
        index = made(rows, kind, self.spec, self._card, progress)
        return write_segment(self._folder / UNFINISHED, kind, rows, index, Opening(self.spec, self._card))

    def _kind_for(self, count: int) -> Kind:
        memory_bytes = free_bytes() if self._card else usable_memory_bytes()
        return kind_for(self._kind, count, self.spec, memory_bytes, self._device, self._has_cagra)

    def _publish(self, state: State, made: Iterable[Segment]) -> None:
        """Move new segments' files to their place, and let searches see the state that has them."""
        for segment in made:
            for file in segment.files:
                (self._folder / UNFINISHED / file.name).rename(self._folder / file.name)
        self._state = state

    def _work_folder(self) -> Path:
        """Return an empty folder for work, of which there is one at a time: what a killed process left is removed."""
        work = self._folder / UNFINISHED
        shutil.rmtree(work, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        work.mkdir()
        return work


@contextmanager
def _understood(folder: Path) -> Iterator[None]:
    """Turn what the disk and FAISS report into IndexUnavailable."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise IndexUnavailable(f"the FAISS index in {folder} cannot be written: {error}") from error
