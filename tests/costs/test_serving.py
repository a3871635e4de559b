"""`ragstone serve` charges what it answers, also where it is killed, and the page on costs says what is so."""

import re
import signal
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import httpx
import psycopg

import retrieval
from ops.costs.limits import read_budgets
from retrieval.config import Settings
from retrieval.costing import Prices
from tests.acceptance.command import Ragstone

SettingsWith = Callable[..., Settings]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "costs.md"
TAGS = {"X-Ragstone-Tenant": "acme", "X-Ragstone-User": "ada", "X-Ragstone-Feature": "chat"}


def test_a_server_that_is_killed_loses_no_answer(
    rag: retrieval.Ragstone, sql: psycopg.Connection, settings_with: SettingsWith
) -> None:
    """After SIGKILL the corpus has every answer that a client has, under its tags, at the cost that it was told."""
    settings = settings_with(prices='gpu_second = "0.001"\n[vectors]\npgvector = 500\n')
    costs: list[dict[str, float]] = []
    with Ragstone(rag.database.conninfo, {"RAGSTONE_PRICES": str(settings.prices)}).serving() as server:
        for number in range(3):
            body = {"query": f"how many days of leave? {number}"}
            response = httpx.post(f"{server.url}/v1/collections/handbook/generate", json=body, headers=TAGS)
            costs.append(response.raise_for_status().json()["cost"])
        server.stop(signal.SIGKILL)
    assert [cost["total_usd"] > 0.0005 and not cost["unpriced"] for cost in costs] == [True] * 3
    recorded = sql.execute(
        'SELECT stage, tenant, "user", feature, requests, cost_usd FROM ragstone.spending ORDER BY stage'
    ).fetchall()
    assert [row[:5] for row in recorded] == [
        (stage, "acme", "ada", "chat", 3) for stage in ("embed", "generate", "search")
    ]
    told = sum(Decimal(str(cost["total_usd"])) for cost in costs)
    assert sum(row[5] for row in recorded) == told


def test_two_servers_share_a_daily_budget(rag: retrieval.Ragstone, settings_with: SettingsWith) -> None:
    """Two servers let exactly the day's requests through between them, with a warning in what comes near the end."""
    settings = settings_with(
        budgets='[[budgets]]\nname = "b"\nscope = "tenant"\nlimit = "requests"\nsoft = 7\nhard = 8\n'
    )
    command = Ragstone(rag.database.conninfo, {"RAGSTONE_BUDGETS": str(settings.budgets)})
    with command.serving() as one, command.serving() as other:
        answers = [
            httpx.post(f"{server.url}/v1/collections/handbook/generate", json={"query": "leave"}, headers=TAGS)
            for _ in range(6)
            for server in (one, other)
        ]
    assert [answer.status_code for answer in answers] == [200] * 8 + [429] * 4
    warned = [answer.json()["warnings"] for answer in answers[:8]]
    assert [bool(warnings) for warnings in warned] == [False] * 6 + [True] * 2


def test_the_examples_of_the_page_can_be_used(settings_with: SettingsWith) -> None:
    """Both files that docs/costs.md shows are read as they stand there."""
    prices, budgets = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    table = Prices.from_settings(settings_with(prices=prices))
    assert table.models == {"Qwen/Qwen3-8B", "text-embedding-3-small"}
    assert [budget.name for budget in read_budgets(settings_with(budgets=budgets))] == [
        "everybody", "each-user", "acme-answer",
    ]  # fmt: skip
