"""`ragstone cost`, as people and scripts see it."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

import retrieval
from backends.corpus.spending import BudgetKey, SpendingKey, Spent, add_spending
from ops.cli.app import run
from ops.costs.clock import utc_now
from retrieval.config import Settings
from tests.acceptance.command import Ragstone

SettingsWith = Callable[..., Settings]

BUDGETS = """
[[budgets]]
name = "all-day"
scope = "all"
limit = "usd"
soft = 1
hard = "2.50"

[[budgets]]
name = "tenant-day"
scope = "tenant"
limit = "requests"
hard = 4

[[budgets]]
name = "one-answer"
scope = "user"
value = "ada"
limit = "usd"
per = "request"
hard = 0.05
"""


@pytest.fixture
def today() -> date:
    return utc_now().date()


def spend(
    rag: retrieval.Ragstone, day: date, tenant: str, stage: str, model: str, *, priced: bool = True, **used: Any
) -> None:
    """Put what was spent into the corpus."""
    key = SpendingKey(day, tenant, "ada", "chat", "handbook", stage, model, priced)
    add_spending(rag.database, {key: Spent(**used)}, {})


@pytest.fixture
def spent(rag: retrieval.Ragstone, today: date) -> retrieval.Ragstone:
    """Two tenants' spending of two days, some of it without a price."""
    yesterday = today - timedelta(days=1)
    spend(rag, yesterday, "acme", "search", "pgvector", requests=3, vectors=3_000, cost_usd=Decimal("0.003"))
    spend(rag, yesterday, "acme", "generate", "small", requests=2, prompt_tokens=1_200, cached_tokens=50,
          completion_tokens=300, cost_usd=Decimal("1.25"))  # fmt: skip
    spend(rag, today, "globex", "search", "faiss", requests=1, priced=False, vectors=9_000)
    spend(rag, today, "globex", "embed", "hashing", requests=1, gpu_s=Decimal("0.25"), cost_usd=Decimal("0.000175"))
    return rag


def cost(rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], *options: str, status: int = 0) -> str:
    """Return what the command prints."""
    assert run(["--data", rag.database.conninfo, "cost", *options]) == status
    return capsys.readouterr().out


def test_the_table(spent: retrieval.Ragstone, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each value, dearest first, a total, and in plain words what has no price."""
    lines = [line.split() for line in cost(spent, capsys, "report", "--by", "tenant").splitlines()]
    assert lines[0][:6] == ["tenant", "requests", "prompt", "cached", "completion", "USD"]
    assert lines[1] == ["acme", "3", "1,200", "50", "300", "1.253", "-"]
    assert lines[2] == ["globex", "1", "0", "0", "0", "0.000175", "9,000", "vectors"]
    assert lines[3] == ["total", "4", "1,200", "50", "300", "1.253175", "9,000", "vectors"]
    assert "Nothing has a price: the setting prices (RAGSTONE_PRICES)" in " ".join(lines[5])


def test_the_document(spent: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], today: date) -> None:
    """--json has every figure, by several dimensions at once; the days asked for bound it."""
    found = json.loads(cost(spent, capsys, "report", "--json", "--by", "stage,tenant", "--by", "day"))
    assert found["by"] == ["day", "tenant", "stage"]
    assert [(line["day"], line["tenant"], line["stage"], line["requests"]) for line in found["lines"]] == [
        (str(today - timedelta(days=1)), "acme", "generate", 2),
        (str(today - timedelta(days=1)), "acme", "search", 3),
        (str(today), "globex", "embed", 1),
        (str(today), "globex", "search", 1),
    ]
    assert found["lines"][3]["unpriced"]["vectors"] == found["lines"][3]["vectors"] == 9_000
    assert found["total"]["cost_usd"] == 1.253175
    only_today = json.loads(cost(spent, capsys, "report", "--json", "--since", f"{today}"))
    assert (only_today["total"]["requests"], only_today["total"]["gpu_s"]) == (1, 0.25)
    until = json.loads(cost(spent, capsys, "report", "--json", "--until", f"{today - timedelta(days=1)}"))
    assert until["total"]["cost_usd"] == 1.253


def test_figures_are_whole_on_a_narrow_screen(
    rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, today: date
) -> None:
    """At 80 columns no figure and no word is broken or cut, and what nobody used has no column."""
    monkeypatch.setenv("COLUMNS", "80")
    spend(rag, today, "acme", "generate", "tiny", requests=12_345, prompt_tokens=123_456_789,
          completion_tokens=98_765_432, cost_usd=Decimal("0.0000001"))  # fmt: skip
    spend(rag, today, "acme", "search", "pgvector", requests=1, vectors=3_000, priced=False)
    lines = cost(rag, capsys, "report", "--by", "tenant,stage,model").splitlines()
    assert max(map(len, lines)) <= 80
    assert "cached" not in " ".join(lines)
    figures = [line.split() for line in lines if "acme" in line]
    assert figures == [
        ["acme", "generate", "tiny", "12,345", "123,456,789", "98,765,432", "<0.000001", "-"],
        ["acme", "search", "pgvector", "1", "0", "0", "0", "3,000", "vectors"],
    ]


def test_nothing_recorded(rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a record the command says so, and how to get one; budgets likewise."""
    assert "Nothing was recorded" in cost(rag, capsys, "report")
    assert json.loads(cost(rag, capsys, "report", "--json"))["lines"] == []
    assert "no budgets" in cost(rag, capsys, "budgets")


def test_long_reports_are_cut_for_people(
    rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], today: date
) -> None:
    """The table has the fifty dearest lines, and says how many more there are."""
    for number in range(60):
        spend(rag, today, f"tenant {number}", "search", "faiss", requests=1, cost_usd=Decimal(number))
    shown = cost(rag, capsys, "report", "--by", "tenant")
    assert "tenant 59" in shown.splitlines()[1]
    assert "10 more lines" in shown


def test_what_comes_from_callers_cannot_steer_the_terminal(
    rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], today: date
) -> None:
    """Whatever stands in the table is shown without control characters and without markup."""
    spend(rag, today, "\x1b[31m[bold]red", "search", "faiss", requests=1)
    shown = cost(rag, capsys, "report", "--by", "tenant")
    assert "\x1b" not in shown
    assert "[bold]red" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--by", "team"], "--by"),
        (["--by", "tenant,"], "--by"),
        (["--since", "yesterday"], "--since"),
        (["--until", "2026-13-01"], "--until"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], "--since"),
    ],
)
def test_wrong_usage(
    rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    """What is no dimension, and what is no day, is refused by name with status 2."""
    assert run(["--data", rag.database.conninfo, "cost", "report", *options]) == 2
    assert says in capsys.readouterr().err


def test_budgets(
    rag: retrieval.Ragstone,
    capsys: pytest.CaptureFixture[str],
    settings_with: SettingsWith,
    monkeypatch: pytest.MonkeyPatch,
    today: date,
) -> None:
    """How much of each budget is used today, by whom most; status 1 as soon as one is used up."""
    monkeypatch.setenv("RAGSTONE_BUDGETS", str(settings_with(budgets=BUDGETS).budgets))
    add_spending(rag.database, {}, {BudgetKey(today, "all-day", ""): Decimal("1.75")})
    lines = [" ".join(line.split()) for line in cost(rag, capsys, "budgets").splitlines()]
    assert lines == [
        "budget of used today soft hard",
        "all-day all 1.75 USD 1 USD 2.5 USD",
        "tenant-day each tenant 0 requests - 4 requests",
        "one-answer user ada each request - 0.05 USD",
    ]
    add_spending(rag.database, {}, {BudgetKey(today, "all-day", ""): Decimal("0.75")})
    found = json.loads(cost(rag, capsys, "budgets", "--json", status=1))["budgets"]
    assert [one["used_up"] for one in found] == [True, False, False]
    assert found[0]["uses"] == [{"value": "", "used": 2.5, "warned": False}]


def test_budgets_that_are_wrong(
    rag: retrieval.Ragstone,
    capsys: pytest.CaptureFixture[str],
    settings_with: SettingsWith,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file of budgets that cannot be used ends the command with status 2, and names the key."""
    monkeypatch.setenv("RAGSTONE_BUDGETS", str(settings_with(budgets='[[budgets]]\nname="B"\n').budgets))
    assert run(["--data", rag.database.conninfo, "cost", "budgets"]) == 2
    assert "budgets[0]" in capsys.readouterr().err


def test_a_variable_that_is_empty_names_no_file(
    rag: retrieval.Ragstone, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`RAGSTONE_BUDGETS= ragstone ...` is to have none; of prices likewise."""
    for name in ("BUDGETS", "PRICES"):
        monkeypatch.setenv(f"RAGSTONE_{name}", "")
    assert "no budgets" in cost(rag, capsys, "budgets")


def test_what_commands_ask_is_recorded(rag: retrieval.Ragstone, settings_with: SettingsWith) -> None:
    """`ragstone ask` and `retrieve` are charged and limited like any other request."""
    settings = settings_with(
        prices="gpu_second = 1\n[vectors]\npgvector = 1000000\n",
        budgets='[[budgets]]\nname="b"\nscope="all"\nlimit="requests"\nsoft=2\nhard=2\n',
    )
    files = {"RAGSTONE_PRICES": str(settings.prices), "RAGSTONE_BUDGETS": str(settings.budgets)}
    command = Ragstone(rag.database.conninfo, files)
    answer = command("ask", "handbook", "how much leave?", "--json").json
    assert (answer["cost"]["by_stage"]["search"], answer["warnings"]) == (1, [])
    found = command("retrieve", "handbook", "leave")
    assert found.status == 0
    assert found.err.endswith("Warning: budget 'b': its soft limit of today is reached\n")
    refused = command("ask", "handbook", "how much leave?", "--json")
    assert (refused.status, refused.json["error"]["code"]) == (3, "budget_exceeded")
    total = command("cost", "report", "--json").json["total"]
    assert (total["requests"], total["vectors"]) == (2, 2)
    assert 2 < total["cost_usd"] < 3
    assert command("cost", "budgets").status == 1
