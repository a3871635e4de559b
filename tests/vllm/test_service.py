"""The whole way against a real vLLM: answers over HTTP, many at once, left by their readers, at the window's edge."""

import asyncio
import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import openai
import pytest

import retrieval
from retrieval.config import load
from retrieval.documents import Usage
from retrieval.service import create_app
from tests.service.serving import database_of_its_own, served

STREAMS = 64
LEFT = 8
LONG_TOKENS = 3_000
QUESTION = "how many days of leave does everyone have"
SCRIPTS = (
    "leave days of the year ",
    "0123456789 ",
    "休暇は三十日です。",
    "отпуск тридцать дней ",
    "🏖🧳✈ ",
    "a\tb\n{}[]<> ",
)
"""What a small vocabulary needs few tokens for, and what it needs many for."""


@pytest.fixture(scope="module")
def rag(postgres_url: str, vllm_url: str) -> Iterator[retrieval.Ragstone]:
    settings = load(
        embedding_model="hashing",
        generator_url=vllm_url,
        refusal_score=-1.0,
        context_tokens=100_000,
        generations_running=STREAMS,
    )
    with database_of_its_own(postgres_url, "vllm") as url, retrieval.open(url, settings=settings) as rag:
        handbook = rag.create_collection("handbook")
        handbook.upsert(
            [retrieval.Document(id=f"d{n}", text=f"Part {n}: everyone has {n} days of leave.") for n in range(20)]
        )
        yield rag


@pytest.fixture(scope="module")
def url(rag: retrieval.Ragstone) -> Iterator[str]:
    with served(create_app(rag)) as url:
        yield url


class Engine:
    """What vLLM says of itself."""

    def __init__(self, vllm_url: str) -> None:
        self._page = vllm_url.removesuffix("/v1") + "/metrics"

    def __call__(self, name: str, labels: str = "") -> float:
        """Return the sum of a metric's samples."""
        text = httpx.get(self._page, timeout=10).text
        values = re.findall(rf"^vllm:{name}{{[^}}]*{labels}[^}}]*}} (\S+)$", text, re.MULTILINE)
        assert values, f"vLLM tells no {name}"
        return sum(map(float, values))

    def settles(self, name: str, value: float, timeout_s: float = 10) -> bool:
        """Whether a metric comes to be `value`."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            if self(name) == value:
                return True
            time.sleep(0.1)
        return False


@pytest.fixture
def engine(vllm_url: str) -> Engine:
    found = Engine(vllm_url)
    assert found.settles("num_requests_running", 0)
    return found


def _tokens(engine: Engine) -> Usage:
    return Usage(
        prompt_tokens=int(engine("prompt_tokens_total")), completion_tokens=int(engine("generation_tokens_total"))
    )


def _told(engine: Engine, before: Usage) -> Usage:
    """What vLLM counted since `before`."""
    now = _tokens(engine)
    return Usage(
        prompt_tokens=now.prompt_tokens - before.prompt_tokens,
        completion_tokens=now.completion_tokens - before.completion_tokens,
    )


def test_an_answer_reports_the_tokens_that_vllm_counted(url: str, engine: Engine) -> None:
    """Plain: text, usage as in vLLM's own counters, and why it ended."""
    before = _tokens(engine)
    body = {"query": QUESTION, "max_tokens": 20}
    answer = httpx.post(f"{url}/v1/collections/handbook/generate", json=body, timeout=60).raise_for_status().json()
    told = _told(engine, before)
    assert answer["answer"]
    assert answer["usage"]["prompt_tokens"] == told.prompt_tokens
    assert answer["usage"]["completion_tokens"] == told.completion_tokens <= 20


def test_a_stream_reports_the_tokens_that_vllm_counted(rag: retrieval.Ragstone, engine: Engine) -> None:
    """Streamed, through the library: as many as vLLM counted; the pieces are the text."""
    before = _tokens(engine)
    *pieces, last = rag.collection("handbook").stream(QUESTION, max_tokens=20)
    assert isinstance(last, retrieval.AnswerEvent)
    answer = last.answer
    told = _told(engine, before)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (told.prompt_tokens, told.completion_tokens)
    assert "".join(piece.text for piece in pieces if isinstance(piece, retrieval.TextEvent)) == answer.text


def test_the_openai_package_is_a_client(url: str, engine: Engine) -> None:
    """Plain and streamed, with a conversation, OpenAI's own package reads text, usage, citations and the end."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    messages: Any = [
        {"role": "user", "content": "who has leave?"},
        {"role": "assistant", "content": "everyone"},
        {"role": "user", "content": QUESTION},
    ]
    before = _tokens(engine)
    plain = client.chat.completions.create(model="handbook", messages=messages, max_tokens=20)
    assert plain.choices[0].message.content
    assert plain.choices[0].finish_reason in ("stop", "length")
    assert plain.usage is not None
    assert plain.usage.prompt_tokens == _told(engine, before).prompt_tokens
    assert isinstance(plain.choices[0].message.annotations, list)
    chunks = list(
        client.chat.completions.create(
            model="handbook", messages=messages, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usage = chunks[-1].usage
    assert text
    assert usage is not None
    assert 0 < usage.completion_tokens <= 20
    assert [model.id for model in client.models.list()] == ["handbook"]


def test_64_streams_at_once_are_all_whole(url: str, engine: Engine) -> None:
    """Each of them ends with its answer, and their tokens add up to what vLLM counted."""
    before = _tokens(engine)
    answers = asyncio.run(_streamed(url, [f"{QUESTION} in part {n}" for n in range(STREAMS)]))
    assert len(answers) == STREAMS
    told = _told(engine, before)
    assert sum(answer["usage"]["prompt_tokens"] for answer in answers) == told.prompt_tokens
    assert sum(answer["usage"]["completion_tokens"] for answer in answers) == told.completion_tokens


async def _streamed(url: str, questions: list[str]) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        return await asyncio.gather(*(_one(session, url, question) for question in questions))


async def _one(session: aiohttp.ClientSession, url: str, question: str) -> dict[str, Any]:
    body = {"query": question, "stream": True, "max_tokens": 40}
    async with session.post(f"{url}/v1/collections/handbook/generate", json=body) as response:
        assert response.status == 200
        text = (await response.read()).decode()
    *_, last = text.strip().split("\n\n")
    assert last.startswith("event: answer\n"), last[:200]
    answer: dict[str, Any] = json.loads(last.split("data: ", 1)[1])
    return answer


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
def test_clients_that_go_away_have_their_answers_stopped(url: str, engine: Engine, streamed: bool) -> None:
    """The server says so itself: it was running answers, and then none, long before they had their length."""
    generated = engine("generation_tokens_total")
    running, left = asyncio.run(_left(url, streamed, engine))
    assert running > 0
    assert left > 0
    assert engine.settles("num_requests_running", 0, 2)
    assert engine("generation_tokens_total") - generated < 0.8 * LEFT * LONG_TOKENS


async def _left(url: str, streamed: bool, engine: Engine) -> tuple[float, int]:
    """Ask for long answers, and leave in the middle; return how many vLLM was running then, and how many were left."""
    body = {"query": QUESTION, "stream": streamed, "max_tokens": LONG_TOKENS}

    async def leave(session: aiohttp.ClientSession) -> bool:
        try:
            async with session.post(f"{url}/v1/collections/handbook/generate", json=body) as response:
                await response.read()
        except TimeoutError:
            return True
        return False

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.5)) as session:
        asking = asyncio.gather(*(leave(session) for _ in range(LEFT)))
        await asyncio.sleep(1)
        running = await asyncio.to_thread(engine, "num_requests_running")
        return running, sum(await asking)


def test_a_library_reader_who_stops_stops_vllm(rag: retrieval.Ragstone, engine: Engine) -> None:
    """Closing the stream aborts the request."""
    stream = rag.collection("handbook").stream(QUESTION, max_tokens=3_000)
    assert any(isinstance(event, retrieval.TextEvent) for event in stream)
    stream.close()
    assert engine.settles("num_requests_running", 0, 3)


@pytest.mark.parametrize("seed", range(30))
def test_a_prompt_at_the_windows_edge_is_not_refused(rag: retrieval.Ragstone, seed: int) -> None:
    """Passages of any script, far more of them than fit, and any max_tokens: vLLM takes it, and the window is used."""
    source = random.Random(seed)  # repeatable, not secret
    collection = rag.create_collection(f"edge{seed}")
    collection.upsert([retrieval.Document(id=f"d{n}", text=_text(source), title=_text(source)[:40]) for n in range(40)])
    max_tokens = source.choice([None, 1, 50, 500, 3_000, 100_000])
    events = collection.stream(_text(source)[:100], top_k=40, max_tokens=max_tokens)
    # What a random model says first may be no text at all.
    assert any(isinstance(event, retrieval.TextEvent | retrieval.AnswerEvent) for event in events)
    events.close()


def _text(source: random.Random) -> str:
    words = source.choices(SCRIPTS, [source.random() for _ in SCRIPTS], k=source.randrange(5, 80))
    return "".join(words).strip() or "leave"
