"""Limits what requests spend. What was used is counted in the corpus, so that all servers agree on it."""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from backends.corpus.database import Database
from backends.corpus.spending import (
    BudgetKey,
    BudgetUse,
    DailyLimit,
    budget_uses,
    count_request,
    give_back,
    mark_warned,
)
from backends.errors import BudgetExceeded
from ops.costs.clock import Clock, seconds_left, utc_now
from ops.costs.limits import Budget
from ops.costs.showing import dollars
from retrieval.attribution import Tags
from retrieval.budgets import Counted, Kind

log = logging.getLogger(__name__)


class DatabasePurse:
    """Counts each request when it comes, until it is given back, and knows what was spent when it comes.

    Of requests exactly as many pass as the limit says, over all servers. Money is spent when an answer ends, so what
    the answers under way cost may go beyond the limit. A crash of PostgreSQL may forget half a second of requests.
    """

    def __init__(self, database: Database, budgets: Sequence[Budget], now: Clock = utc_now) -> None:
        self._database = database
        self._now = now
        self._daily = [budget for budget in budgets if budget.per == "day"]
        self._each = [budget for budget in budgets if budget.per == "request"]
        self._counting = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._warned: Counter[str] = Counter()

    def before(self, tags: Tags, kind: Kind) -> Counted:  # noqa: ARG002  # every kind of request counts alike
        """Count a request in the budgets of its day; see `Purse`."""
        concerned = _concerned(self._daily, tags)
        if not concerned:
            return Counted()
        now = self._now()
        uses = count_request(self._database, now.date(), _limits(concerned))
        if uses is None:
            raise self._used_up(concerned, now)
        by_name = {use.budget: use for use in uses}
        warnings = [
            self._warn_of_use(budget, value, by_name[budget.name])
            for budget, value in concerned
            if _reached(budget.soft, budget.used(by_name[budget.name]))
        ]
        return Counted(warnings, tuple(BudgetKey(now.date(), use.budget, use.value) for use in uses))

    def give_back(self, counted: Counted) -> None:
        """Take a request back from the uses of the day that it came on; see `Purse`."""
        with self._counting:
            uses, counted.uses = counted.uses, ()
        if not uses:
            return
        try:
            give_back(self._database, uses)
        except Exception as error:  # the request is being refused, for a reason that its caller is to hear
            log.warning("budgets: a request that was refused stays counted: %s", error)

    def afford(self, tags: Tags, estimated: Decimal) -> list[str]:
        """Compare what an answer would cost with what one may cost, and with what is left today; see `Purse`."""
        concerned = _concerned(self._each, tags)
        for budget, value in concerned:
            if budget.hard is not None and estimated > budget.hard:
                said = f"the answer may cost {budget.said(estimated)}; needed at most {budget.said(budget.hard)}"
                raise self._exceeded(budget, value, said, retry_after_s=0)
        self._check_left(tags, estimated)
        said = f"the answer may cost {dollars(estimated)} USD"
        return [self._warn(*one, said, known=False) for one in concerned if _reached(one[0].soft, estimated)]

    def refused(self) -> dict[str, int]:
        """Return how many requests this process refused, by budget."""
        with self._counting:
            return dict(self._refused)

    def warned(self) -> dict[str, int]:
        """Return how many warnings this process gave, by budget."""
        with self._counting:
            return dict(self._warned)

    def _check_left(self, tags: Tags, estimated: Decimal) -> None:
        """Do not begin an answer that would surely go beyond the day's money."""
        concerned = [one for one in _concerned(self._daily, tags) if one[0].limit == "usd"]
        if not concerned or not estimated:
            return
        now = self._now()
        uses = budget_uses(self._database, now.date(), _limits(concerned))
        for budget, value in concerned:
            spent = budget.used(uses[budget.name])
            if budget.hard is not None and spent + estimated > budget.hard:
                said = f"{budget.said_of(spent)} are used today, and the answer may cost {budget.said(estimated)}"
                raise self._exceeded(budget, value, said, retry_after_s=seconds_left(now))

    def _used_up(self, concerned: Sequence[tuple[Budget, str]], now: datetime) -> BudgetExceeded:
        uses = budget_uses(self._database, now.date(), _limits(concerned))
        used_up = [one for one in concerned if _reached(one[0].hard, one[0].used(uses[one[0].name]))]
        budget, value = (used_up or concerned)[0]
        said = f"{budget.said_of(budget.used(uses[budget.name]))} are used today; the day ends at 00:00 UTC"
        return self._exceeded(budget, value, said, retry_after_s=seconds_left(now))

    def _exceeded(self, budget: Budget, value: str, said: str, retry_after_s: float) -> BudgetExceeded:
        with self._counting:
            self._refused[budget.name] += 1
        return BudgetExceeded(f"{budget.of(value)}: {said}", retry_after_s)

    def _warn_of_use(self, budget: Budget, value: str, use: BudgetUse) -> str:
        """Of what all use together, amounts are for the log alone: they are no caller's business."""
        warning = self._warn(budget, value, f"{budget.said_of(budget.used(use))} are used today", known=use.warned)
        return f"{budget.of(value)}: its soft limit of today is reached" if budget.scope == "all" else warning

    def _warn(self, budget: Budget, value: str, said: str, *, known: bool) -> str:
        """Return the warning; the log has only the first of a day, from whichever server, so `known` ones never."""
        warning = f"{budget.of(value)}: {said}"
        with self._counting:
            self._warned[budget.name] += 1
        if not known and mark_warned(self._database, BudgetKey(self._now().date(), budget.name, value)):
            log.warning("%s", warning)
        return warning


def _concerned(budgets: Sequence[Budget], tags: Tags) -> list[tuple[Budget, str]]:
    """The budgets that a request is part of, and whose use it is in each."""
    pairs = [(budget, budget.value_of(tags)) for budget in budgets]
    return [(budget, value) for budget, value in pairs if value is not None]


def _limits(concerned: Sequence[tuple[Budget, str]]) -> list[DailyLimit]:
    return [
        DailyLimit(
            budget=budget.name,
            value=value,
            requests_hard=int(budget.hard) if budget.hard is not None and budget.limit == "requests" else None,
            usd_hard=budget.hard if budget.limit == "usd" else None,
        )
        for budget, value in concerned
    ]


def _reached(limit: Decimal | None, used: Decimal) -> bool:
    return limit is not None and used >= limit
