"""Looking at everything: each check by itself, within its budget, whatever becomes of the others."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.indexes import indexes_of
from backends.errors import CollectionNotFound, RagstoneError
from ops.health import embeddings, generation, hnsw, outside, postgres, service
from ops.health.check import BUDGET_S, Check, CheckFunction, Level, Subject
from retrieval.library import Ragstone

GRACE_S = 5.0
"""How long a check may go on after its budget, since the last thing it began must come to its own end."""
WORST_FIRST: tuple[Level, ...] = ("crit", "warn", "unknown", "ok")

CORPUS_CHECKS: tuple[CheckFunction, ...] = (
    *postgres.CORPUS_CHECKS,
    *service.CORPUS_CHECKS,
    *generation.CORPUS_CHECKS,
    *outside.CORPUS_CHECKS,
)
CHECKS: tuple[CheckFunction, ...] = (
    *hnsw.CHECKS,
    *postgres.CHECKS,
    *embeddings.CHECKS,
    *service.CHECKS,
    *outside.CHECKS,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every check, the worst first, and how long looking took."""

    checks: tuple[Check, ...]
    took_s: float

    @property
    def level(self) -> Level:
        """The worst of all."""
        return self.checks[0].level if self.checks else "ok"

    @property
    def findings(self) -> tuple[Check, ...]:
        """What is wrong."""
        return tuple(check for check in self.checks if check.level in ("crit", "warn"))

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"level": self.level, "took_s": self.took_s, "checks": [asdict(check) for check in self.checks]}


def run(rag: Ragstone, collection: str | None = None, *, budget_s: float = BUDGET_S) -> Report:
    """Look at the whole corpus and every collection, or at one collection alone.

    Raises CollectionNotFound where that one is not there.
    """
    began_s = time.monotonic()
    if collection is not None:
        found = [*_of_collection(rag, find_collection(rag.database, collection), budget_s)]
        measured = _look(service.recall, Subject(rag=rag, budget_s=budget_s))  # of all collections at once
        found += [check for check in measured if check.collection in (collection, None)]
    else:
        found = [*_of_corpus(rag, budget_s), *_of_all(rag, budget_s)]
    found.sort(key=lambda check: WORST_FIRST.index(check.level))
    return Report(checks=tuple(found), took_s=round(time.monotonic() - began_s, 3))


def _of_corpus(rag: Ragstone, budget_s: float) -> Iterator[Check]:
    for function in CORPUS_CHECKS:
        yield from _look(function, Subject(rag=rag, budget_s=budget_s))


def _of_all(rag: Ragstone, budget_s: float) -> Iterator[Check]:
    try:
        names = rag.collections()
    except RagstoneError as error:
        yield Check(name="collections", level="unknown", detail=str(error))
        return
    for name in names:
        try:
            yield from _of_collection(rag, find_collection(rag.database, name), budget_s)
        except CollectionNotFound:
            continue  # deleted meanwhile
        except RagstoneError as error:
            yield Check(name="collections", level="unknown", collection=name, detail=str(error))


def _of_collection(rag: Ragstone, state: CollectionState, budget_s: float) -> Iterable[Check]:
    rows = tuple(indexes_of(rag.database, state.id))
    found: list[Check] = []
    for function in CHECKS:
        found += _look(function, Subject(rag=rag, collection=state, rows=rows, budget_s=budget_s))
    return found


def _look(function: CheckFunction, subject: Subject) -> list[Check]:
    """Run one check in a thread of its own, which is left behind where it does not come back."""
    looking = _Looking(function, subject)
    looking.start()
    looking.join(subject.budget_s + GRACE_S)
    if looking.is_alive():
        return [_unknown(function, subject, f"it did not end within {subject.budget_s + GRACE_S:g} s")]
    if isinstance(looking.problem, CollectionNotFound):
        raise looking.problem
    return looking.found


class _Looking(threading.Thread):
    def __init__(self, function: CheckFunction, subject: Subject) -> None:
        super().__init__(name=f"ragstone-health-{function.__name__}", daemon=True)
        self._function = function
        self._subject = subject
        self.found: list[Check] = []
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            self.found = list(self._function(self._subject))
        except Exception as error:  # whatever it is, the other checks are to be seen
            self.problem = error
            if not isinstance(error, RagstoneError):
                log.warning("the check %s failed", self._function.__name__, exc_info=True)
            self.found = [_unknown(self._function, self._subject, str(error) or type(error).__name__)]


def _unknown(function: CheckFunction, subject: Subject, detail: str) -> Check:
    state = subject.collection
    return Check(
        name=function.__name__,
        level="unknown",
        collection=None if state is None else state.name,
        detail=detail.strip().splitlines()[0],
        hint="this could not be looked at",
    )
