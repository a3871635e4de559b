"""One request for a completion, and its answer as it comes."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import aiohttp

from backends.errors import GeneratorUnavailable, RagstoneError
from retrieval.generation.address import ServerAddress
from retrieval.generation.completion import Completion, NotAnAnswer
from retrieval.generation.failures import cannot_connect, closed, failure, no_http, quoted
from retrieval.generation.timeouts import Deadline, Deadlines, Watch
from retrieval.propagation import outgoing_headers

T = TypeVar("T")

RETRIED_STATUSES = frozenset({502, 503, 504})

_MAX_ERROR_BYTES = 64 * 1024
# After the last word come the usage and the end of the response, at once. A connection that is not done then is closed.
_USAGE_S = 5.0
_END_S = 0.1


class Trouble(Exception):
    """What went wrong with a request: `error` is for our caller.

    `again` says whether it may be tried again, as long as nothing of the answer was passed on; `servers_fault`
    whether the server is ailing, and not what it was asked.
    """

    def __init__(self, error: RagstoneError, *, again: bool = False, servers_fault: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.servers_fault = servers_fault


class Exchange:
    """Sends the request when `open` is called. `close` may be called at any time and hangs up unless all was read."""

    def __init__(self, address: ServerAddress, deadlines: Deadlines, max_tokens: int | None) -> None:
        self._address = address
        self._deadlines = deadlines
        self._max_tokens = max_tokens
        self._completion = Completion(address)
        self._response: aiohttp.ClientResponse | None = None
        self._watch: Watch | None = None
        self._broken_off = False

    @property
    def completion(self) -> Completion:
        return self._completion

    async def open(self, session: aiohttp.ClientSession, body: bytes) -> None:
        """Send `body`, and return when an answer begins; raises Trouble."""
        where = self._address.at("chat/completions")
        sent = session.post(where, data=body, headers=outgoing_headers(), allow_redirects=False)
        self._response = await self._in_time(sent, self._deadlines.before_first_token())
        if self._response.status != 200:
            raise await self._refused(self._response)
        found = self._response.headers.get("content-type", "text/event-stream")
        if not found.startswith("text/event-stream"):
            said = quoted(found, self._address)
            raise self._broken(f"{self._address.name} answered with {said}; needed text/event-stream")

    async def read(self) -> list[str]:
        """Return the next pieces of text, or none when all of the answer was read; raises Trouble."""
        completion = self._completion
        while not completion.ended:
            if completion.wrong:
                raise self._nonsense(completion.wrong)
            received = await self._received()
            if not received:
                break
            if pieces := completion.feed(received):
                return pieces
        if not completion.is_whole:
            raise self._broken(
                f"{self._address.name} closed the stream before the answer was finished", again=not completion.begun
            )
        await self._read_end()
        return []

    def close(self) -> None:
        if self._watch is not None:
            self._watch.end()
        if self._response is not None:
            self._response.close()

    def break_off(self) -> None:
        """Hang up on whoever waits for the next piece, who gets Trouble that is not tried again."""
        self._broken_off = True
        self.close()

    async def _received(self) -> bytes:
        """Return what came, or nothing at the end; what becomes of the connection after the last word is no trouble."""
        if self._completion.is_whole:
            return await self._rest(_USAGE_S)
        if not self._completion.begun:
            return await self._in_time(self._content.readany(), self._deadlines.before_first_token())
        if self._watch is None:
            assert self._response is not None
            self._watch = Watch(self._deadlines, self._response.close)
        return await self._watched(self._watch)

    async def _watched(self, watch: Watch) -> bytes:
        watch.wait()
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise self._late(watch.missed) if watch.missed else self._unreachable(error) from error
        finally:
            watch.heard()

    async def _read_end(self) -> None:
        """Read the end of the response, after which the connection serves others."""
        if not self._content.at_eof():
            await self._rest(_END_S)

    async def _rest(self, most_s: float) -> bytes:
        try:
            async with asyncio.timeout(most_s):
                return await self._content.readany()
        except (aiohttp.ClientError, OSError):
            return b""

    @property
    def _content(self) -> aiohttp.StreamReader:
        assert self._response is not None
        return self._response.content

    async def _in_time(self, awaited: Awaitable[T], deadline: Deadline) -> T:
        try:
            async with asyncio.timeout_at(deadline.at):
                return await awaited
        except aiohttp.ClientError as error:
            raise self._unreachable(error) from error
        except TimeoutError as error:
            raise self._late(deadline) from error
        except OSError as error:
            raise self._unreachable(error) from error

    def _late(self, deadline: Deadline) -> Trouble:
        return self._broken(f"{self._address.name}: {deadline.missed}", servers_fault=deadline.servers_fault)

    def _unreachable(self, error: Exception) -> Trouble:
        if self._broken_off:
            return self._broken("the answer was broken off here, since this service stops", servers_fault=False)
        again = not (self._completion.begun or isinstance(error, TimeoutError | aiohttp.ClientSSLError))
        return self._broken(_unreachable(self._address, error, self._completion.begun), again=again)

    def _broken(self, said: str, *, again: bool = False, servers_fault: bool = True) -> Trouble:
        return Trouble(GeneratorUnavailable(said), again=again, servers_fault=servers_fault)

    def _nonsense(self, wrong: NotAnAnswer) -> Trouble:
        servers_fault = wrong.status is None or wrong.status >= 500
        return self._broken(f"{self._address.name}: {wrong}", servers_fault=servers_fault)

    async def _refused(self, response: aiohttp.ClientResponse) -> Trouble:
        status = response.status
        error = failure(
            self._address,
            status,
            await self._beginning(response),
            retry_after=response.headers.get("retry-after"),
            max_tokens=self._max_tokens,
        )
        return Trouble(error, again=status in RETRIED_STATUSES, servers_fault=status >= 500)

    async def _beginning(self, response: aiohttp.ClientResponse) -> str:
        """Return the body of an error, as far as it can be read."""
        body = b""
        try:
            async with asyncio.timeout_at(self._deadlines.before_first_token().at):
                while len(body) < _MAX_ERROR_BYTES and (part := await response.content.readany()):
                    body += part
        except (aiohttp.ClientError, OSError):
            pass  # what came is told
        return body[:_MAX_ERROR_BYTES].decode("utf-8", "replace")


def _unreachable(server: ServerAddress, error: Exception, begun: bool) -> str:
    """Say what became of the connection to `server`, in our words: the library quotes what it received."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return (
                f"cannot connect to {server.name} in time (generator_connect_timeout_s); is the model server running?"
            )
        case aiohttp.ClientConnectorError():
            return cannot_connect(server, error)
        case aiohttp.ClientHttpProxyError():
            return f"the proxy does not let us through to {server.name}"
        case aiohttp.ClientResponseError():
            return no_http(server)
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | OSError():
            return closed(server, begun=begun)
        case _:
            return f"the request to {server.name} failed ({type(error).__name__})"
