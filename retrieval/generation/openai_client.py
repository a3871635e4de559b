"""The generator that asks an OpenAI-compatible server: vLLM, TensorRT-LLM, OpenVINO and others."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence

from pydantic_core import to_json

from backends.errors import GeneratorUnavailable, InvalidSettings, RagstoneError
from retrieval.generation.address import ServerAddress
from retrieval.generation.base import AsyncStream, Generator, Message, Prompt, Stream
from retrieval.generation.breaker import Attempt, Breaker
from retrieval.generation.bridging import BlockingStream
from retrieval.generation.exchange import Exchange, Trouble
from retrieval.generation.loop_thread import LoopThread
from retrieval.generation.served import Served
from retrieval.generation.sessions import Sessions
from retrieval.generation.timeouts import Deadlines, Timeouts

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_PAUSE_GROWTH = 3
_JITTER = 0.5

_DEFAULT_TIMEOUTS = Timeouts()


class OpenAIGenerator(Generator):
    """Streams answers from `POST {url}/chat/completions`, over connections that are kept and shared.

    Without a `model`, the first that `GET {url}/models` lists is asked for. An answer is whole or an error: a
    stream that breaks off before the server says that it has finished raises GeneratorUnavailable. `Usage` is
    what the server counted, and zeros where it counts nothing: it is never estimated. Text is passed on as it
    comes: the protocol does not tell an event that was sent twice from a word that is.

    A request is tried again, `retries` times at most, where the server could not be reached, broke off, or
    answered 502, 503 or 504 before the first token. While `breaker` is open, none is tried.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        retries: int = 2,
        breaker_failures: int = 5,
        breaker_s: float = 10.0,
        interval_s: float = 0.0,
    ) -> None:
        """Raise InvalidSettings for the URL and the key; connects to nothing.

        What comes within `interval_s` is passed on as one piece; with 0 each piece is, as it comes.
        """
        self._address = ServerAddress(url, api_key)
        self._timeouts = timeouts
        self._retries = retries
        self._interval_s = interval_s
        self._served = Served(self._address, model or "", timeouts.connect_s)
        self._sessions = Sessions(self._address, timeouts.connect_s)
        self._thread = LoopThread("ragstone-generator", self._sessions.close_here)
        self.breaker = Breaker(self._address.name, breaker_failures, breaker_s)
        self._under_way: dict[Exchange, asyncio.AbstractEventLoop] = {}
        self.retried = 0
        """Requests that were tried again since the start."""
        self.model = self._served.model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.name!r}, model={self.model!r})"

    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        """Yield the answer as it comes. A closed stream closes the connection, and the server stops."""
        return BlockingStream(lambda: self.astream(prompt, max_tokens), self._thread)

    async def astream(self, prompt: Prompt, max_tokens: int | None) -> AsyncStream:
        """Do what `stream` does, on the running loop. A task that is cancelled closes the connection."""
        with self.breaker.attempt() as attempt:
            exchange: Exchange | None = None
            try:
                exchange, pieces = await self._begin(prompt, max_tokens)
                attempt.answered()
                while pieces:
                    passed_on_s = time.monotonic()
                    for piece in ["".join(pieces)] if self._interval_s else pieces:
                        yield piece
                    if (early_s := passed_on_s + self._interval_s - time.monotonic()) > 0:
                        await asyncio.sleep(early_s)
                    pieces = await exchange.read()
            except Trouble as trouble:
                raise self._said(trouble, attempt) from trouble
            finally:
                if exchange is not None:
                    self._end(exchange)
            attempt.succeeded()
            ending = exchange.completion.ending
            if ending.finish_reason == "length" and max_tokens is None:
                _log.warning("%s cut its answer off at its own limit of tokens", self._address.name)
            yield ending

    def check(self) -> None:
        self.breaker.check()

    def window_tokens(self) -> int | None:
        found = self._served.window_tokens()
        self.model = self._served.model
        return found

    def count_tokens(self, messages: Sequence[Message]) -> int | None:
        found = self._served.count_tokens(messages)
        self.model = self._served.model
        return found

    async def aclose(self) -> None:
        """Break off what is under way on the running loop: closing a session leaves its readers waiting."""
        here = asyncio.get_running_loop()
        for exchange in [exchange for exchange, loop in self._under_way.items() if loop is here]:
            exchange.break_off()
        await self._sessions.close_here()

    def close(self) -> None:
        """End what `stream` began. Event loops of others close their own part, with `aclose`."""
        self._thread.close()
        self._served.close()

    def ping(self) -> None:
        """Raise GeneratorUnavailable where the server does not answer, or does not take the key."""
        self._served.ping()
        self.model = self._served.model

    async def _begin(self, prompt: Prompt, max_tokens: int | None) -> tuple[Exchange, list[str]]:
        """Return an answer that has begun, and its first pieces, after as many tries as it takes; raises Trouble."""
        deadlines = Deadlines(self._timeouts)
        body = _body(await self._find_model(), prompt, max_tokens)
        pause_s = _FIRST_PAUSE_S
        for left in range(self._retries, -1, -1):
            exchange = Exchange(self._address, deadlines, max_tokens)
            self._under_way[exchange] = asyncio.get_running_loop()
            try:
                await exchange.open(self._sessions.here(), body)
                return exchange, await exchange.read()
            except BaseException as error:
                self._end(exchange)
                may_repeat = isinstance(error, Trouble) and error.again and left
                if not may_repeat or not deadlines.leave_time_for(pause_s):
                    raise
            self.retried += 1
            await asyncio.sleep(random.uniform(1 - _JITTER, 1) * pause_s)  # noqa: S311  # jitter is no secret
            pause_s *= _PAUSE_GROWTH
        raise AssertionError("the last try returns or raises")

    def _end(self, exchange: Exchange) -> None:
        self._under_way.pop(exchange, None)
        exchange.close()

    async def _find_model(self) -> str:
        if not self._served.model:
            try:
                await asyncio.to_thread(self._served.find_model)
            except RagstoneError as error:
                raise Trouble(error, servers_fault=isinstance(error, GeneratorUnavailable)) from error
        self.model = self._served.model
        return self.model

    def _said(self, trouble: Trouble, attempt: Attempt) -> RagstoneError:
        """Tell the breaker of the trouble; return the error that our caller gets."""
        if trouble.servers_fault:
            attempt.failed()
        else:
            attempt.answered()
        if isinstance(trouble.error, InvalidSettings):
            self._served.forget(model=trouble.error.field == "generator_model")
            self.model = self._served.model
        return trouble.error


def _body(model: str, prompt: Prompt, max_tokens: int | None) -> bytes:
    asked: dict[str, object] = {
        "model": model,
        "messages": prompt.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_tokens is not None:
        asked["max_tokens"] = max_tokens
    return to_json(asked)
