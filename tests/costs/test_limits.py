"""The file of budgets: what it may say, and whom a budget concerns."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from backends.errors import InvalidSettings
from ops.costs.limits import Budget, read_budgets
from retrieval.attribution import Tags
from retrieval.config import Settings, load

SettingsWith = Callable[..., Settings]

BUDGETS = """
[[budgets]]
name = "everybody"
scope = "all"
limit = "usd"
soft = 80
hard = "100.50"

[[budgets]]
name = "each-tenant"
scope = "tenant"
limit = "requests"
hard = 1000

[[budgets]]
name = "acme"
scope = "tenant"
value = "acme"
limit = "usd"
per = "request"
hard = 0.05
"""


def test_what_a_file_says(settings_with: SettingsWith) -> None:
    """Each budget has what was said, per day and for each unless said otherwise; amounts are exact."""
    everybody, each, acme = read_budgets(settings_with(budgets=BUDGETS))
    assert (everybody.soft, everybody.hard, everybody.per) == (Decimal(80), Decimal("100.50"), "day")
    assert (each.value, each.soft, each.hard) == ("*", None, Decimal(1000))
    assert (acme.value, acme.per, acme.hard) == ("acme", "request", Decimal("0.05"))
    assert read_budgets(load()) == []


def test_whom_a_budget_concerns(settings_with: SettingsWith) -> None:
    """One of all is one use of all; one of each has a use for each, also for those who do not say who they are."""

    def concerned(budget: Budget) -> list[str | None]:
        return [budget.value_of(tags) for tags in (Tags(), Tags(tenant="acme"), Tags(tenant="globex", user="acme"))]

    everybody, each, acme = read_budgets(settings_with(budgets=BUDGETS))
    assert concerned(everybody) == ["", "", ""]
    assert concerned(each) == ["", "acme", "globex"]
    assert concerned(acme) == [None, "acme", None]


GOOD = {"name": '"b"', "scope": '"all"', "limit": '"usd"', "hard": "1"}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"name": None}, "budgets[0].name"),
        ({"name": '"A b"'}, "budgets[0].name"),
        ({"name": f'"{"n" * 51}"'}, "budgets[0].name"),
        ({"scope": None}, "budgets[0].scope"),
        ({"scope": '"team"'}, "budgets[0].scope"),
        ({"scope": "[1]"}, "budgets[0].scope"),
        ({"limit": '"eur"'}, "budgets[0].limit"),
        ({"per": '"month"'}, "budgets[0].per"),
        ({"limit": '"requests"', "per": '"request"'}, "budgets[0].limit"),
        ({"limit": '"requests"', "hard": "1.5"}, "budgets[0].hard"),
        ({"hard": "-1"}, "budgets[0].hard"),
        ({"hard": "nan"}, "budgets[0].hard"),
        ({"hard": None}, "budgets[0]"),
        ({"soft": "2"}, "budgets[0].soft"),
        ({"value": '"acme"'}, "budgets[0].value"),
        ({"scope": '"user"', "value": '"a\\u0000b"'}, "budgets[0].value"),
        ({"scope": '"user"', "value": "7"}, "budgets[0].value"),
        ({"hrad": "1"}, "budgets[0].hrad"),
    ],
)
def test_a_budget_that_is_wrong_names_the_key(
    settings_with: SettingsWith, changed: dict[str, str | None], field: str
) -> None:
    """What is missing, unknown or out of range is a setting that is wrong, and is named."""
    lines = [f"{key} = {value}" for key, value in (GOOD | changed).items() if value is not None]
    with pytest.raises(InvalidSettings) as refused:
        read_budgets(settings_with(budgets="[[budgets]]\n" + "\n".join(lines)))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("text", "field"), [("budgets = 3", "budgets.budgets"), ("[budget]", "budgets.budget"), ("[[budgets", "budgets")]
)
def test_a_file_that_is_wrong(settings_with: SettingsWith, text: str, field: str) -> None:
    """A file that is no list of budgets is refused."""
    with pytest.raises(InvalidSettings) as refused:
        read_budgets(settings_with(budgets=text))
    assert refused.value.field == field


def test_names_are_distinct(settings_with: SettingsWith) -> None:
    """A name is what a budget is counted under, so there is one of each."""
    twice = '[[budgets]]\nname = "b"\nscope = "all"\nlimit = "usd"\nhard = 1\n' * 2
    with pytest.raises(InvalidSettings) as refused:
        read_budgets(settings_with(budgets=twice))
    assert refused.value.field == "budgets[1].name"
