"""Adds up what requests use and cost, and gives it to the corpus."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from backends.corpus.database import Database
from backends.corpus.spending import (
    GIVE_UP_S,
    BudgetKey,
    SpendingKey,
    Spent,
    add_spending,
    add_to,
    forget_spending,
)
from backends.errors import RagstoneError
from ops.costs.clock import Clock, utc_now
from ops.costs.limits import Budget
from ops.latency.stages import ASKED
from retrieval.attribution import Tags
from retrieval.costing import Charge, Stage, Unit
from retrieval.observing import AnswerObserved, Observed, SearchObserved

WRITE_EVERY_S = 1.0
FORGET_EVERY_S = 3_600.0
CLOSE_WITHIN_S = 5.0
WAITING_ROWS = 10_000
"""Rows that wait for a corpus that is away; what comes beyond them waits as one, for "other"."""
MODEL_CHARACTERS = 200

_COUNTED: dict[Unit, str] = {
    "prompt": "prompt_tokens",
    "cached_prompt": "cached_tokens",
    "completion": "completion_tokens",
    "embedding": "embedding_tokens",
    "vectors": "vectors",
}

log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """What metrics tell apart; `model` is the backend of a search."""

    stage: str
    model: str
    priced: bool


@dataclass(slots=True)
class _Waiting:
    """What the corpus does not have yet."""

    spending: dict[SpendingKey, Spent] = field(default_factory=dict)
    budgets: dict[BudgetKey, Decimal] = field(default_factory=dict)

    def add(self, key: SpendingKey, spent: Spent) -> None:
        full = len(self.spending) >= WAITING_ROWS and key not in self.spending
        add_to(self.spending, key.as_other if full else key, spent)

    def charge(self, key: BudgetKey, cost_usd: Decimal) -> None:
        self.budgets[key] = self.budgets.get(key, Decimal()) + cost_usd

    def include(self, other: "_Waiting") -> None:
        for key, spent in other.spending.items():
            self.add(key, spent)
        for budget, cost_usd in other.budgets.items():
            self.charge(budget, cost_usd)


@dataclass(slots=True)
class _Run:
    """Searches one after the other that cost the same."""

    day: date
    search: SearchObserved
    count: int = 1

    def is_like(self, other: SearchObserved) -> bool:
        """Costs are not compared but for being the same object, as they are where nothing was embedded."""
        search = self.search
        return (
            other.cost is search.cost
            and other.tags == search.tags
            and other.collection.name == search.collection.name
            and other.backend == search.backend
        )


class SpendingRecorder:
    """An observer that records what each request used and cost. Safe from any thread.

    An answer is in the corpus before its last event goes out; where the corpus is away, soon after it is back.
    Searches are gathered, and written once a second while `running()`, or with the next answer: a process that is
    killed loses those of its last second.
    """

    def __init__(self, database: Database, budgets: Sequence[Budget] = (), now: Clock = utc_now) -> None:
        self._database = database
        self._budgets = [budget for budget in budgets if budget.per == "day" and budget.limit == "usd"]
        self._now = now
        self._adding = threading.Lock()
        self._waiting = _Waiting()
        self._alike: _Run | None = None
        self._totals: dict[Subject, Spent] = {}
        self._writing = threading.Lock()
        self._failures = 0
        self._stopping = threading.Event()
        self._forgot_s = float("-inf")

    def __call__(self, observed: Observed) -> None:
        """Add what a search or an answer used."""
        match observed:
            case SearchObserved():
                self._count(observed)
            case AnswerObserved() if _begun(observed):
                charges = observed.cost.charges or [_nothing("generate", observed.model)]
                with self._adding:
                    self._add(self._now().date(), observed, charges)
                self._attempt_flush()

    def _count(self, search: SearchObserved) -> None:
        """Count a search with the one before where both cost the same, as most do."""
        day = self._now().date()
        with self._adding:
            run = self._alike
            if run is not None and run.day == day and run.is_like(search):
                run.count += 1
            else:
                self._end_run()
                self._alike = _Run(day, search)

    def totals(self) -> dict[Subject, Spent]:
        """Return all that this process has added, also what the corpus does not have yet."""
        with self._adding:
            self._end_run()
            return dict(self._totals)

    def flush(self) -> None:
        """Give the corpus what was added up to now; raises CorpusUnavailable, and keeps it for the next time."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        with self._adding:
            self._end_run()
            taken, self._waiting = self._waiting, _Waiting()
        if not (taken.spending or taken.budgets):
            return
        try:
            add_spending(self._database, taken.spending, taken.budgets)
        except BaseException:
            self._failures += 1
            with self._adding:
                self._waiting.include(taken)
            raise

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write once a second while the block runs, and once more at its end."""
        self._stopping.clear()
        # A daemon: a PostgreSQL that hangs is not to keep the process from ending.
        thread = threading.Thread(target=self._run, name="ragstone-spending", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join(CLOSE_WITHIN_S)
            if thread.is_alive():
                log.warning("spending: the corpus did not take that of the last second in %.0f s", CLOSE_WITHIN_S)

    def _run(self) -> None:
        while not self._stopping.wait(WRITE_EVERY_S):
            self._attempt_flush()
            if time.monotonic() - self._forgot_s >= FORGET_EVERY_S:
                self._attempt_forgetting()
        self._attempt_flush()

    def _attempt_flush(self) -> None:
        """Write, whatever becomes of it. Who waits finds that another wrote for both, or leaves it for later."""
        failures = self._failures
        if not self._writing.acquire(timeout=GIVE_UP_S):
            return
        try:
            if self._failures == failures:
                self._write()
        except RagstoneError as error:
            log.warning("spending: %s", error)
        except Exception:  # a recorder that dies loses all that comes later
            log.exception("spending: unexpected error")
        finally:
            self._writing.release()

    def _attempt_forgetting(self) -> None:
        try:
            if not forget_spending(self._database, self._now().date()):
                self._forgot_s = time.monotonic()
        except Exception as error:  # it is tried again; spending goes on
            self._forgot_s = time.monotonic()
            log.warning("spending: forgetting what is old failed: %s", error)

    def _end_run(self) -> None:
        """Add what the searches cost that were counted. Needs the lock."""
        run, self._alike = self._alike, None
        if run is not None:
            search = run.search
            self._add(run.day, search, search.cost.charges or [_nothing("search", search.backend)], run.count)

    def _add(self, day: date, observed: Observed, charges: Sequence[Charge], times: int = 1) -> None:
        """Add what so many requests cost, each the same. Needs the lock."""
        for charge in charges:
            spent = _spent(charge, times)
            self._waiting.add(_key(day, observed.tags, observed.collection.name, charge), spent)
            subject = Subject(charge.stage, charge.model, charge.priced)
            self._totals[subject] = self._totals.get(subject, Spent()) + spent
        cost_usd = sum((charge.cost_usd for charge in charges), Decimal()) * times
        if cost_usd:
            self._charge(day, observed.tags, cost_usd)

    def _charge(self, day: date, tags: Tags, cost_usd: Decimal) -> None:
        for budget in self._budgets:
            value = budget.value_of(tags)
            if value is not None:
                self._waiting.charge(BudgetKey(day, budget.name, value), cost_usd)


def _begun(observed: AnswerObserved) -> bool:
    """Whether anything came of it: one that was refused, or found no turn, used no model."""
    return observed.outcome == "ok" or ASKED in observed.timings_ms or bool(observed.cost.charges)


def _nothing(stage: Stage, model: str) -> Charge:
    """A request counts, also where it used nothing."""
    return Charge(stage=stage, model=model, used={}, cost_usd=Decimal(), priced=True)


def _key(day: date, tags: Tags, collection: str, charge: Charge) -> SpendingKey:
    model = charge.model.replace("\0", "")[:MODEL_CHARACTERS]
    return SpendingKey(day, tags.tenant, tags.user, tags.feature, collection, charge.stage, model, charge.priced)


def _spent(charge: Charge, times: int) -> Spent:
    counts = {_COUNTED[unit]: int(count) * times for unit, count in charge.used.items() if unit in _COUNTED}
    gpu_s = charge.used.get("gpu_s", Decimal()) * times
    return Spent(requests=times, gpu_s=gpu_s, cost_usd=charge.cost_usd * times, **counts)
