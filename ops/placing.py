"""Keeps every collection where its size says, while the service runs.

A move is a process of its own, so that building gets in no query's way; it is begun here, and gone on with here where
one was left behind.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from backends.corpus import moves
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.moves import Move
from backends.errors import NotFound, RagstoneError
from ops.moving.dropping import drop_old
from retrieval.library import Ragstone
from retrieval.placement import belongs_to, threshold_of

LOOK_EVERY_S = 2.0
TRY_AGAIN_S = 10.0
"""How soon a mover that ended in the middle is followed by another."""
FAILED_REST_S = 3_600.0
"""How long a collection is left where it is after a move that failed."""
STOP_WITHIN_S = 10.0

log = logging.getLogger(__name__)


class PlacementKeeper:
    """One thread that looks at every collection, begins the moves that are due, and drops old indexes."""

    def __init__(self, rag: Ragstone) -> None:
        self._rag = rag
        self._movers: dict[str, subprocess.Popen[bytes]] = {}
        self._tried_s: dict[str, float] = {}
        self._advised: set[tuple[int, str]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ragstone-placement", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep while the block runs; movers under way are ended with it, and gone on with by the next service."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()
            for mover in self._movers.values():
                _end(mover)

    def look(self) -> None:
        """Look at every collection once."""
        for name in self._rag.collections():
            try:
                self._look_at(find_collection(self._rag.database, name))
            except NotFound:
                continue  # deleted meanwhile
        drop_old(self._rag, self._rag.settings.old_index_kept_s)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self.look()
            except RagstoneError as error:
                log.warning("placement: %s", error)
            except Exception:  # a keeper that dies leaves every collection where it is
                log.exception("placement: unexpected error")

    def _look_at(self, collection: CollectionState) -> None:
        mover = self._movers.get(collection.name)
        if mover is not None:
            if mover.poll() is None:
                return
            del self._movers[collection.name]
        latest = next(iter(moves.latest_moves(self._rag.database, collection.id)), None)
        if latest is not None and latest.active:
            if not moves.is_worked_on(self._rag.database, latest):
                self._move(collection, "goes on")
        elif self._is_due(collection, latest):
            self._move(collection, "begins") if self._rag.settings.placement == "automatic" else self._advise(
                collection
            )

    def _is_due(self, collection: CollectionState, latest: Move | None) -> bool:
        target = belongs_to(collection, self._rag.settings)
        if target == collection.backend:
            return False
        failed = (
            latest is not None and latest.phase in ("failed", "cancelled", "rolled_back") and latest.target == target
        )
        return not (failed and latest is not None and _age_s(latest) < FAILED_REST_S)

    def _move(self, collection: CollectionState, how: str) -> None:
        now_s = time.monotonic()
        if now_s - self._tried_s.get(collection.name, float("-inf")) < TRY_AGAIN_S:
            return
        self._tried_s[collection.name] = now_s
        log.warning("the move of %s (%s chunks) %s", collection.name, f"{collection.chunks:,}", how)
        self._movers[collection.name] = _mover(self._rag.settings.data, collection.name)

    def _advise(self, collection: CollectionState) -> None:
        target = belongs_to(collection, self._rag.settings)
        if (collection.id, target) not in self._advised:
            self._advised.add((collection.id, target))
            log.warning(
                "%s has %s chunks, its threshold is %s: it belongs to %s; see `ragstone move plan %s`",
                collection.name,
                f"{collection.chunks:,}",
                f"{threshold_of(collection, self._rag.settings):,}",
                target,
                collection.name,
            )


def _mover(data: str, collection: str) -> subprocess.Popen[bytes]:
    """Start our own command; a URL with its password is not for its command line, which others can read."""
    command = [sys.executable, "-m", "ops.cli", "move", "start", collection, "--if-due"]
    environment = os.environ | {"RAGSTONE_DATA": data}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603


def _age_s(move: Move) -> float:
    return (datetime.now(UTC) - move.updated_at).total_seconds()


def _end(mover: subprocess.Popen[bytes]) -> None:
    if mover.poll() is None:
        mover.terminate()
        try:
            mover.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            mover.kill()
            mover.wait()
