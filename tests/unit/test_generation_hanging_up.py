"""Readers who leave: whenever and however they go, the model server is let go of."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, closing
from typing import Any

import pytest

from backends.errors import GeneratorUnavailable
from retrieval.generation.base import Ending, Message, Prompt
from retrieval.generation.openai_client import OpenAIGenerator
from tests.fakes.model_server import MODEL, ModelServer, Reply, answer, delta, event, model_server

PROMPT = Prompt(question="Who?", passages=(), messages=(Message("user", "Who?"),), tokens=10)
TWO = [event(delta("Yes")), event(delta("."))]


async def _read(generator: OpenAIGenerator) -> None:
    async with aclosing(generator.astream(PROMPT, None)) as stream:
        async for _ in stream:
            pass


@pytest.mark.parametrize("stalls", ["headers", 0, 2])
def test_a_cancelled_task_hangs_up(stalls: Any) -> None:
    """At whatever point: the server sees it at once, and it counts neither way."""

    async def ask(server: ModelServer) -> None:
        generator = OpenAIGenerator(server.url, model=MODEL, breaker_failures=1)
        asked = asyncio.ensure_future(_read(generator))
        await asyncio.sleep(0.1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await asyncio.to_thread(server.left_alone.wait, 1)
        assert (generator.breaker.state, generator.breaker.failed) == ("closed", 0)
        await generator.aclose()
        generator.close()

    with model_server(Reply(parts=TWO, stalls=stalls)) as server:
        asyncio.run(ask(server))


@pytest.mark.parametrize("stalls", ["headers", 0, 2])
def test_closing_a_stream_from_another_thread_hangs_up(stalls: Any) -> None:
    """The thread that waits for the next piece finds the stream ended."""
    with (
        model_server(Reply(parts=TWO, stalls=stalls)) as server,
        closing(OpenAIGenerator(server.url, model=MODEL)) as generator,
    ):
        stream = generator.stream(PROMPT, None)
        pieces: list[str | Ending] = []
        reader = threading.Thread(target=lambda: pieces.extend(stream))
        reader.start()
        time.sleep(0.1)
        began = time.monotonic()
        stream.close()
        reader.join(1)
        assert not reader.is_alive()
        assert server.left_alone.wait(1)
        assert time.monotonic() - began < 1
        assert pieces == (["Yes", "."] if stalls == 2 else [])
        stream.close()
        assert list(stream) == []


def test_a_stream_that_is_dropped_hangs_up() -> None:
    """Who forgets to close it does not keep the server busy."""
    with (
        model_server(Reply(parts=TWO, stalls=2)) as server,
        closing(OpenAIGenerator(server.url, model=MODEL)) as generator,
    ):
        stream = generator.stream(PROMPT, None)
        next(stream)
        del stream
        gc.collect()
        assert server.left_alone.wait(1)


def test_a_closed_client_ends_its_streams() -> None:
    """Their readers get an error, not silence; a new stream says the same, and no thread is left."""
    before = threading.active_count()
    with model_server(Reply(parts=TWO, stalls=2)) as server:
        generator = OpenAIGenerator(server.url, model=MODEL)
        stream = generator.stream(PROMPT, None)
        assert [next(stream), next(stream)] == ["Yes", "."]
        threading.Timer(0.1, generator.close).start()
        with pytest.raises(GeneratorUnavailable, match="closed"):
            next(stream)
        with pytest.raises(GeneratorUnavailable, match="closed"):
            next(generator.stream(PROMPT, None))
        generator.close()
    assert threading.active_count() == before


def test_a_slow_reader_slows_the_server_down() -> None:
    """What is read ahead is bounded: a server is not drained into memory."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield event(delta("word " * 2_000))

    with (
        model_server(lambda _body: Reply(parts=endless())) as server,
        closing(OpenAIGenerator(server.url, model=MODEL)) as generator,
    ):
        stream = generator.stream(PROMPT, None)
        assert [next(stream) for _ in range(1_000)] == ["word " * 2_000] * 1_000
        time.sleep(0.3)
        held = sent
        time.sleep(0.2)
        assert sent == held < 3_000
        stream.close()
        assert server.left_alone.wait(2)


def test_each_event_loop_has_its_own_connections() -> None:
    """One generator serves loops one after the other, and threads beside them; each closes what is its own."""
    with model_server(Reply(parts=answer("Yes."))) as server:
        with closing(OpenAIGenerator(server.url, model=MODEL)) as generator:

            async def twice() -> None:
                await asyncio.gather(_read(generator), _read(generator))
                await generator.aclose()
                await generator.aclose()

            for _ in range(3):
                asyncio.run(twice())
                assert len(list(generator.stream(PROMPT, None))) == 2
            assert server.connections_made == 7
            assert server.wait_for_connections(1)
        assert server.wait_for_connections(0)


def test_streams_in_many_threads_are_all_whole() -> None:
    """They share the one loop behind them."""
    with (
        model_server(Reply(parts=answer(*"abcdefgh"), pause_s=0.005)) as server,
        closing(OpenAIGenerator(server.url, model=MODEL)) as generator,
    ):
        texts: list[str] = []

        def read() -> None:
            *pieces, _ = generator.stream(PROMPT, None)
            texts.append("".join(map(str, pieces)))

        readers = [threading.Thread(target=read) for _ in range(64)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(20)
        assert texts == ["abcdefgh"] * 64
