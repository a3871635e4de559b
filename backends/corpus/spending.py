"""What was spent and by whom, and what is used of budgets, as the corpus keeps it: by day, in UTC."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple, get_args

import psycopg

from backends.corpus.database import Connection, Database
from backends.corpus.queries import query
from backends.errors import CorpusUnavailable

ROWS_A_DAY = 100_000
"""Beyond about so many rows, and so many values of one budget, what is new in a day is kept for OTHER together."""
OTHER = "other"
KEPT = timedelta(days=400)
FORGOTTEN_AT_ONCE = 10_000
STATEMENT_LIMIT_MS = 5_000
GIVE_UP_S = 2.0
"""How long what an answer's end waits for may wait for a connection, and each of its statements may take."""
TABLES = ("ragstone.spending", "ragstone.budget_use")

Dimension = Literal["day", "tenant", "user", "feature", "collection", "stage", "model"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
_COLUMNS = {dimension: f'"{dimension}"' for dimension in DIMENSIONS}


class SpendingKey(NamedTuple):
    """What is added up apart. `priced` says whether all that was used had a price."""

    day: date
    tenant: str
    user: str
    feature: str
    collection: str
    stage: str
    model: str
    priced: bool

    @property
    def as_other(self) -> "SpendingKey":
        """The row that this goes to where there are too many."""
        return self._replace(tenant=OTHER, user=OTHER, feature=OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What requests used, and what it cost as far as it has a price. `prompt_tokens` are without the cached ones."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    vectors: int = 0
    gpu_s: Decimal = Decimal()
    cost_usd: Decimal = Decimal()

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})


Spending = Mapping[SpendingKey, Spent]


class AddedUp(NamedTuple):
    """What was spent by one value of each dimension that was asked for, in one stage, with or without a price."""

    values: tuple[Any, ...]
    stage: str
    priced: bool
    spent: Spent


class BudgetKey(NamedTuple):
    """A budget on a day, and whose use of it; `value` is empty where it is everybody's."""

    day: date
    budget: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyLimit:
    """What a request has to pass: a budget, whose use is counted, and where it ends, if it does."""

    budget: str
    value: str
    requests_hard: int | None = None
    usd_hard: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """What was used of a budget in a day. `warned` says that the log has the day's warning."""

    budget: str
    value: str
    requests: int
    cost_usd: Decimal
    warned: bool


def add_spending(
    database: Database, spending: Spending, budgets: Mapping[BudgetKey, Decimal], rows_a_day: int = ROWS_A_DAY
) -> None:
    """Add what was used, and to each budget what it cost: all of it, or nothing. Gives up soon: CorpusUnavailable."""
    with _giving_up(), database.transaction(wait_s=GIVE_UP_S) as connection:
        connection.execute(query("spending", "give_up_soon", most_ms=str(round(GIVE_UP_S * 1_000))))
        if spending:
            bounded = _bounded(connection, spending, rows_a_day)
            connection.execute(query("spending", "add"), _key_columns(bounded) | _spent_columns(bounded))
        if budgets:
            values = _budget_columns(budgets) | {"cost_usd": list(budgets.values())}
            connection.execute(_counting("charge", day="given.day"), values | _bounds(rows_a_day))


def spending_between(database: Database, since: date, until: date, by: Sequence[Dimension]) -> list[AddedUp]:
    """Return what was spent on these days and those between, in the order of the dimensions."""
    keys = "".join(f"{_COLUMNS[dimension]}, " for dimension in by)
    with database.connection() as connection:
        rows = connection.execute(query("spending", "added_up", keys=keys), {"since": since, "until": until})
        return [_added_up(row, len(by)) for row in rows]


def count_request(
    database: Database, day: date, limits: Sequence[DailyLimit], values_a_day: int = ROWS_A_DAY
) -> list[BudgetUse] | None:
    """Count a request in all of its budgets, and return their use with it; None where one is used up: in none then."""
    values = _limit_columns(day, limits, values_a_day)
    with database.transaction() as connection:
        connection.execute(query("spending", "commit_soon"))
        uses = _uses(connection.execute(_counting("count_request"), values))
        if len(uses) < len(limits):
            raise psycopg.Rollback
        return uses
    return None


def give_back(database: Database, keys: Sequence[BudgetKey]) -> None:
    """Take a request back from the uses that it was counted in."""
    with database.transaction(wait_s=GIVE_UP_S) as connection:
        connection.execute(query("spending", "commit_soon"))
        connection.execute(query("spending", "give_back"), _budget_columns(keys))


def budget_uses(
    database: Database, day: date, limits: Sequence[DailyLimit], values_a_day: int = ROWS_A_DAY
) -> dict[str, BudgetUse]:
    """Return what is used of budgets, by their names."""
    with database.connection() as connection:
        values = _limit_columns(day, limits, values_a_day)
        return {use.budget: use for use in _uses(connection.execute(_counting("budget_uses"), values))}


def most_used(database: Database, day: date, budget: str, *, by_cost: bool, limit: int) -> list[BudgetUse]:
    """Return who used most of a budget on a day, the greatest first."""
    values = {"day": day, "budget": budget, "by_cost": by_cost, "limit": limit}
    with database.connection() as connection:
        return _uses(connection.execute(query("spending", "most_used"), values))


def mark_warned(database: Database, key: BudgetKey, values_a_day: int = ROWS_A_DAY) -> bool:
    """Remember that this is warned of; False where somebody did before."""
    with database.connection() as connection:
        values = key._asdict() | _bounds(values_a_day)
        return connection.execute(_counting("mark_warned"), values).fetchone() is not None


def forget_spending(database: Database, today: date) -> bool:
    """Forget some of what is older than KEPT: one bounded step; False where there is nothing left to forget."""
    values = {"day": today - KEPT, "most": FORGOTTEN_AT_ONCE}
    with database.connection({"statement_timeout": str(STATEMENT_LIMIT_MS)}) as connection:
        done = [connection.execute(query("spending", "forget", table=table), values).rowcount for table in TABLES]
    return any(done)


@contextmanager
def _giving_up() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise CorpusUnavailable(f"PostgreSQL did not take it within {GIVE_UP_S:g} s") from error


def _bounded(connection: Connection, spending: Spending, rows_a_day: int) -> dict[SpendingKey, Spent]:
    """Put what would make too many rows of a day together."""
    keys = list(spending)
    numbers = connection.execute(query("spending", "unknown"), _key_columns(keys)).fetchall()
    new = [keys[number - 1] for (number,) in numbers]
    room = {day: rows_a_day - _rows_of(connection, day, rows_a_day) for day in {key.day for key in new}}
    surplus = set()
    for key in new:
        if room[key.day] <= 0:
            surplus.add(key)
        room[key.day] -= 1
    bounded: dict[SpendingKey, Spent] = {}
    for key, spent in spending.items():
        add_to(bounded, key.as_other if key in surplus else key, spent)
    return bounded


def add_to(spending: dict[SpendingKey, Spent], key: SpendingKey, spent: Spent) -> None:
    """Add what was spent under a key."""
    before = spending.get(key)
    spending[key] = spent if before is None else before + spent


def _rows_of(connection: Connection, day: date, most: int) -> int:
    row = connection.execute(query("spending", "rows_of_day"), {"day": day, "most": most}).fetchone()
    assert row is not None
    return int(row[0])


def _added_up(row: Sequence[Any], dimensions: int) -> AddedUp:
    values, (stage, priced, *figures) = tuple(row[:dimensions]), row[dimensions:]
    return AddedUp(values, stage, priced, Spent(**dict(zip(Spent.__slots__, figures, strict=True))))


def _key_columns(keys: Iterable[SpendingKey]) -> dict[str, Any]:
    return {name: list(column) for name, column in zip(SpendingKey._fields, zip(*keys, strict=True), strict=True)}


def _spent_columns(spending: Spending) -> dict[str, Any]:
    return {name: [getattr(spent, name) for spent in spending.values()] for name in Spent.__slots__}


def _budget_columns(keys: Iterable[BudgetKey]) -> dict[str, Any]:
    return {name: [getattr(key, name) for key in keys] for name in BudgetKey._fields}


def _limit_columns(day: date, limits: Sequence[DailyLimit], values_a_day: int) -> dict[str, Any]:
    columns: dict[str, Any] = {name: [getattr(limit, name) for limit in limits] for name in DailyLimit.__slots__}
    return columns | {"day": day} | _bounds(values_a_day)


def _bounds(most: int) -> dict[str, Any]:
    return {"most": most, "other": OTHER}


def _counting(name: str, day: str = "%(day)s") -> str:
    """A query that says whose use it counts."""
    return query("spending", name, counted_value=query("spending", "counted_value", day=day))


def _uses(rows: Iterable[Sequence[Any]]) -> list[BudgetUse]:
    return [BudgetUse(**dict(zip(BudgetUse.__slots__, row, strict=True))) for row in rows]
