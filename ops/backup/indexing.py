"""Gives a restored collection its vector index before anybody searches it, in the backend that it is to have."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from backends.corpus import moves
from backends.corpus.collections import CollectionState, find_collection, identity
from backends.errors import Conflict, IndexUnavailable, InvalidInput, RagstoneError
from backends.pgvector import PgvectorIndex
from ops import moving
from ops.backup.progress import Meter, Watch
from retrieval.library import Ragstone
from retrieval.placement import DEFAULT_BACKEND, MOVE_TARGETS, belongs_to, builds_hnsw, open_index

LOOK_EVERY_S = 0.5


def check_backend(rag: Ragstone, collection: CollectionState, asked: str | None) -> str:
    """Return the backend that a collection is to be searched in: the one asked for, or where it belongs.

    Raises InvalidInput for an unknown one, InvalidSettings where it is not configured, Unsupported without its driver.
    """
    wanted = asked or belongs_to(collection, rag.settings)
    if wanted not in MOVE_TARGETS:
        raise InvalidInput("--backend", f"found {wanted!r}; needed one of {', '.join(MOVE_TARGETS)}")
    open_index(rag.database, replace(collection, backend=wanted), rag.settings).close()
    return wanted


def build_index(rag: Ragstone, name: str, backend: str, *, pinned: str | None, watch: Watch) -> None:
    """Build the index of a loaded collection; `pinned` is the backend that it stays on whatever its size, or None.

    Outside the corpus that is a move, with all that a move verifies. Raises Conflict where that failed, and
    IndexUnavailable where the backend cannot be reached: the restore can be gone on with, also into another backend.
    """
    staged = find_collection(rag.database, name)
    meter = Meter(watch, f"building the {backend} index", staged.chunks, "chunks")
    _end_move_elsewhere(rag, staged, backend)
    if staged.backend != backend:
        _move(rag, name, backend, meter)
    moves.pin(rag.database, staged, pinned)
    if backend == DEFAULT_BACKEND:
        _build_hnsw(rag, find_collection(rag.database, name), meter)


def _end_move_elsewhere(rag: Ragstone, staged: CollectionState, backend: str) -> None:
    """An earlier try may have begun a move into another backend, which nobody but a restore can end."""
    for move in moves.latest_moves(rag.database, staged.id):
        if move.active and move.target != backend:
            moving.cancel(rag, staged.name)
            moving.work_on(rag, move)


def _move(rag: Ragstone, name: str, backend: str, meter: Meter) -> None:
    move = moving.start(rag, name, backend)
    with _watched(lambda: _done_of(rag, move.id), meter, lambda: _cancel(rag, name)):
        ended = moving.work_on(rag, move)
    if ended.phase != "done":
        raise Conflict(f"the {backend} index was not built: {ended.problem or ended.phase}")


def _cancel(rag: Ragstone, name: str) -> None:
    with suppress(RagstoneError):  # it has ended
        moving.cancel(rag, name)


def _build_hnsw(rag: Ragstone, staged: CollectionState, meter: Meter) -> None:
    settings = rag.settings
    if not builds_hnsw(staged, settings):
        return
    owner = identity(rag.database, staged)
    index = PgvectorIndex(rag.database, staged, owner, settings.ef_search, settings.statement_budget_ms)
    with _watched(index.build_progress, meter, index.cancel_build):
        if not index.build_missing():
            raise IndexUnavailable("the index was not built: its build was cancelled; restore again to go on")


def _done_of(rag: Ragstone, move_id: int) -> tuple[int, int]:
    found = moves.find_move(rag.database, move_id)
    return found.chunks_done, found.chunks_total


@contextmanager
def _watched(
    measure: Callable[[], tuple[int, int]], meter: Meter, cancel: Callable[[], None] | None = None
) -> Iterator[None]:
    """Tell the meter what `measure` says while the block runs; what the watch raises is raised at its end."""
    ended = threading.Event()
    raised: list[BaseException] = []

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            try:
                meter.share(*measure())
            except RagstoneError:
                continue  # the build itself says what is wrong
            except BaseException as error:  # the caller's own word to stop
                raised.append(error)
                if cancel is not None:
                    cancel()
                return

    thread = threading.Thread(target=watch, name="ragstone-restore-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if raised:
            raise raised[0]
