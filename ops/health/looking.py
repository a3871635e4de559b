"""Looking at one index after another: what each check of an index begins with."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from weakref import WeakKeyDictionary

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState
from backends.corpus.indexes import IndexRow
from backends.errors import CollectionNotFound, RagstoneError
from ops.health.check import Check, CheckFunction, Level, Subject
from retrieval.library import Ragstone
from retrieval.placement import open_index

SHARED = ("weaviate", "pinecone")
OUTSIDE = ("faiss", *SHARED)
COPY_KEPT_S = 60.0
LEAST_S = 0.05
"""With less time left, nothing is begun."""


@dataclass(frozen=True, slots=True)
class Look:
    """One index that is looked at, and the name of the check."""

    subject: Subject
    row: IndexRow
    name: str

    @property
    def state(self) -> CollectionState:
        """The collection, as this index serves it."""
        return replace(self.subject.state, backend=self.row.backend, index_id=self.row.id)

    @property
    def nearly_over(self) -> bool:
        """Whether nothing more is to be begun within the budget."""
        return self.subject.left_s < max(self.subject.budget_s / 10, LEAST_S)

    def says(
        self,
        level: Level,
        *,
        name: str | None = None,
        value: float | None = None,
        unit: str = "",
        threshold: str = "",
        detail: str = "",
        hint: str = "",
    ) -> Check:
        """Say something of this index; the hint is left out where all is well."""
        return self.subject.check(
            name or self.name,
            level,
            backend=self.row.backend,
            value=value,
            unit=unit,
            threshold=threshold,
            detail=detail,
            hint=hint,
        )

    def searched_here(self) -> AttachedIndex | None:
        """Return the index as this process searches or follows it; None where it does neither."""
        return self.subject.rag.indexes.open_here(self.row.id)

    @contextmanager
    def as_searched(self) -> Iterator[AttachedIndex]:
        """Lend the index as this process searches it; where it does not, one opened for this look.

        A copy opened for the look is brought up to date in memory. Nothing is built, written or followed by looking:
        to open it as a search does would keep it in step from then on, and hide that nobody did.
        """
        here = self.searched_here()
        if here is not None:
            yield here
            return
        with self.subject.opened(self.row) as index:
            is_copy = not (index.capabilities.shared or index.capabilities.in_corpus)
            yield _copies.of(self) if is_copy else AttachedIndex(self.subject.database, self.state, index)


class _Copies:
    """Copies that were opened to be looked at: loading one may take half a minute, and many checks want it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._kept: WeakKeyDictionary[Ragstone, dict[int, tuple[float, AttachedIndex]]] = WeakKeyDictionary()

    def of(self, look: Look) -> AttachedIndex:
        """Return a copy of the index, brought up to date; raises IndexUnavailable where only a build can do that."""
        subject = look.subject
        with self._turn:
            kept = self._kept.setdefault(subject.rag, {})
            opened_s, copy = kept.get(look.row.id, (float("-inf"), None))
            if copy is None or time.monotonic() - opened_s > COPY_KEPT_S:
                index = open_index(subject.database, look.state, subject.rag.settings)
                copy = AttachedIndex(subject.database, look.state, index)
                kept[look.row.id] = time.monotonic(), copy
            copy.follow(may_build=False)
            return copy


_copies = _Copies()

LookFunction = Callable[[Look], Iterable[Check]]


def of_each(*backends: str) -> Callable[[LookFunction], CheckFunction]:
    """Make a check of a collection from one of an index: the first live one in each of these backends.

    The check is named after the function. What Ragstone itself raises at one index is unknown of that one alone.
    """

    def decorate(function: LookFunction) -> CheckFunction:
        @wraps(function)
        def check(subject: Subject) -> Iterator[Check]:
            for row in {row.backend: row for row in reversed(list(subject.rows_in(*backends)))}.values():
                look = Look(subject, row, function.__name__)
                try:
                    yield from function(look)
                except CollectionNotFound:
                    raise  # it was deleted meanwhile
                except RagstoneError as error:
                    yield look.says("unknown", detail=str(error), hint="see index_reachable and index_away")

        return check

    return decorate
