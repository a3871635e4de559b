"""What a health check is given, and what it says."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.indexes import IndexRow
from retrieval.library import Ragstone
from retrieval.placement import open_index

Level = Literal["ok", "warn", "crit", "unknown"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "crit", "unknown")
BUDGET_S = 10.0
"""What one check may take; its statements are cancelled then, and its level is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check found.

    `name` never changes: metrics, alerts and fixes go by it. `collection` and `backend` are None for what concerns
    the whole corpus. `value` is in `unit`, None where there is nothing to measure. `threshold` says in words where
    "ok" ends, for example "at most 0.2". `hint` says what to do, and is empty where all is well. `level` "unknown"
    means that it could not be looked at.
    """

    name: str
    level: Level
    collection: str | None = None
    backend: str | None = None
    value: float | None = None
    unit: str = ""
    threshold: str = ""
    detail: str = ""
    hint: str = ""


def level_above(value: float, warn: float, crit: float = inf) -> Level:
    """Return the level of a value that should be small: up to `warn` it is ok, beyond `crit` critical."""
    return "ok" if value <= warn else "warn" if value <= crit else "crit"


def mib(size_bytes: float) -> str:
    """Return a size as people read it in a detail: `12.5 MiB`."""
    return f"{size_bytes / (1 << 20):,.1f} MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is looked at: the whole corpus, where `collection` is None, or one collection with all its indexes.

    `rows` are its indexes, the serving one first; empty for the whole corpus.
    """

    rag: Ragstone
    collection: CollectionState | None = None
    rows: tuple[IndexRow, ...] = ()
    budget_s: float = BUDGET_S
    began_s: float = field(default_factory=time.monotonic)

    @property
    def database(self) -> Database:
        return self.rag.database

    @property
    def left_s(self) -> float:
        """What is left of the budget; a little, where all is spent."""
        return max(self.budget_s - (time.monotonic() - self.began_s), 0.001)

    @property
    def left_ms(self) -> int:
        """The same, as a statement_timeout wants it: never 0, which would mean no limit."""
        return max(int(self.left_s * 1000), 1)

    @property
    def state(self) -> CollectionState:
        """The collection, for checks that are made of collections alone."""
        assert self.collection is not None
        return self.collection

    def check(
        self,
        name: str,
        level: Level,
        *,
        backend: str | None = None,
        value: float | None = None,
        unit: str = "",
        threshold: str = "",
        detail: str = "",
        hint: str = "",
    ) -> Check:
        """Say something of this subject; the hint is left out where all is well."""
        return Check(
            name=name,
            level=level,
            collection=None if self.collection is None else self.collection.name,
            backend=backend,
            value=value,
            unit=unit,
            threshold=threshold,
            detail=detail,
            hint="" if level == "ok" else hint,
        )

    def rows_in(self, *backends: str) -> Iterator[IndexRow]:
        """Give its indexes in these backends that are to be whole: those not being built or dropped."""
        return (row for row in self.rows if row.backend in backends and row.state == "live")

    @contextmanager
    def opened(self, row: IndexRow) -> Iterator[VectorIndex]:
        """Lend an index just opened, as it is where it lives: nothing is loaded, followed or built."""
        index = open_index(self.database, self._behind(row), self.rag.settings)
        try:
            yield index
        finally:
            index.close()

    def _behind(self, row: IndexRow) -> CollectionState:
        return replace(self.state, backend=row.backend, index_id=row.id)


CheckFunction = Callable[[Subject], Iterable[Check]]
"""Looks at a subject, and gives a check for each thing that it looked at; none where it has no meaning there.

A module of checks lists its own as `CHECKS` (of a collection) and `CORPUS_CHECKS` (of the whole corpus). What one
raises becomes a check of level unknown, named after the function.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What can be done about a finding without harm. `description` says so in one line, `run` does it."""

    description: str
    run: Callable[[], None]


FixFunction = Callable[[Ragstone, Check], Fix | None]
"""Returns what mends a finding; None where nothing safe does. A module lists its own by check name, as `FIXES`."""
