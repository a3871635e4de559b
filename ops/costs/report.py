"""What was spent over some days, by whom and on what; and how much of each budget is used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

from backends.corpus.database import Database
from backends.corpus.spending import AddedUp, BudgetUse, Dimension, Spent, most_used, spending_between
from ops.costs.limits import Budget

SHOWN_USES = 20
"""Of a budget that each tenant, user or feature has, those who used most of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What was spent by one value of each dimension, and of it what has no price; `spent.cost_usd` lacks that."""

    values: dict[Dimension, Any]
    spent: Spent
    unpriced: Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Lines by the dimensions that were asked for, those that cost most first (by days: in their order), and all."""

    by: tuple[Dimension, ...]
    lines: list[Line]
    total: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How much of a budget is used today: those who used most of it first; empty for a budget of single requests."""

    budget: Budget
    uses: list[BudgetUse]

    @property
    def used(self) -> Decimal:
        """The most that any one of them used, in the budget's unit."""
        return max((self.budget.used(use) for use in self.uses), default=Decimal())

    @property
    def used_up(self) -> bool:
        return self.budget.per == "day" and self.budget.hard is not None and self.used >= self.budget.hard


def report(database: Database, since: date, until: date, by: Sequence[Dimension] = ()) -> Report:
    """Add up what was spent on these days and those between.

    A request counts once: with its search, or, by stage or by model, in each that it used.
    """
    rows = spending_between(database, since, until, by)
    once = not {"stage", "model"} & set(by)
    lines = [_line(by, values, group, once=once) for values, group in _grouped(rows).items()]
    if "day" not in by:
        lines.sort(key=lambda line: -line.spent.cost_usd)
    return Report(by=tuple(by), lines=lines, total=_line((), (), rows, once=True))


def standings(database: Database, budgets: Iterable[Budget], day: date, shown: int = SHOWN_USES) -> list[Standing]:
    """Return how much of each budget is used on a day."""
    return [Standing(budget=budget, uses=_uses(database, budget, day, shown)) for budget in budgets]


def _uses(database: Database, budget: Budget, day: date, shown: int) -> list[BudgetUse]:
    if budget.per == "request":
        return []
    return most_used(database, day, budget.name, by_cost=budget.limit == "usd", limit=shown)


def _grouped(rows: Iterable[AddedUp]) -> dict[tuple[Any, ...], list[AddedUp]]:
    groups: dict[tuple[Any, ...], list[AddedUp]] = {}
    for row in rows:
        groups.setdefault(row.values, []).append(row)
    return groups


def _line(by: Sequence[Dimension], values: tuple[Any, ...], rows: Iterable[AddedUp], *, once: bool) -> Line:
    spent = unpriced = Spent()
    for row in rows:
        counted = replace(row.spent, requests=0) if once and row.stage != "search" else row.spent
        spent += counted
        unpriced += Spent() if row.priced else counted
    return Line(values=dict(zip(by, values, strict=True)), spent=spent, unpriced=unpriced)
