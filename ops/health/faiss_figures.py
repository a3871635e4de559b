"""FAISS: how its lists are filled and its graphs built, what of it is deleted, and whether its files are whole."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backends.corpus.collections import identity
from backends.errors import IndexUnavailable
from ops.health.check import Check, CheckFunction, FixFunction, level_above
from ops.health.looking import Look, of_each
from ops.health.mending import rebuild_beside
from retrieval.placement import index_folder

if TYPE_CHECKING:
    from backends.faiss.segment import Segment  # imported where it is used: FAISS may not be installed

IVF = ("ivf_sq8", "ivf_pq")
IMBALANCE_WARN, IMBALANCE_CRIT = 2.0, 3.0
"""FAISS's factor, k sum(n^2) / (sum n)^2: a search reads so many times the rows that equal lists would have."""
EMPTY_WARN = 0.05
ROWS_PER_LIST = 30
"""Below it FAISS itself warns when it trains: https://github.com/facebookresearch/faiss/wiki/FAQ"""
LEAST_LINKS = 16
DEAD_WARN, DEAD_CRIT = 0.3, 0.5
"""The process that keeps it compacts it from 0.3 on (MAX_DEAD_SHARE)."""


@of_each("faiss")
def faiss_lists(look: Look) -> Iterator[Check]:
    """How unevenly the rows are spread over inverted lists, and (`faiss_empty_lists`) how many have none."""
    segments = _segments(look, *IVF)
    if not segments:
        return
    sizes = [_list_sizes(segment) for segment in segments]
    factor = max(float(segment.index.invlists.imbalance_factor()) for segment in segments)
    yield look.says(
        level_above(factor, IMBALANCE_WARN, IMBALANCE_CRIT),
        value=round(factor, 3),
        threshold=f"at most {IMBALANCE_WARN:g}",
        detail=f"the fullest list has {max(counts.max() for counts in sizes):,} rows",
        hint="searches read that much more: `ragstone health --fix` trains it anew; duplicates stay in one list",
    )
    empty = max(float((counts == 0).mean()) for counts in sizes)
    yield look.says(
        "ok" if empty <= EMPTY_WARN else "warn",
        name="faiss_empty_lists",
        value=round(empty, 4),
        threshold=f"at most {EMPTY_WARN:g}",
        detail="of the lists have no rows",
        hint="a probe of such a list is lost: `ragstone health --fix` trains it anew",
    )


@of_each("faiss")
def faiss_training(look: Look) -> Iterator[Check]:
    """Rows for each inverted list: its centroid was trained on no more.

    A segment is trained on its own rows and never grows, so it cannot outgrow its training.
    """
    rows = [len(segment.ids) / segment.index.nlist for segment in _segments(look, *IVF)]
    if rows:
        yield look.says(
            "ok" if min(rows) >= ROWS_PER_LIST else "warn",
            value=round(min(rows), 1),
            unit="rows a list",
            threshold=f"at least {ROWS_PER_LIST}",
            hint="too many lists for so little data cost recall: `ragstone health --fix` builds it anew",
        )


@of_each("faiss")
def faiss_graph(look: Look) -> Iterator[Check]:
    """With how many links HNSW was built, and how hard they were looked for (`efConstruction`)."""
    segments = _segments(look, "hnsw")
    if not segments:
        return
    built = [(segment.index.hnsw.nb_neighbors(1), segment.index.hnsw.efConstruction) for segment in segments]
    links, effort = min(built)
    good = all(links >= LEAST_LINKS and effort >= 2 * links for links, effort in built)
    yield look.says(
        "ok" if good else "warn",
        value=float(links),
        unit="links",
        threshold=f"at least {LEAST_LINKS}, and efConstruction at least twice the links",
        detail=f"M {links}, efConstruction {effort}",
        hint="no effort of a search makes up for a poor graph: `ragstone health --fix` builds it anew",
    )


@of_each("faiss")
def faiss_removed(look: Look) -> Iterator[Check]:
    """The share of rows that are deleted and not compacted yet: searches walk past them."""
    with look.as_searched() as attached:
        dead = float(attached.index.stats().details.get("dead_share", 0.0))
    yield look.says(
        level_above(dead, DEAD_WARN, DEAD_CRIT),
        value=dead,
        unit="share",
        threshold=f"at most {DEAD_WARN:g}",
        hint="the process that keeps it should have: see its log; `ragstone health --fix` builds the index anew",
    )


@of_each("faiss")
def faiss_snapshot(look: Look) -> Iterator[Check]:
    """Whether the files are what was written: the copy in memory may serve on, but the next process reads these."""
    with look.subject.opened(look.row):  # else it is not for this process to look at its files
        from ops.health.faiss_files import damage
    folder = index_folder(look.subject.rag.settings) / identity(look.subject.database, look.state).name
    if look.row.durable is None and not folder.exists():
        yield look.says("ok", detail="nothing was saved yet")
        return
    problem = damage(folder, lambda: _look_out(look))
    yield look.says(
        "ok" if problem is None else "crit",
        value=float(problem is None),
        threshold="1",
        detail=problem or "",
        hint="a restart would have to build the index first: `ragstone health --fix` builds it anew beside this one",
    )


def _look_out(look: Look) -> None:
    if look.nearly_over:
        raise IndexUnavailable("the snapshot could not be read whole within the budget; the next look goes on with it")


def _segments(look: Look, *kinds: str) -> "list[Segment]":
    """Return the segments of these kinds. Hold on to them: what FAISS gives of an index is memory of that index."""
    with look.as_searched() as attached:
        from backends.faiss import FaissIndex

        assert isinstance(attached.index, FaissIndex)
        return [segment for segment in attached.index.segments() if segment.kind in kinds]


def _list_sizes(segment: "Segment") -> NDArray[np.int64]:
    lists = segment.index.invlists
    return np.array([lists.list_size(number) for number in range(segment.index.nlist)], dtype=np.int64)


CHECKS: tuple[CheckFunction, ...] = (faiss_lists, faiss_training, faiss_graph, faiss_removed, faiss_snapshot)
FIXES: dict[str, FixFunction] = dict.fromkeys(
    ("faiss_lists", "faiss_empty_lists", "faiss_training", "faiss_graph", "faiss_removed", "faiss_snapshot"),
    rebuild_beside,
)
