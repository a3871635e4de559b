"""What answers from a model server cost, and what budgets see of them."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psycopg
import pytest

import retrieval
from backends.errors import Busy
from ops import costs
from retrieval.config import Settings
from retrieval.service import create_app
from tests.fakes import model_server as fake
from tests.service.serving import served

SettingsWith = Callable[..., Settings]

PRICES = """
[tokens.tiny]
prompt = 1000
completion = 2000
"""
A_DAY = '[[budgets]]\nname = "day"\nscope = "all"\nlimit = "requests"\nhard = {hard}\n'
A_REQUEST = '[[budgets]]\nname = "one"\nscope = "all"\nlimit = "usd"\nper = "request"\nhard = "{hard}"\n'
PIECES = [fake.event(fake.delta(word)) for word in ("thirty ", "days ")]


@dataclass
class Place:
    """A corpus whose answers a model server writes, and whose spending is recorded."""

    rag: retrieval.Ragstone
    server: fake.ModelServer

    @property
    def handbook(self) -> retrieval.Collection:
        return self.rag.collection("handbook")

    def requests_today(self) -> int:
        """What the budget of the day counts."""
        with self.rag.database.connection() as connection:
            row = connection.execute("SELECT coalesce(sum(requests), 0) FROM ragstone.budget_use").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def place_with(rag: retrieval.Ragstone, settings_with: SettingsWith) -> Iterator[Callable[..., Place]]:
    """Open the corpus once more, with settings of the test's own, beside a model server of its own."""
    with fake.model_server(fake.Reply(parts=fake.answer("thirty ", "days"))) as server, _opened() as opened:

        def made(**given: object) -> Place:
            settings = settings_with(
                prices=PRICES, **{"generator_url": server.url, "refusal_score": -1.0, "generator_retries": 0} | given
            )
            return Place(opened(rag.database.conninfo, settings), server)

        yield made


@contextmanager
def _opened() -> Iterator[Callable[[str, Settings], retrieval.Ragstone]]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def opened(url: str, settings: Settings) -> retrieval.Ragstone:
            rag = stack.enter_context(retrieval.open(url, settings=settings))
            stack.enter_context(costs.running(rag))
            return rag

        yield opened


def test_an_answer_without_max_tokens_is_bounded_all_the_same(place_with: Callable[..., Place]) -> None:
    """What a hard limit allows for is what is asked for: the setting, where the request says nothing."""
    place = place_with(answer_tokens=100)
    place.handbook.generate("how many days?")
    assert place.server.bodies[-1]["max_tokens"] == 100


def test_a_hard_limit_refuses_what_an_answer_may_cost_before_the_model_is_asked(
    place_with: Callable[..., Place],
) -> None:
    """A hundred tokens at 2 USD a thousand are 0.20; whether max_tokens was given or not."""
    place = place_with(answer_tokens=100, budgets=A_REQUEST.format(hard="0.19"))
    for max_tokens in (None, 100):
        with pytest.raises(Busy, match=r"0\.19"):
            place.handbook.generate("how many days?", max_tokens=max_tokens)
    assert place.server.bodies == []


def test_a_model_whose_name_is_not_known_yet_is_asked_for_it_before_it_is_priced(
    place_with: Callable[..., Place],
) -> None:
    """A price is a model's: where nobody can say whose it is, nothing is asked."""
    place = place_with(budgets=A_REQUEST.format(hard="0.01"), answer_tokens=100)
    models, place.server.models = place.server.models, fake.failed(503, "loading")
    with pytest.raises(retrieval.RagstoneError) as caught:
        place.handbook.generate("how many days?")
    assert caught.value.code == "generator_unavailable"
    place.server.models = models
    with pytest.raises(Busy):
        place.handbook.generate("how many days?")
    assert place.server.bodies == []


def test_a_request_that_finds_no_place_counts_in_no_budget(place_with: Callable[..., Place]) -> None:
    """Nor one that an open breaker refuses, nor one that is too dear: only what was answered counts."""
    place = place_with(budgets=A_DAY.format(hard=5), generations_running=1, generations_waiting=0)
    place.server.reply = lambda _: fake.Reply(parts=PIECES, stalls=1)
    stream = place.handbook.stream("how many days?")
    next(stream)
    for _ in range(8):
        with pytest.raises(Busy) as caught:
            place.handbook.generate("how many days?")
        assert caught.value.code == "busy"
    stream.close()
    assert place.requests_today() == 1


def test_an_open_breaker_is_told_before_anything_is_counted_or_searched(place_with: Callable[..., Place]) -> None:
    """The model server is left alone, and so are the embedder, the index and the budgets."""
    place = place_with(budgets=A_DAY.format(hard=50), generator_breaker_failures=1, generator_breaker_s=60)
    place.server.reply = lambda _: fake.failed(500, "out of memory")
    told: list[object] = []
    for _ in range(3):
        with pytest.raises(retrieval.RagstoneError):
            place.handbook.generate("how many days?")
        place.rag.observers.add(told.append)
    assert place.requests_today() == 1
    assert all(getattr(one, "search", None) is None for one in told)


def test_a_reader_who_leaves_before_the_first_word_pays_for_the_prompt(
    place_with: Callable[..., Place], sql: psycopg.Connection
) -> None:
    """The model may have read it all by then."""
    place = place_with()
    place.server.reply = lambda _: fake.Reply(stalls=0)

    async def leave() -> None:
        run = place.handbook.prepare_answer("how many days?", streamed=True)
        events = run.aevents()
        await anext(events)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.3)
        await place.rag.close_streams()

    asyncio.run(leave())
    (row,) = sql.execute(
        "SELECT prompt_tokens, completion_tokens, cost_usd FROM ragstone.spending WHERE stage = 'generate'"
    ).fetchall()
    assert row[0] > 50
    assert row[1] == 0
    assert row[2] > 0


def test_chat_clients_are_told_cost_and_warnings(place_with: Callable[..., Place]) -> None:
    """Plain and in the last chunk of a stream, beside the citations."""
    place = place_with(budgets='[[budgets]]\nname = "b"\nscope = "feature"\nlimit = "requests"\nsoft = 1\nhard = 100\n')
    messages = [{"role": "user", "content": "how many days?"}]
    headers = {"X-Ragstone-Feature": "chat"}
    with served(create_app(place.rag)) as url:
        for stream in (False, True):
            body = {"model": "handbook", "messages": messages, "stream": stream}
            found = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=10).raise_for_status()
            if stream:
                chunk = json.loads(found.text.strip().split("\n\n")[-2].removeprefix("data: "))
                said = chunk["choices"][0]["delta"]
            else:
                said = found.json()["choices"][0]["message"]
            assert said["cost"]["by_stage"]["generate"] > 0
            assert said["refused"] is False
    assert said["warnings"]


def test_a_chat_stream_whose_model_server_is_down_has_a_status_of_its_own(place_with: Callable[..., Place]) -> None:
    """Nothing was said yet: clients retry by the status and its Retry-After."""
    place = place_with()
    place.server.reply = lambda _: fake.failed(429, "busy", **{"Retry-After": "7"})
    body = {"model": "handbook", "messages": [{"role": "user", "content": "how many days?"}], "stream": True}
    with served(create_app(place.rag)) as url:
        found = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=10)
    assert (found.status_code, found.headers["retry-after"]) == (429, "7")
