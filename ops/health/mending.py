"""What mends an index that is derived: it is built anew from the corpus, or told what to delete."""

from dataclasses import replace
from functools import partial

import numpy as np

from backends.corpus import moves
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.health_indexes import forget_chunks
from backends.corpus.indexes import IndexRow, chunk_ids, indexes_of, set_state
from backends.errors import Conflict, NotFound
from ops.health.check import Check, Fix, Subject
from ops.health.looking import OUTSIDE, Look
from ops.moving import work_on
from retrieval.library import Ragstone


def index_of(rag: Ragstone, check: Check) -> tuple[CollectionState, IndexRow] | None:
    """Return the index outside the corpus that a check was of, and its collection; None where there is none."""
    try:
        collection = find_collection(rag.database, check.collection or "")
    except NotFound:
        return None
    for row in indexes_of(rag.database, collection.id):
        if row.backend == check.backend and row.backend in OUTSIDE and row.state == "live":
            return replace(collection, backend=row.backend, index_id=row.id), row
    return None


def rebuild_beside(rag: Ragstone, check: Check) -> Fix | None:
    """Build an index anew beside the one that serves, verify it, and change over: a move to where it is already.

    Searches go on meanwhile, and where the new index does not prove good, nothing is changed over. It takes the room
    of a second index for the while. One that does not serve is dropped in place of that: nobody needs it whole.
    """
    found = index_of(rag, check)
    if found is None:
        return None
    state, row = found
    name = f"the {row.backend} index of {state.name}"
    if not row.serving:
        run = partial(set_state, rag.database, row.id, "dropping")
        return Fix(description=f"drop {name}, which does not serve", run=run)
    description = f"build {name} ({state.chunks:,} chunks) anew beside the one that serves, verify it, change over"
    return Fix(description=description, run=partial(_rebuilt, rag, state, row))


def _rebuilt(rag: Ragstone, state: CollectionState, row: IndexRow) -> None:
    move = work_on(rag, moves.begin_move(rag.database, state, row.backend, by_hand=False))
    if move.phase != "done":
        raise Conflict(f"the new {row.backend} index of {state.name!r} did not prove good: {move.problem}")
    set_state(rag.database, row.id, "dropping")


def delete_orphans(rag: Ragstone, check: Check) -> Fix | None:
    """Let the index delete what the corpus does not have, through the change sequence: whoever keeps it applies it."""
    found = index_of(rag, check)
    if found is None:
        return None
    state, row = found
    description = f"delete {check.value or 0:,.0f} orphans from the {row.backend} index of {state.name}"
    return Fix(description=description, run=partial(_without_orphans, rag, state, row))


def _without_orphans(rag: Ragstone, state: CollectionState, row: IndexRow) -> None:
    with Look(Subject(rag=rag, collection=state, rows=(row,)), row, "index_orphans").as_searched() as attached:
        indexed = np.concatenate([np.empty(0, np.int64), *attached.index.ids()])
    with rag.database.dedicated() as connection:
        orphans = np.setdiff1d(indexed, chunk_ids(connection, state))
    forget_chunks(rag.database, state, orphans)
    rag.indexes.notice(state)
