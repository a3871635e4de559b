"""Whether an index outside the corpus is there, and keeps up with it."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState
from backends.corpus.health_indexes import Behind, behind, is_followed
from backends.corpus.indexes import FollowLocks, IndexRow, find_index, record_applied
from backends.errors import Conflict, IndexUnavailable, InvalidSettings, Unsupported
from ops.health.check import Check, CheckFunction, Fix, FixFunction, level_above
from ops.health.looking import OUTSIDE, SHARED, Look, of_each
from ops.health.mending import index_of
from retrieval.library import Ragstone
from retrieval.placement import open_index

BEHIND_WARN_S = 30.0
"""A follower looks twice a second: by then it has failed to apply some 60 times."""
BEHIND_CRIT_S = 300.0
_SETTINGS = "give this process the settings of the service: its RAGSTONE_ variables, and pip install 'ragstone[{}]'"
_AWAY = {
    "faiss": "see the log of the process that keeps it; `ragstone health --fix` builds it anew",
    "weaviate": "bring Weaviate back (RAGSTONE_WEAVIATE_URL); the index catches up by itself",
    "pinecone": "see https://status.pinecone.io and the API key; the index catches up by itself",
}


@of_each(*SHARED)
def index_reachable(look: Look) -> Iterator[Check]:
    """Whether the store answers, and has an index that is whole and this collection's."""
    began_s = time.monotonic()
    try:
        with look.subject.opened(look.row) as index:
            index.ping()
            ready = index.stats().ready
    except IndexUnavailable as error:
        yield look.says("crit", detail=str(error), hint=_AWAY[look.row.backend])
    except (InvalidSettings, Unsupported) as error:
        yield look.says("unknown", detail=str(error), hint=_SETTINGS.format(look.row.backend))
    else:
        yield look.says(
            "ok" if ready else "crit",
            value=(time.monotonic() - began_s) * 1000,
            unit="ms",
            detail="" if ready else "the store answers; the index is not there, not whole or another corpus's",
            hint="whoever follows it builds it anew: see index_followed",
        )


@of_each(*OUTSIDE)
def index_away(look: Look) -> Iterator[Check]:
    """Whether whoever keeps the index, or this process, has set it aside."""
    row = find_index(look.subject.database, look.row.id)
    here = look.searched_here()
    local = None if here is None else here.away
    if row is not None and row.away_since is not None:
        since, reason = row.away_since, row.away_reason or "no reason was given"
    elif local is not None:
        since, reason = local.since, local.reason
    else:
        yield look.says("ok", value=0.0, unit="s", threshold="not at all")
        return
    away_s = (datetime.now(UTC) - since).total_seconds()
    hint = _AWAY[look.row.backend]
    yield look.says("crit", value=away_s, unit="s", threshold="not at all", detail=reason, hint=hint)


@of_each(*OUTSIDE)
def index_behind(look: Look) -> Iterator[Check]:
    """How long the oldest change has waited that the index lacks, and how much that holds up."""
    row, limit = find_index(look.subject.database, look.row.id), look.subject.rag.settings.tail_limit
    if row is None:
        return  # dropped meanwhile
    if row.applied is None:  # no write waits for it yet
        waited_s = (datetime.now(UTC) - row.changed_at).total_seconds()
        full, detail = False, "nobody has followed it yet"
    else:
        lacks = behind(look.subject.database, look.state, row.applied)
        waited_s, detail = lacks.waited_s, _of_lacking(lacks, limit)
        full = lacks.chunks > limit or lacks.forgotten
    yield look.says(
        "crit" if full else level_above(waited_s, BEHIND_WARN_S, BEHIND_CRIT_S),
        value=waited_s,
        unit="s",
        threshold=f"at most {BEHIND_WARN_S:g} s, and {limit:,} chunks",
        detail=detail,
        hint="see index_followed and index_away; `ragstone health --fix` applies what it lacks, if nobody else does",
    )


def _of_lacking(lacks: Behind, limit: int) -> str:
    found = f"{lacks.changes} changes behind: {lacks.chunks} chunks and deletes of {limit:,} after which writes wait"
    return f"{found}; some are forgotten, so that it has to be built anew" if lacks.forgotten else found


@of_each(*OUTSIDE)
def index_followed(look: Look) -> Iterator[Check]:
    """Whether some process keeps the index in step: without one, writes wait when the tail is full."""
    followed = is_followed(look.subject.database, look.row.id)
    yield look.says(
        "ok" if followed else "warn",
        value=float(followed),
        threshold="1",
        detail="" if followed else "no process holds its follow lock",
        hint="start `ragstone serve` with the settings of this backend",
    )


def catch_up(rag: Ragstone, check: Check) -> Fix | None:
    """Apply what an index lacks, in the place of the process that should."""
    found = index_of(rag, check)
    if found is None:
        return None
    state, row = found
    description = f"let the {row.backend} index of {state.name} apply what it lacks, or build it"
    return Fix(description=description, run=partial(_caught_up, rag, state, row))


def _caught_up(rag: Ragstone, state: CollectionState, row: IndexRow) -> None:
    with closing(FollowLocks(rag.database)) as locks:
        if not locks.try_hold(row.id):
            raise Conflict(
                f"another process follows the {row.backend} index of {state.name!r}: see its log, or restart it"
            )
        with closing(open_index(rag.database, state, rag.settings)) as index:
            applied = AttachedIndex(rag.database, state, index).follow(may_build=True)
            record_applied(rag.database, row.id, applied, index.save())


CHECKS: tuple[CheckFunction, ...] = (index_reachable, index_away, index_behind, index_followed)
FIXES: dict[str, FixFunction] = {"index_behind": catch_up, "index_away": catch_up, "index_reachable": catch_up}
