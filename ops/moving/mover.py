"""Carries out a move: build beside the index that serves, catch up, verify, change over.

Every step is written down, so that a mover that dies is followed by another: what was built is gone on from where
the backend can say that it is whole, else built again. Until the change-over nobody is sent to the new index; after
it the old one goes on following until it is dropped.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from backends.attached import AttachedIndex
from backends.corpus import moves
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.database import Database
from backends.corpus.following import sequence_of, snapshot
from backends.corpus.indexes import (
    FollowLocks,
    IndexRow,
    begin_index,
    find_index,
    forget_index,
    indexes_of,
    record_applied,
    set_state,
)
from backends.corpus.moves import Move, Phase
from backends.errors import Conflict, IndexUnavailable, InvalidInput, RagstoneError, Unavailable
from backends.pgvector import PgvectorIndex
from backends.types import Batch, Progress
from ops.moving.gentle import Pace, gentle_database
from ops.moving.progress import Cancelled, MoveProgress
from ops.moving.verification import Verification, verify
from retrieval.config import Settings
from retrieval.library import Ragstone
from retrieval.placement import MOVE_TARGETS, belongs_to, open_index, recall_target_of

CAUGHT_UP_CHANGES = 20
MAX_TRIES = 50
"""While a move waits for its store, the changes since its view are kept: not for ever."""
LOCK_WAIT_S = 30.0
LOCK_LOOK_S = 0.1
KEEPER_WAIT_S = 120.0

log = logging.getLogger(__name__)


class VerificationFailed(Exception):  # not an error: the move ends, and nothing was changed over
    """The new index may not serve."""

    def __init__(self, verification: Verification) -> None:
        super().__init__(verification.problem)
        self.verification = verification


def start(rag: Ragstone, name: str, target: str | None = None) -> Move:
    """Write down a move of a collection, or return the one that goes on already.

    Without `target` the collection goes where its size says, and from then on size decides again; with it, the
    collection stays there. Raises InvalidInput where it is there already, and Conflict where it is under way to
    another backend.
    """
    collection = find_collection(rag.database, name)
    active = _active(rag, collection)
    if active is not None:
        if target not in (None, active.target):
            raise Conflict(
                f"collection {name!r} is under way to {active.target}: `ragstone move cancel {name}` stops that"
            )
        return active
    if target is None:
        moves.pin(rag.database, collection, None)
        collection = find_collection(rag.database, name)
    wanted = target or belongs_to(collection, rag.settings)
    if wanted == collection.backend:
        raise InvalidInput("--to", f"collection {name!r} is served by {wanted} already; there is nothing to move")
    return _begun(rag, collection, wanted, by_hand=target is not None)


def start_due(rag: Ragstone, name: str) -> Move | None:
    """Return the move that goes on, or write down the one that the collection's size asks for; None where none is."""
    collection = find_collection(rag.database, name)
    active = _active(rag, collection)
    wanted = belongs_to(collection, rag.settings)
    if active is not None or wanted == collection.backend:
        return active
    return _begun(rag, collection, wanted, by_hand=False)


def _active(rag: Ragstone, collection: CollectionState) -> Move | None:
    return next((move for move in moves.latest_moves(rag.database, collection.id) if move.active), None)


def _begun(rag: Ragstone, collection: CollectionState, target: str, *, by_hand: bool) -> Move:
    if target not in MOVE_TARGETS:
        raise InvalidInput("--to", f"found {target!r}; needed one of {', '.join(MOVE_TARGETS)}")
    open_index(rag.database, replace(collection, backend=target), rag.settings).close()  # configured, and installed?
    return moves.begin_move(rag.database, collection, target, by_hand=by_hand)


def work_on(rag: Ragstone, move: Move) -> Move:
    """Carry a move out, or on, to its end, and return it as it ended: done, failed or cancelled.

    Raises Conflict where another process works on it, and Unavailable where something could not be reached: the
    move is still to go on then, and the next call goes on with it.
    """
    with rag.database.dedicated() as lock_connection:
        if not moves.lock_move(lock_connection, move):
            raise Conflict(f"another process works on the move of {move.collection!r}")
        found = moves.find_move(rag.database, move.id)
        if found.active:  # else another process has ended it since the caller looked
            moves.count_try(rag.database, found)
            with gentle_database(rag) as database:
                _carry_out(rag.settings, database, found)
    return moves.find_move(rag.database, move.id)


def _carry_out(settings: Settings, database: Database, move: Move) -> None:
    if not move.cancel_wanted:
        _Mover(settings, database, move).run()
        return
    # Nothing is opened for this: whoever cancels may have no settings for the store.
    for row in indexes_of(database, move.collection_id):
        if row.id == move.target_index_id and row.state == "building":
            set_state(database, row.id, "dropping")
    moves.end_move(database, move, "cancelled", None)


class _Mover:
    """One process's work on one move."""

    def __init__(self, settings: Settings, database: Database, move: Move) -> None:
        self._settings = settings
        self._database = database
        self._move = move
        self._collection = find_collection(database, move.collection)
        self._locks = FollowLocks(database)
        self._row = self._target_row()
        state = replace(self._collection, backend=move.target, index_id=self._row.id)
        self._attached = AttachedIndex(database, state, open_index(database, state, settings))
        self._progress = MoveProgress(database, move, self._row.id, self._collection.chunks)
        self._keeps = False

    def run(self) -> None:
        try:
            self._lock()
            self._build_where_needed()
            self._catch_up()
            self._change_over(self._verified())
        except Cancelled:
            self._give_up("cancelled", None)
        except VerificationFailed as failure:
            self._give_up("failed", str(failure), failure.verification)
        except Unavailable as error:
            if self._move.tries < MAX_TRIES:  # what was done stays, and the next try goes on with it
                moves.note_problem(self._database, self._move, str(error))
                raise
            self._give_up("failed", f"given up after {MAX_TRIES} tries, the last of which met: {error}")
        except RagstoneError as error:
            self._give_up("failed", str(error))
        finally:
            self._attached.close()
            self._locks.close()

    def _target_row(self) -> IndexRow:
        """The index to build: the one that an earlier try began, one that is still kept, or a new one.

        A collection has one move at a time, so one that is being built is an earlier try's.
        """
        for row in indexes_of(self._database, self._collection.id):
            if row.backend == self._move.target and not row.serving and row.state != "dropping":
                set_state(self._database, row.id, row.state)  # one that was kept is young again: not to be dropped
                return row
        in_corpus = self._move.target == PgvectorIndex.name
        index_id = begin_index(self._database, self._collection.id, self._move.target, follows=not in_corpus)
        made = find_index(self._database, index_id)
        assert made is not None
        return made

    def _lock(self) -> None:
        """Be the one who applies to the index, unless it is live already and somebody does."""
        self._progress.report("building")
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while not (self._keeps or self._row.state == "live"):
            self._keeps = self._locks.try_hold(self._row.id)
            if not self._keeps and time.monotonic() > deadline_s:
                raise IndexUnavailable("another process still works on the index of an earlier try; try again")
            time.sleep(0 if self._keeps else LOCK_LOOK_S)
        self._keeps = self._keeps or self._locks.try_hold(self._row.id)

    def _build_where_needed(self) -> None:
        index = self._attached.index
        budget_ms = self._settings.statement_budget_ms
        if isinstance(index, PgvectorIndex):
            self._build_in_corpus(index)
            return
        PgvectorIndex(self._database, self._collection, index.identity, 1, budget_ms).build_filter_index()
        if self._keeps and not index.stats().ready:
            self._build()

    def _build(self) -> None:
        """Build from one consistent view; the changes since are kept, as the index's row says."""
        started_s = time.monotonic()
        with snapshot(self._database, self._attached.collection) as view:
            applied = view.sequence
            progress = self._building(Pace(self._settings.move_chunks_per_s))
            self._attached.index.build(self._looking(view.batches), applied, progress)
        record_applied(self._database, self._row.id, applied, self._attached.index.save())
        self._progress.built(time.monotonic() - started_s)

    def _looking(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Look whether the move is cancelled also while an index only reads."""
        for batch in batches:
            self._progress.look()
            yield batch

    def _building(self, pace: Pace) -> Progress:
        def count(chunks: int) -> None:
            self._progress.add(chunks)
            pace.keep(chunks)

        return count

    def _build_in_corpus(self, index: PgvectorIndex) -> None:
        """PostgreSQL reads its own tables. A small collection needs no index."""
        if index.ready or self._collection.chunks < self._settings.index_min_chunks:
            return
        started_s = time.monotonic()
        with self._progress.watching(index.build_progress, index.cancel_build):
            built = index.build_missing()
        if not built:
            raise IndexUnavailable("another process builds the index, or its build was cancelled; try again")
        self._progress.built(time.monotonic() - started_s)

    def _catch_up(self) -> None:
        """Follow until little is left; from then on writers wait for this index as for the one that serves."""
        self._progress.report("catching_up")
        if self._keeps and self._row.state == "building":
            while self._behind() > CAUGHT_UP_CHANGES:
                self._keep_up()
        set_state(self._database, self._row.id, "live")
        self._keep_up()

    def _behind(self) -> int:
        return sequence_of(self._database, self._collection) - self._attached.index.stats().applied

    def _keep_up(self) -> None:
        """Return when the index has applied all that is there now; raises Cancelled where that is wanted."""
        self._progress.look()
        capabilities = self._attached.index.capabilities
        if capabilities.in_corpus:
            return
        if capabilities.shared and not self._keeps:
            self._wait_for_keeper(sequence_of(self._database, self._collection))
            return
        applied = self._attached.follow(may_build=self._keeps)
        if self._keeps:
            row = find_index(self._database, self._row.id)
            durable = row.durable if row is not None and row.durable is not None else applied
            record_applied(self._database, self._row.id, applied, durable if capabilities.snapshots else applied)

    def _wait_for_keeper(self, sequence: int) -> None:
        deadline_s = time.monotonic() + KEEPER_WAIT_S
        while True:
            row = find_index(self._database, self._row.id)
            applied = 0 if row is None or row.applied is None else row.applied
            if applied >= sequence:
                self._attached.index.observe(applied)
                return
            if time.monotonic() > deadline_s:
                raise IndexUnavailable(f"the {self._move.target} index that is kept does not follow; try again")
            time.sleep(LOCK_LOOK_S)

    def _verified(self) -> Verification:
        self._progress.report("verifying")
        collection = find_collection(self._database, self._collection.name)
        found = verify(self._database, self._attached, recall_target_of(collection, self._settings), self._keep_up)
        if found.problem is not None:
            raise VerificationFailed(found)
        return found

    def _change_over(self, verification: Verification) -> None:
        """Leave the index as the next to keep it finds it best, then change over."""
        self._keep_up()
        if self._keeps and self._attached.index.capabilities.snapshots:
            durable = self._attached.index.save()
            record_applied(self._database, self._row.id, durable, durable)
        moves.finish_move(self._database, self._move, self._row.id, verification.as_dict())
        log.info("moved %s from %s to %s", self._collection.name, self._move.source, self._move.target)

    def _give_up(self, phase: Phase, problem: str | None, verification: Verification | None = None) -> None:
        """Leave everything as it was before: the new index goes, unless it was there before the move."""
        if self._row.state == "building":
            self._remove()
        found = None if verification is None else verification.as_dict()
        moves.end_move(self._database, self._move, phase, problem, found)

    def _remove(self) -> None:
        """Remove the new index; one that cannot be reached goes with the next `drop_old`."""
        set_state(self._database, self._row.id, "dropping")
        try:
            self._attached.index.drop()
        except IndexUnavailable as error:
            log.warning("the new %s index could not be removed yet: %s", self._move.target, error)
        else:
            forget_index(self._database, self._row.id)
