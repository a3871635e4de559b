"""What Prometheus sees of costs: bounded labels, the figures of this process, and how much of the budgets is used."""

from collections.abc import Callable

import httpx
import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import ops.generation
import retrieval
from backends.errors import BudgetExceeded
from ops import costs
from ops.cost_metrics import CostMetrics
from ops.costs import Costs
from retrieval.attribution import Tags
from retrieval.config import Settings
from retrieval.documents import Usage
from retrieval.service import create_app
from tests.costs.made import answered, collection, searched
from tests.service.serving import served

SettingsWith = Callable[..., Settings]

PRICES = '[tokens.small]\nprompt = 1\ncached_prompt = "0.5"\ncompletion = 2\n[vectors]\npgvector = "0.1"\n'
BUDGETS = """
[[budgets]]
name = "all-day"
scope = "all"
limit = "usd"
soft = 0.5
hard = 4

[[budgets]]
name = "each-user"
scope = "user"
limit = "requests"
hard = 2
"""


def scraped(rag: retrieval.Ragstone, running: Costs) -> dict[str, Metric]:
    """Return what Prometheus reads, by the name of the family."""
    registry = CollectorRegistry()
    registry.register(CostMetrics(rag, running))
    text = generate_latest(registry).decode()
    assert "secret" not in text
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    """Return the family's samples by the values of their labels, in the order of the labels' names."""
    return {tuple(sample.labels[name] for name in sorted(sample.labels)): sample.value
            for sample in family.samples if not sample.name.endswith("_created")}  # fmt: skip


@pytest.fixture
def own(rag: retrieval.Ragstone, settings_with: SettingsWith) -> retrieval.Ragstone:
    """The corpus with prices and budgets."""
    settings = settings_with(prices=PRICES, budgets=BUDGETS, generator_model="configured")
    with retrieval.open(rag.database.conninfo, settings=settings) as opened:
        yield opened


def test_spending_by_stage_and_model(own: retrieval.Ragstone) -> None:
    """Dollars by stage and model, tokens by kind; models beyond the first twenty are one, and no tag is a label."""
    with costs.running(own) as running:
        tags = Tags(tenant="secret tenant", user="secret user", feature="secret feature")
        state = collection("secret collection", chunks=1_000_000)
        running.recorder(searched(own.prices, tags, state))
        usage = Usage(prompt_tokens=3_000_000, cached_tokens=1_000_000, completion_tokens=500_000)
        for model in ("small", "configured", *(f"model {number}" for number in range(100))):
            running.recorder(answered(own.prices, tags, state, model, usage))
        found = scraped(own, running)
    usd = values(found["ragstone_cost_usd"])
    named = {("configured", "generate"): 0, **{(f"model {number}", "generate"): 0 for number in range(18)}}
    assert usd == {
        ("pgvector", "search"): 0.1, ("hashing", "embed"): 0, ("small", "generate"): 3.5, ("other", "generate"): 0,
    } | named  # fmt: skip
    tokens = values(found["ragstone_cost_tokens"])
    assert tokens[("prompt", "small")] == 2_000_000
    assert tokens[("cached_prompt", "small")] == 1_000_000
    assert tokens[("completion", "other")] == 41_000_000
    unpriced = values(found["ragstone_cost_unpriced_requests"])
    assert unpriced == {("hashing", "embed"): 1, ("other", "generate"): 82, **dict.fromkeys(named, 1)}


def test_a_model_is_called_as_the_metrics_of_generation_call_it(own: retrieval.Ragstone) -> None:
    """The same name for a model that no setting names, for one too many, and for one without a name."""
    with ops.generation.running(own) as telemetry, costs.running(own) as running:
        for model in ("tiny", "", *(f"model {number}" for number in range(30))):
            own.observers.tell(answered(own.prices, Tags(), collection(), model, Usage(prompt_tokens=1)))
        families = [family for family in telemetry.answers.collect() if family.name.endswith("_answers")]
        theirs = {sample.labels["model"] for family in families for sample in family.samples}
        ours = {model for model, _ in values(scraped(own, running)["ragstone_cost_usd"])}
    assert ours == theirs == {"tiny", "unknown", "other", *(f"model {number}" for number in range(18))}


def test_budgets_by_name(own: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """The share that is used, of each by who used most of it; what was refused and warned of; names, and no values."""
    with costs.running(own) as running:
        assert own.purse is not None
        assert values(scraped(own, running)["ragstone_budget_refused"]) == {("all-day",): 0, ("each-user",): 0}
        running.recorder(answered(own.prices, Tags(), collection(), "small", Usage(prompt_tokens=1_000_000)))
        for user in ("secret a", "secret a", "secret b"):
            own.purse.before(Tags(user=user), "search")
        with pytest.raises(BudgetExceeded):
            own.purse.before(Tags(user="secret a"), "search")
        found = scraped(own, running)
    assert values(found["ragstone_budget_used_ratio"]) == {("all-day",): 0.25, ("each-user",): 1.0}
    assert values(found["ragstone_budget_refused"]) == {("all-day",): 0, ("each-user",): 1}
    assert values(found["ragstone_budget_warned"]) == {("all-day",): 3, ("each-user",): 0}


def test_without_budgets_there_are_no_metrics_of_them(rag: retrieval.Ragstone) -> None:
    """A service without budgets shows what was spent alone."""
    with costs.running(rag) as running:
        assert not any("budget" in name for name in scraped(rag, running))


def test_a_service_charges_whom_the_headers_name(own: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """Over HTTP: each request is recorded under its headers, limited by them, and /metrics has none of them."""
    with costs.running(own) as running, served(create_app(own, collectors=[CostMetrics(own, running)])) as url:

        def ask(user: str) -> httpx.Response:
            headers = {"X-Ragstone-Tenant": "secret tenant", "x-ragstone-user": user, "X-Ragstone-Feature": "chat"}
            return httpx.post(f"{url}/v1/collections/handbook/retrieve", json={"query": "leave"}, headers=headers)

        assert [ask(user).status_code for user in ("ada", "ada", "bob", "ada")] == [200, 200, 200, 429]
        problem = ask("ada")
        text = httpx.get(f"{url}/metrics").text
    assert problem.json()["code"] == "budget_exceeded"
    assert "'each-user' (user 'ada'): 2 of 2 requests" in problem.json()["detail"]
    assert 0 < int(problem.headers["retry-after"]) <= 86_400
    assert 'ragstone_budget_refused_total{budget="each-user"} 2.0' in text
    assert "secret tenant" not in text
    recorded = sql.execute(
        'SELECT tenant, "user", feature, requests FROM ragstone.spending WHERE stage = %s ORDER BY 2', ["search"]
    ).fetchall()
    assert recorded == [("secret tenant", "ada", "chat", 2), ("secret tenant", "bob", "chat", 1)]
