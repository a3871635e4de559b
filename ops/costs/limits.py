"""What may be spent, by whom, as the setting `budgets` says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from backends.corpus.spending import BudgetUse
from backends.errors import InvalidInput, InvalidSettings
from ops.costs.showing import dollars
from retrieval.attribution import Tags, check_tag
from retrieval.config import Settings
from retrieval.settings_files import amount, one_of, read_settings_file, shown, table

Scope = Literal["all", "tenant", "user", "feature"]
Unit = Literal["requests", "usd"]
Per = Literal["day", "request"]

EACH = "*"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
_KEYS = ("name", "scope", "value", "limit", "per", "soft", "hard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit of what a scope may use: from `soft` on there are warnings, beyond `hard` nothing more is let in.

    `value` is the tenant, user or feature that it holds for; EACH where it holds for each of them by itself.
    """

    name: str
    scope: Scope
    value: str
    limit: Unit
    per: Per
    soft: Decimal | None
    hard: Decimal | None

    def value_of(self, tags: Tags) -> str | None:
        """Return whose use a request is, "" for everybody's; None where the budget does not concern it."""
        if self.scope == "all":
            return ""
        found: str = getattr(tags, self.scope)
        return found if self.value in (EACH, found) else None

    def used(self, use: BudgetUse) -> Decimal:
        """Return how much of it is used, in its own unit."""
        return use.cost_usd if self.limit == "usd" else Decimal(use.requests)

    def of(self, value: str) -> str:
        """Name the budget, and whose use of it, as people read it."""
        return f"budget {self.name!r}" + ("" if self.scope == "all" else f" ({self.scope} {value!r})")

    def said(self, amount: Decimal) -> str:
        """Return an amount of it as people read it."""
        return f"{self._figure(amount)} {self._unit}"

    def said_of(self, used: Decimal) -> str:
        """Return what is used of how much: up to `hard`, or up to `soft` where nothing is refused."""
        least = self.soft if self.hard is None else self.hard
        assert least is not None
        return f"{self._figure(used)} of {self.said(least)}"

    @property
    def _unit(self) -> str:
        return "USD" if self.limit == "usd" else "requests"

    def _figure(self, amount: Decimal) -> str:
        return dollars(amount) if self.limit == "usd" else f"{amount:,f}"


def read_budgets(settings: Settings) -> list[Budget]:
    """Read the file that the setting names; none where there is none. Raises InvalidSettings naming the key."""
    if settings.budgets is None:
        return []
    found = table(read_settings_file("budgets", settings.budgets), "budgets", ("budgets",)).get("budgets", [])
    if not isinstance(found, list):
        raise InvalidSettings("budgets.budgets", f"found {shown(found)}; needed a list of budgets")
    budgets = [_budget(one, f"budgets[{number}]") for number, one in enumerate(found)]
    _check_distinct([budget.name for budget in budgets])
    return budgets


def _budget(found: object, where: str) -> Budget:
    given = table(found, where, _KEYS)
    scope: Scope = one_of(given.get("scope"), f"{where}.scope", get_args(Scope))
    limit: Unit = one_of(given.get("limit"), f"{where}.limit", get_args(Unit))
    per: Per = one_of(given.get("per", "day"), f"{where}.per", get_args(Per))
    if (limit, per) == ("requests", "request"):
        raise InvalidSettings(f"{where}.limit", "found requests per request; needed usd, or requests per day")
    soft, hard = (_limit(given, where, key, limit) for key in ("soft", "hard"))
    if soft is None and hard is None:
        raise InvalidSettings(where, "found neither soft nor hard; needed one of them, or both")
    if soft is not None and hard is not None and soft > hard:
        raise InvalidSettings(f"{where}.soft", f"found {soft}, which is more than hard, {hard}")
    name, value = _name(given.get("name"), f"{where}.name"), _value(given, scope, where)
    return Budget(name=name, scope=scope, value=value, limit=limit, per=per, soft=soft, hard=hard)


def _name(found: object, where: str) -> str:
    if isinstance(found, str) and _NAME.fullmatch(found):
        return found
    needed = "1 to 50 of the characters a-z 0-9 - _, beginning with a letter or a digit"
    raise InvalidSettings(where, f"found {shown(found)}; needed {needed}")


def _value(given: dict[str, Any], scope: Scope, where: str) -> str:
    if scope == "all":
        if "value" in given:
            raise InvalidSettings(f"{where}.value", "found one, and the scope is all; needed none")
        return EACH
    try:
        return check_tag(given.get("value", EACH), f"{where}.value")
    except InvalidInput as error:
        raise InvalidSettings(error.field, error.problem) from error


def _limit(given: dict[str, Any], where: str, key: str, unit: Unit) -> Decimal | None:
    if key not in given:
        return None
    found = amount(given[key], f"{where}.{key}")
    if unit == "requests" and found != int(found):
        raise InvalidSettings(f"{where}.{key}", f"found {found}; needed a whole number of requests")
    return found


def _check_distinct(names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidSettings(f"budgets[{number}].name", f"found {name!r} a second time; needed another")
