"""Budgets: exactly as many pass as may, over threads, servers, restarts and midnight."""

import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

import retrieval
from backends.corpus.spending import OTHER, BudgetKey, DailyLimit, budget_uses, count_request, give_back
from backends.errors import BudgetExceeded, Busy
from ops import costs
from ops.costs.limits import Budget
from ops.costs.purse import DatabasePurse
from ops.costs.recording import SpendingRecorder
from retrieval import attributed
from retrieval.attribution import Tags
from retrieval.config import Settings
from retrieval.costing import Prices
from retrieval.documents import Usage
from retrieval.service.failures import problem_of, respond
from tests.costs.made import answered, collection

SettingsWith = Callable[..., Settings]

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
USD_EACH = Prices(tokens={"*": {"prompt": Decimal(1), "cached_prompt": Decimal(1), "completion": Decimal(1)}})


def budget(**given: object) -> Budget:
    """Return a budget of requests a day for all, unless said otherwise."""
    usual = {"name": "b", "scope": "all", "value": "*", "limit": "requests", "per": "day", "soft": None, "hard": None}
    return Budget(**usual | given)  # type: ignore[arg-type]


def passed(purse: DatabasePurse, requests: int, tags: Tags = Tags()) -> int:  # noqa: B008  # it is frozen
    """Send requests one after the other, and return how many were let in."""
    count = 0
    for _ in range(requests):
        try:
            purse.before(tags, "search")
            count += 1
        except BudgetExceeded:
            pass
    return count


def spend(recorder: SpendingRecorder, usd: int, tags: Tags = Tags()) -> None:  # noqa: B008  # it is frozen
    """Record an answer that cost so many dollars."""
    recorder(answered(USD_EACH, tags, collection(), "m", Usage(prompt_tokens=usd)))


def test_exactly_n_pass_over_threads_and_servers(rag: retrieval.Ragstone) -> None:
    """Of 300 requests that 10 threads send through two servers at once, exactly the 77 of the day's budget pass."""
    with retrieval.open(rag.database.conninfo, settings=rag.settings) as other, ThreadPoolExecutor(10) as pool:
        purses = [DatabasePurse(one.database, [budget(hard=Decimal(77))]) for one in (rag, other)]
        counts = list(pool.map(lambda number: passed(purses[number % 2], 30), range(10)))
    assert sum(counts) == 77
    assert sum(purse.refused().get("b", 0) for purse in purses) == 223


ASKING = """
import sys
import retrieval
from backends.errors import BudgetExceeded
from ops import costs
from retrieval.config import load

settings = load(embedding_model="hashing", budgets=sys.argv[2])
with retrieval.open(sys.argv[1], settings=settings) as rag, costs.running(rag):
    handbook, passed = rag.collection("handbook"), 0
    for _ in range(40):
        try:
            handbook.retrieve("how much leave do I get?")
            passed += 1
        except BudgetExceeded:
            pass
print(passed)
"""


def test_exactly_n_pass_over_processes(rag: retrieval.Ragstone, settings_with: SettingsWith) -> None:
    """Two processes that ask the same corpus at the same time get exactly the day's 50 requests between them."""
    file = settings_with(budgets='[[budgets]]\nname="b"\nscope="all"\nlimit="requests"\nhard=50\n').budgets
    command = [sys.executable, "-c", ASKING, rag.database.conninfo, str(file)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sum(counts) == 50


def test_a_restart_forgets_nothing(rag: retrieval.Ragstone) -> None:
    """What was used before is used after: a server that starts anew lets in only what is left."""
    limits = [budget(hard=Decimal(5)), budget(name="money", limit="usd", hard=Decimal(10))]
    assert passed(DatabasePurse(rag.database, limits), 3) == 3
    spend(SpendingRecorder(rag.database, limits), 4)
    with retrieval.open(rag.database.conninfo, settings=rag.settings) as again:
        assert passed(DatabasePurse(again.database, limits), 9) == 2
        with pytest.raises(BudgetExceeded, match="4 of 10 USD"):
            DatabasePurse(again.database, limits[1:]).afford(Tags(), Decimal(7))


def test_a_new_day_begins_at_midnight_utc(rag: retrieval.Ragstone) -> None:
    """At 00:00 UTC the budget is whole again; until then Retry-After says how long that is."""
    now = [NOON]
    purse = DatabasePurse(rag.database, [budget(hard=Decimal(1))], now=lambda: now[0])
    assert passed(purse, 3) == 1
    with pytest.raises(BudgetExceeded, match=r"1 of 1 requests .* 00:00 UTC") as refused:
        purse.before(Tags(), "generate")
    assert refused.value.retry_after_s == 12 * 3_600
    now[0] = NOON + timedelta(seconds=refused.value.retry_after_s) - timedelta(microseconds=1)
    assert passed(purse, 1) == 0
    now[0] += timedelta(microseconds=1)
    assert passed(purse, 3) == 1


def test_a_request_counts_in_all_of_its_budgets_or_in_none(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """A request that one budget refuses takes nothing from the others."""
    limits = [
        budget(name="a-all", hard=Decimal(100)),
        budget(name="tenant", scope="tenant", hard=Decimal(2)),
        budget(name="z-user", scope="user", hard=Decimal(100)),
    ]
    assert passed(DatabasePurse(rag.database, limits), 10, Tags(tenant="acme", user="ada")) == 2
    assert passed(DatabasePurse(rag.database, limits), 1, Tags(tenant="globex", user="ada")) == 1
    used = sql.execute("SELECT budget, value, requests FROM ragstone.budget_use ORDER BY 1, 2").fetchall()
    assert used == [("a-all", "", 3), ("tenant", "acme", 2), ("tenant", "globex", 1), ("z-user", "ada", 3)]


def test_several_budgets_under_load(rag: retrieval.Ragstone) -> None:
    """Requests of many tenants and users through overlapping budgets at once: each gets its share, none deadlocks."""
    limits = [
        budget(name="user", scope="user", hard=Decimal(40)),
        budget(name="tenant", scope="tenant", hard=Decimal(15)),
        budget(name="all", hard=Decimal(1_000)),
    ]
    purse = DatabasePurse(rag.database, limits)
    everybody = [Tags(tenant=f"t{number % 3}", user=f"u{number % 4}") for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        counts = list(pool.map(lambda tags: passed(purse, 10, tags), everybody))
    assert sum(counts) == 3 * 15


def test_nothing_passes_where_nothing_may(rag: retrieval.Ragstone) -> None:
    """A limit of 0 lets nothing in, the first request included; of money likewise."""
    for unit in ("requests", "usd"):
        purse = DatabasePurse(rag.database, [budget(name=unit, limit=unit, hard=Decimal(0))])
        assert passed(purse, 2) == 0


def test_money_that_is_spent(rag: retrieval.Ragstone) -> None:
    """Requests pass while less than the limit is spent, whoever spent it; what is under way may go beyond it."""
    limits = [budget(limit="usd", scope="tenant", hard=Decimal(10))]
    purse, recorder = DatabasePurse(rag.database, limits), SpendingRecorder(rag.database, limits)
    acme, globex = Tags(tenant="acme"), Tags(tenant="globex")
    spend(recorder, 9, acme)
    assert passed(purse, 2, acme) == 2
    spend(recorder, 3, acme)
    with pytest.raises(BudgetExceeded, match=r"'b' \(tenant 'acme'\): 12 of 10 USD are used today"):
        purse.before(acme, "generate")
    assert passed(purse, 1, globex) == 1


def test_an_answer_that_would_go_beyond_the_days_money_is_not_begun(rag: retrieval.Ragstone) -> None:
    """Before the model is asked, its estimate is compared with what is left."""
    limits = [budget(limit="usd", hard=Decimal(10))]
    spend(SpendingRecorder(rag.database, limits), 6)
    purse = DatabasePurse(rag.database, limits, now=lambda: datetime.now(UTC))
    assert purse.afford(Tags(), Decimal(4)) == []
    with pytest.raises(BudgetExceeded, match=r"6 of 10 USD .*, and the answer may cost 4\.5 USD") as e:
        purse.afford(Tags(), Decimal("4.5"))
    assert 0 < e.value.retry_after_s <= 86_400


def test_one_answer_may_not_cost_too_much(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """A limit per request refuses before the model is asked, and does not say that a retry would help."""
    purse = DatabasePurse(
        rag.database, [budget(limit="usd", per="request", soft=Decimal("0.01"), hard=Decimal("0.05"))]
    )
    assert purse.before(Tags(), "generate").warnings == []
    assert purse.afford(Tags(), Decimal("0.009")) == []
    assert purse.afford(Tags(), Decimal("0.05")) == ["budget 'b': the answer may cost 0.05 USD"]
    with pytest.raises(BudgetExceeded, match=r"may cost 0\.06 USD; needed at most 0\.05 USD") as refused:
        purse.afford(Tags(), Decimal("0.06"))
    response = respond(refused.value)
    assert (response.status_code, "retry-after" in response.headers) == (429, False)
    assert "retry_after_s" not in problem_of(refused.value)
    assert purse.refused() == {"b": 1}


def test_a_daily_limit_is_a_429_with_retry_after(rag: retrieval.Ragstone) -> None:
    """The problem document has the stable code, and Retry-After the seconds until the day ends."""
    purse = DatabasePurse(rag.database, [budget(hard=Decimal(0))], now=lambda: NOON)
    with pytest.raises(Busy) as refused:
        purse.before(Tags(), "search")
    response = respond(refused.value)
    assert (response.status_code, response.headers["retry-after"]) == (429, "43200")
    assert problem_of(refused.value)["code"] == "budget_exceeded"


def test_a_soft_limit_warns(rag: retrieval.Ragstone, caplog: pytest.LogCaptureFixture) -> None:
    """From the soft limit on each response has a warning; the log has one a day and scope, of all servers."""
    now = [NOON]
    limits = [budget(scope="tenant", soft=Decimal(3), hard=Decimal(5))]
    purses = [DatabasePurse(rag.database, limits, now=lambda: now[0]) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "ops.costs"):
        warnings = [purses[number % 2].before(Tags(tenant="acme"), "search").warnings for number in range(5)]
        assert warnings == [[], [], *([f"budget 'b' (tenant 'acme'): {n} of 5 requests are used today"]
                                      for n in (3, 4, 5))]  # fmt: skip
        assert len(caplog.records) == 1
        for _ in range(3):
            purses[0].before(Tags(tenant="globex"), "search")
        now[0] += timedelta(days=1)
        for _ in range(3):
            purses[1].before(Tags(tenant="acme"), "search")
    assert len(caplog.records) == 3
    assert sum(purse.warned()["b"] for purse in purses) == 5


def test_a_soft_limit_of_money_warns(rag: retrieval.Ragstone) -> None:
    """Without a hard limit nothing is refused, and the warning says how much of the soft one is spent."""
    limits = [budget(scope="tenant", limit="usd", soft=Decimal(2))]
    purse, acme = DatabasePurse(rag.database, limits), Tags(tenant="acme")
    assert purse.before(acme, "search").warnings == []
    spend(SpendingRecorder(rag.database, limits), 3, acme)
    assert purse.before(acme, "search").warnings == ["budget 'b' (tenant 'acme'): 3 of 2 USD are used today"]


def test_what_all_spent_is_for_the_log_alone(rag: retrieval.Ragstone, caplog: pytest.LogCaptureFixture) -> None:
    """Callers are warned of everybody's budget without its amounts."""
    limits = [budget(limit="usd", soft=Decimal(2))]
    spend(SpendingRecorder(rag.database, limits), 3)
    with caplog.at_level(logging.WARNING, "ops.costs"):
        warnings = DatabasePurse(rag.database, limits).before(Tags(), "search").warnings
    assert warnings == ["budget 'b': its soft limit of today is reached"]
    assert [record.message for record in caplog.records] == ["budget 'b': 3 of 2 USD are used today"]


def used(sql: psycopg.Connection) -> dict[tuple[str, str], int]:
    """Return how many requests are counted, by budget and day."""
    rows = sql.execute("SELECT budget, day::text, requests FROM ragstone.budget_use").fetchall()
    return {(name, day): requests for name, day, requests in rows}


def test_a_request_that_is_given_back_does_not_count(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """It is taken back once, however often it is given back, from all of its budgets, on the day that it came."""
    now = [NOON]
    limits = [budget(name="a", hard=Decimal(2)), budget(name="z", scope="user", soft=Decimal(1))]
    purse = DatabasePurse(rag.database, limits, now=lambda: now[0])
    first, second = (purse.before(Tags(user="ada"), "generate") for _ in range(2))
    now[0] += timedelta(days=1)
    assert passed(purse, 1, Tags(user="ada")) == 1
    for _ in range(3):
        purse.give_back(first)
    today, tomorrow = "2026-11-28", "2026-11-29"
    assert used(sql) == {("a", today): 1, ("z", today): 1, ("a", tomorrow): 1, ("z", tomorrow): 1}
    now[0] = NOON
    assert passed(purse, 3) == 1
    sql.execute("UPDATE ragstone.budget_use SET requests = 0")
    purse.give_back(second)
    assert set(used(sql).values()) == {0}


def test_what_shares_a_budget_in_the_end_is_given_back_there(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """A request that was counted for "other" is taken back from "other", though its user may be known by then."""
    limits = [DailyLimit(budget="b", value=f"u{user}") for user in range(2)]
    for limit in limits:
        uses = count_request(rag.database, NOON.date(), [limit], values_a_day=1)
        assert uses is not None
    give_back(rag.database, [BudgetKey(NOON.date(), "b", uses[0].value)])
    rows = sql.execute("SELECT value, requests FROM ragstone.budget_use ORDER BY value").fetchall()
    assert rows == [(OTHER, 0), ("u0", 1)]


def test_giving_back_never_fails(
    rag: retrieval.Ragstone, sql: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A request is being refused then: where the corpus is away, that is logged, and the refusal is what is heard."""
    purse = DatabasePurse(rag.database, [budget(hard=Decimal(2))])
    counted = purse.before(Tags(), "generate")
    sql.execute("ALTER TABLE ragstone.budget_use RENAME TO away")
    purse.give_back(counted)
    sql.execute("ALTER TABLE ragstone.away RENAME TO budget_use")
    assert "stays counted" in caplog.text
    purse.give_back(DatabasePurse(rag.database, []).before(Tags(), "generate"))


def test_giving_back_while_others_ask(rag: retrieval.Ragstone) -> None:
    """Requests that come and are given back at once, through overlapping budgets: none deadlocks, none is lost."""
    limits = [budget(name=name, scope=scope, hard=Decimal(1_000)) for name, scope in (("z", "all"), ("a", "user"))]
    purse = DatabasePurse(rag.database, limits)

    def ask(number: int) -> None:
        for _ in range(20):
            counted = purse.before(Tags(user=f"u{number % 2}"), "search")
            purse.give_back(counted)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    day = datetime.now(UTC).date()
    uses = budget_uses(rag.database, day, [DailyLimit(budget="z", value=""), DailyLimit(budget="a", value="u0")])
    assert [use.requests for use in uses.values()] == [0, 0]


def test_made_up_users_share_one_budget_in_the_end(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """Beyond so many values of a budget in a day, all new ones share what one of them may use."""

    def let_in(user: int) -> bool:
        limit = DailyLimit(budget="b", value=f"u{user}", requests_hard=2)
        return count_request(rag.database, NOON.date(), [limit], values_a_day=3) is not None

    assert [let_in(user) for user in range(3)] == [True] * 3
    assert [let_in(user) for user in range(3, 9)] == [True, True, *[False] * 4]
    assert let_in(0)
    used = budget_uses(rag.database, NOON.date(), [DailyLimit(budget="b", value="unheard of")], values_a_day=3)
    assert (used["b"].value, used["b"].requests) == (OTHER, 2)
    assert sql.execute("SELECT count(*) FROM ragstone.budget_use").fetchone() == (4,)


def test_a_refused_request_asks_nobody(rag: retrieval.Ragstone, settings_with: SettingsWith) -> None:
    """Through the library: a request over budget is refused before its query is embedded, and is no request."""
    settings = settings_with(
        budgets='[[budgets]]\nname="b"\nscope="feature"\nvalue="chat"\nlimit="requests"\nsoft=1\nhard=1\n'
    )
    with retrieval.open(rag.database.conninfo, settings=settings) as own, costs.running(own) as running:
        handbook = own.collection("handbook")
        with attributed(feature="chat"):
            assert handbook.retrieve_with_timings("leave").warnings == [
                "budget 'b' (feature 'chat'): 1 of 1 requests are used today"
            ]
            embedded = own.embedder.stats().cache_misses
            for ask in (handbook.retrieve, handbook.generate, lambda query: list(handbook.stream(query))):
                with pytest.raises(BudgetExceeded):
                    ask("another question")
            assert own.embedder.stats().cache_misses == embedded
        handbook.retrieve("leave")
        running.recorder.flush()
        totals = running.recorder.totals()
    assert own.purse is None
    assert sum(spent.requests for subject, spent in totals.items() if subject.stage == "search") == 2


def test_without_budgets_nothing_is_asked(rag: retrieval.Ragstone) -> None:
    """Where no budget is configured there is no purse, and no statement a request."""
    with costs.running(rag) as running:
        assert (rag.purse, running.purse) == (None, None)


def test_a_budget_that_concerns_nobody_asks_nothing(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """A request outside of every scope is neither counted nor refused."""
    purse = DatabasePurse(rag.database, [budget(scope="tenant", value="acme", hard=Decimal(0))])
    assert passed(purse, 3, Tags(tenant="globex")) == 3
    assert sql.execute("SELECT count(*) FROM ragstone.budget_use").fetchone() == (0,)
