"""What can be done about findings without harm: said first, then done."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from backends.corpus import health_figures as figures
from backends.corpus.collections import CollectionState, find_collection
from backends.errors import Conflict
from backends.pgvector import PgvectorIndex
from ops.health import embeddings, outside, postgres
from ops.health.check import Check, Fix, FixFunction
from ops.health.hnsw import LEFTOVER, index_of
from retrieval.library import Ragstone

LOOK_MS = 10_000


@dataclass(frozen=True, slots=True)
class Fixed:
    """A fix that was tried; `problem` says why it did not succeed."""

    description: str
    problem: str | None


def fixes_for(rag: Ragstone, findings: Iterable[Check]) -> list[Fix]:
    """Return what mends the findings, each thing once, in the order in which it is to be done."""
    found: dict[str, Fix] = {}
    for check in findings:
        make = FIXES.get(check.name)
        fix = None if make is None else make(rag, check)
        if fix is not None:
            found.setdefault(fix.description, fix)
    return list(found.values())


def mend(fixes: Iterable[Fix], tell: Callable[[str], None]) -> list[Fixed]:
    """Do one after the other; what fails keeps the others from nothing. `tell` hears of each before it begins."""
    done = []
    for fix in fixes:
        tell(fix.description)
        try:
            fix.run()
        except Exception as error:  # the driver's own too: a statement that was cancelled, a deadlock
            done.append(Fixed(fix.description, str(error) or type(error).__name__))
        else:
            done.append(Fixed(fix.description, None))
    return done


def _vacuum(rag: Ragstone, check: Check) -> Fix | None:
    state = _state(rag, check)
    return Fix(
        description=f"VACUUM (ANALYZE) the tables of {state.name}", run=partial(figures.vacuum, rag.database, state)
    )


def _reindex(rag: Ragstone, check: Check) -> Fix | None:
    if check.level != "crit" and check.name == "hnsw_self_recall":
        return None  # it is the effort that is wanting
    state = _state(rag, check)
    return Fix(
        description=f"REINDEX INDEX CONCURRENTLY the HNSW of {state.name}, then VACUUM (ANALYZE)",
        run=partial(figures.reindex, rag.database, state),
    )


def _build(rag: Ragstone, check: Check) -> Fix | None:
    """Also what is invalid: it is dropped first."""
    state = _state(rag, check)
    index = index_of(rag, state)
    what = "the index on the metadata" if check.name == "filter_index_ready" else "HNSW"
    run = index.build_filter_index if check.name == "filter_index_ready" else partial(_built, index, state.name)
    return Fix(description=f"build {what} of {state.name}", run=run)


def _build_again(rag: Ragstone, check: Check) -> Fix | None:
    """An index of the right name and the wrong kind."""
    state = _state(rag, check)
    index = index_of(rag, state)

    def run() -> None:
        index.drop()
        _built(index, state.name)

    return Fix(
        description=f"drop the HNSW of {state.name}, whose searches are exact and slow meanwhile; build it", run=run
    )


def _drop_leftovers(rag: Ragstone, check: Check) -> Fix | None:
    state = _state(rag, check)
    indexes = figures.index_figures(rag.database, state, LOOK_MS)
    names = [index.name for index in indexes if not index.whole and LEFTOVER.search(index.name)]

    def run() -> None:
        for name in names:
            figures.drop_leftover(rag.database, name)

    return Fix(description=f"DROP INDEX CONCURRENTLY {', '.join(names)}", run=run) if names else None


def _built(index: PgvectorIndex, collection: str) -> None:
    if not index.build_missing():
        raise Conflict(f"HNSW of {collection!r} is built by another process now, or the build was cancelled")


def _state(rag: Ragstone, check: Check) -> CollectionState:
    assert check.collection is not None
    return find_collection(rag.database, check.collection)


FIXES: dict[str, FixFunction] = {
    "hnsw_ready": _build,
    "filter_index_ready": _build,
    "leftover_indexes": _drop_leftovers,
    "planner_uses_index": _build_again,
    "index_bloat": _reindex,
    "hnsw_self_recall": _reindex,
    "dead_tuples": _vacuum,
    **embeddings.FIXES,
    **postgres.FIXES,
    **outside.FIXES,
}
"""By the name of the check: what cannot do harm, and nothing else. What needs a decision has its hint alone."""
