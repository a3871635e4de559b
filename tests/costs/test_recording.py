"""What requests used is in the corpus: every unit of it, once, by whom it was for."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

import retrieval
from backends.corpus.spending import (
    DIMENSIONS,
    KEPT,
    OTHER,
    BudgetKey,
    Dimension,
    SpendingKey,
    Spent,
    add_spending,
    forget_spending,
    spending_between,
)
from backends.errors import CorpusUnavailable
from ops import costs
from ops.costs.limits import read_budgets
from ops.costs.recording import SpendingRecorder
from ops.costs.report import report
from retrieval import attributed
from retrieval.attribution import Tags
from retrieval.config import Settings
from retrieval.costing import NO_COST, Prices
from retrieval.documents import Usage
from tests.costs.made import answered, collection, searched

SettingsWith = Callable[..., Settings]

TODAY = date(2026, 11, 28)
PRICES = Prices(
    tokens={
        "small": {"prompt": Decimal("1e-7"), "cached_prompt": Decimal("2.5e-8"), "completion": Decimal("3e-7")},
        "large": {"prompt": Decimal("1.25e-6"), "cached_prompt": Decimal("1e-7"), "completion": Decimal("1e-5")},
    },
    vectors={"pgvector": Decimal("1e-10"), "faiss": Decimal("3e-11")},
    gpu_s=Decimal("0.0007"),
    embedding_model="hashing",
)


def noon(day: date = TODAY) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def all_of(rag: retrieval.Ragstone, *by: Dimension) -> dict[tuple[object, ...], Spent]:
    """Return everything that was ever spent, by some of the dimensions."""
    found: dict[tuple[object, ...], Spent] = {}
    for row in spending_between(rag.database, date(2000, 1, 1), date(2100, 1, 1), by):
        found[row.values] = found.get(row.values, Spent()) + row.spent
    return found


def test_sums_equal_use_times_prices(rag: retrieval.Ragstone) -> None:
    """Of 1,000 requests with random tags, the sums by each dimension are what they used times the prices, exactly."""
    draw = random.Random(20261128)
    days: list[date] = []
    recorder = SpendingRecorder(rag.database, now=lambda: noon(days[-1]))
    expected: dict[Dimension, dict[object, Decimal]] = {dimension: {} for dimension in DIMENSIONS}
    requests: dict[Dimension, dict[object, int]] = {dimension: {} for dimension in DIMENSIONS}

    def expect(values: dict[Dimension, object], cost_usd: Decimal, counted: int) -> None:
        for dimension, value in values.items():
            sums, counts = expected[dimension], requests[dimension]
            sums[value] = sums.get(value, Decimal()) + cost_usd
            counts[value] = counts.get(value, 0) + (1 if dimension in ("stage", "model") else counted)

    for _ in range(1_000):
        days.append(TODAY - timedelta(days=draw.randrange(3)))
        tags = Tags(
            tenant=draw.choice(["", "acme", "globex", "Zoë"]),
            user=f"user {draw.randrange(20)}",
            feature=draw.choice(["search", "chat"]),
        )
        state = collection(draw.choice(["handbook", "wiki"]), draw.choice(["pgvector", "faiss"]), draw.randrange(10**7))
        embed_us = draw.randrange(1, 5_000)
        model = draw.choice(["small", "large"])
        prompt, completion = draw.randrange(1, 4_000), draw.randrange(500)
        usage = Usage(prompt_tokens=prompt, cached_tokens=draw.randrange(prompt), completion_tokens=completion)
        of_all: dict[Dimension, object] = {
            "day": days[-1], "tenant": tags.tenant, "user": tags.user, "feature": tags.feature,
            "collection": state.name,
        }  # fmt: skip
        recorder(searched(PRICES, tags, state, embed_us / 1e6))
        expect(of_all | {"stage": "embed", "model": "hashing"}, Decimal(embed_us) * Decimal("7e-10"), 0)
        vectors_usd = state.chunks * (Decimal("1e-10") if state.backend == "pgvector" else Decimal("3e-11"))
        expect(of_all | {"stage": "search", "model": state.backend}, vectors_usd, 1)
        if draw.random() < 0.5:
            recorder(answered(PRICES, tags, state, model, usage))
            each = PRICES.tokens[model]
            tokens_usd = (
                (prompt - usage.cached_tokens) * each["prompt"]
                + usage.cached_tokens * each["cached_prompt"]
                + completion * each["completion"]
            )
            expect(of_all | {"stage": "generate", "model": model}, tokens_usd, 0)
    recorder.flush()

    for dimension in DIMENSIONS:
        found = report(rag.database, TODAY - timedelta(days=3), TODAY, [dimension])
        assert {line.values[dimension]: line.spent.cost_usd for line in found.lines} == expected[dimension]
        assert {line.values[dimension]: line.spent.requests for line in found.lines} == requests[dimension]
        assert found.total.spent.cost_usd == sum(expected[dimension].values())
        assert found.total.spent.requests == 1_000
        assert found.total.unpriced == Spent()


def test_many_threads_lose_and_double_nothing(rag: retrieval.Ragstone) -> None:
    """Answers that end at the same time, in two recorders, are each in the corpus when their caller goes on."""
    recorders = [SpendingRecorder(rag.database) for _ in range(2)]

    def answer(number: int) -> None:
        for _ in range(25):
            tags = Tags(user=f"{number % 3}")
            recorders[number % 2](answered(PRICES, tags, collection(), "small", Usage(prompt_tokens=1)))

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (spent,) = all_of(rag).values()
    assert (spent.requests, spent.prompt_tokens, spent.cost_usd) == (200, 200, Decimal("0.00002"))


def test_an_answer_is_recorded_before_its_last_event(rag: retrieval.Ragstone) -> None:
    """Whoever has read an answer to its end finds it in the corpus, with its search, under its tags."""
    with costs.running(rag), attributed(tenant="acme", feature="chat"):
        events = rag.collection("handbook").stream("how much leave do I get?")
        *_, _last = events
        assert {values: spent.requests for values, spent in all_of(rag, "tenant", "feature", "stage").items()} == {
            ("acme", "chat", "embed"): 1, ("acme", "chat", "search"): 1, ("acme", "chat", "generate"): 1,
        }  # fmt: skip


def test_searches_are_written_within_a_second_or_so(rag: retrieval.Ragstone) -> None:
    """A search is gathered; it is in the corpus soon without anything else happening, and at the latest at the end."""
    written = threading.Event()
    with costs.running(rag):
        rag.collection("handbook").retrieve("leave")
        for _ in range(50):
            if all_of(rag):
                written.set()
                break
            threading.Event().wait(0.1)
        assert written.is_set()
        rag.collection("handbook").retrieve("leave")
    assert sum(spent.requests for spent in all_of(rag, "stage").values()) == 4


def test_what_a_corpus_that_is_away_did_not_take_is_kept(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """Where writing fails nothing is lost: the next time writes both."""
    recorder = SpendingRecorder(rag.database)
    sql.execute("ALTER TABLE ragstone.spending RENAME TO away")
    recorder(answered(PRICES, Tags(), collection(), "small", Usage(prompt_tokens=1)))
    sql.execute("ALTER TABLE ragstone.away RENAME TO spending")
    recorder(answered(PRICES, Tags(), collection(), "small", Usage(prompt_tokens=1)))
    (spent,) = all_of(rag).values()
    assert spent.requests == 2


def test_money_and_spending_are_written_together(
    rag: retrieval.Ragstone, sql: psycopg.Connection, settings_with: SettingsWith
) -> None:
    """Where a budget cannot be charged, the spending is not there either, so that neither is counted twice."""
    budgets = read_budgets(settings_with(budgets='[[budgets]]\nname="all"\nscope="all"\nlimit="usd"\nhard=1\n'))
    recorder = SpendingRecorder(rag.database, budgets)
    sql.execute("ALTER TABLE ragstone.budget_use RENAME TO away")
    recorder(answered(PRICES, Tags(), collection(), "small", Usage(prompt_tokens=1)))
    sql.execute("ALTER TABLE ragstone.away RENAME TO budget_use")
    assert all_of(rag) == {}
    recorder.flush()
    (spent,) = all_of(rag).values()
    charged = sql.execute("SELECT cost_usd FROM ragstone.budget_use").fetchone()
    assert charged == (spent.cost_usd,) == (Decimal("1e-7"),)


def test_rows_of_a_day_are_bounded(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """Beyond the most rows of a day new tags go to "other", those that are known keep theirs, and nothing is lost."""

    def spend(users: range, day: date = TODAY) -> None:
        spending = {key(f"{user}", day): Spent(requests=1, cost_usd=Decimal("0.1")) for user in users}
        add_spending(rag.database, spending, {}, rows_a_day=5)

    def key(user: str, day: date) -> SpendingKey:
        return SpendingKey(day, "acme", user, "chat", "handbook", "generate", "small", True)

    spend(range(3))
    spend(range(2, 9))
    spend(range(5, 20))
    spend(range(4), TODAY + timedelta(days=1))
    found = {values: spent.requests for values, spent in all_of(rag, "day", "user").items() if values[0] == TODAY}
    assert found == {(TODAY, f"{user}"): count for user, count in zip(range(5), (1, 1, 2, 1, 1), strict=True)} | {
        (TODAY, OTHER): 19
    }
    assert sum(spent.cost_usd for spent in all_of(rag).values()) == Decimal("2.9")
    assert sql.execute("SELECT count(*) FROM ragstone.spending WHERE day = %s", [TODAY]).fetchone() == (6,)


def test_what_waits_is_bounded(
    rag: retrieval.Ragstone, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the corpus is away, no more than so many rows wait in memory; what comes beyond them is "other"."""
    monkeypatch.setattr("ops.costs.recording.WAITING_ROWS", 10)
    recorder = SpendingRecorder(rag.database)
    sql.execute("ALTER TABLE ragstone.spending RENAME TO away")
    for user in range(50):
        recorder(answered(PRICES, Tags(user=f"{user}"), collection(), "small", Usage(prompt_tokens=1)))
    sql.execute("ALTER TABLE ragstone.away RENAME TO spending")
    recorder.flush()
    found = {values: spent.requests for values, spent in all_of(rag, "user").items()}
    assert (len(found), found[(OTHER,)], sum(found.values())) == (11, 40, 50)


def test_old_days_are_forgotten(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """Days older than 400 go, from both tables; the last of them stays."""
    for age in (KEPT.days - 1, KEPT.days, KEPT.days + 1):
        day = TODAY - timedelta(days=age)
        add_spending(rag.database, {SpendingKey(day, *[""] * 6, True): Spent(requests=1)}, {})
        sql.execute("INSERT INTO ragstone.budget_use VALUES (%s, 'b', '')", [day])
    assert forget_spending(rag.database, TODAY)
    assert not forget_spending(rag.database, TODAY)
    for table in ("spending", "budget_use"):
        row = sql.execute(f"SELECT count(*), min(day) FROM ragstone.{table}").fetchone()
        assert row == (2, TODAY - KEPT)


def test_two_writers_never_wait_for_each_other(rag: retrieval.Ragstone) -> None:
    """Many rows and budgets, given in different orders by several writers at once, deadlock nobody."""
    keys = [SpendingKey(TODAY, "", f"{user}", "", "c", "generate", "m", True) for user in range(40)]
    budgets = [BudgetKey(TODAY, f"{number}", "") for number in range(20)]
    failures: list[Exception] = []

    def write(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(20):
                spending = {key: Spent(requests=1) for key in draw.sample(keys, len(keys))}
                charges = {key: Decimal(1) for key in draw.sample(budgets, len(budgets))}
                add_spending(rag.database, spending, charges)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {spent.requests for spent in all_of(rag, "user").values()} == {80}


def test_answers_do_not_queue_behind_a_corpus_that_is_away(
    rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited while a write failed leaves it for later: of answers that end together, one alone tries."""
    recorder, tries = SpendingRecorder(rag.database), []
    all_wait = threading.Event()

    def failing(*_: object) -> None:
        tries.append(1)
        all_wait.wait(5)
        raise CorpusUnavailable("PostgreSQL is away")

    def answer() -> None:
        recorder(answered(PRICES, Tags(), collection(), "small", Usage(prompt_tokens=1)))

    threads = [threading.Thread(target=answer) for _ in range(6)]
    with monkeypatch.context() as patched:
        patched.setattr("ops.costs.recording.add_spending", failing)
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        all_wait.set()
        for thread in threads:
            thread.join()
    assert len(tries) == 1
    recorder.flush()
    assert [spent.requests for spent in all_of(rag).values()] == [6]


def test_a_write_that_is_held_up_is_given_up_soon(
    rag: retrieval.Ragstone, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A statement that waits, and a pool without a free connection: neither withholds the end of an answer for long."""
    monkeypatch.setattr("backends.corpus.spending.GIVE_UP_S", 0.2)
    recorder = SpendingRecorder(rag.database)

    def took_s() -> float:
        started_s = time.perf_counter()
        recorder(answered(PRICES, Tags(), collection(), "small", Usage(prompt_tokens=1)))
        return time.perf_counter() - started_s

    with sql.transaction():
        sql.execute("LOCK TABLE ragstone.spending")
        assert 0.2 <= took_s() < 5
    assert "PostgreSQL did not take it within 0.2 s" in caplog.text
    with ExitStack() as stack:
        for _ in range(rag.settings.pool_size):
            stack.enter_context(rag.database.connection())
        assert 0.2 <= took_s() < 5
    assert "no connection to PostgreSQL came free" in caplog.text
    recorder.flush()
    assert [spent.requests for spent in all_of(rag).values()] == [2]


def test_an_answer_that_did_not_begin_used_no_model(rag: retrieval.Ragstone) -> None:
    """One that is refused by a budget, or found no turn, is no request of a model; one that broke off is."""
    recorder = SpendingRecorder(rag.database)
    never = answered(Prices(), Tags(), collection(), "small", Usage())
    for outcome in ("budget_exceeded", "invalid_input", "queue_full"):
        recorder(replace(never, outcome=outcome, timings_ms={"answer": 1.0}, cost=NO_COST))
    assert recorder.totals() == {}
    recorder(replace(never, outcome="generator_unavailable", timings_ms={"generate_queue": 0.1}, cost=NO_COST))
    assert [spent.requests for spent in all_of(rag, "model").values()] == [1]
