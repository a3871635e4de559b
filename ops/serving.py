"""Runs the HTTP service in this process, until a signal says stop."""

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn

from backends.errors import InvalidSettings, Unavailable

BACKLOG = 2048
YOUNG_OBJECTS = 20_000
STOP_WITHIN_S = 10
"""How long requests under way may go on after the signal."""
ANSWERS_END_S = 7
"""How long answers that are being written may: then there is time left to say that they broke off."""


def listen(host: str, port: int) -> socket.socket:
    """Take the port, so that nothing is started for nothing.

    Raises InvalidSettings for an address that is not this machine's, and Unavailable for a port in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise InvalidSettings("--host", f"found {host!r}, which is no address here ({error.strerror})") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} of {host} is in use: stop what uses it, or choose another --port"
            ) from error
        raise InvalidSettings("--host and --port", f"cannot listen on {host} port {port}: {error.strerror}") from error
    # Accepted sockets inherit it. Without it an answer on a connection that is kept waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the http:// URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_until_stopped(
    app: Callable[..., object],
    listener: socket.socket,
    *,
    ready: Callable[[], None],
    end_answers: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Serve `app` (ASGI) on `listener` until SIGINT or SIGTERM; `ready` is called when it answers.

    `end_answers` breaks off the answers that are still being written some time after the signal, so that their
    streams end with a problem and not in the middle.
    """
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=STOP_WITHIN_S)
    # When it has stopped, uvicorn raises again the signals that it caught; they have had their answer.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _Server(config, ready, end_answers).run(sockets=[listener])


def leave_to_itself() -> None:
    """Keep what is loaded by now out of garbage collection, and look less often through what is new.

    What is loaded stays until the end, and looking through a model library's million objects stops every request for
    0.1 s. What a request makes goes away by itself, but for the rare cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


class _Server(uvicorn.Server):
    """A server that says when it is ready, and ends answers before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        end_answers: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._end_answers = end_answers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_in_time())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_in_time(self) -> None:
        await asyncio.sleep(ANSWERS_END_S)
        await self._end_answers()
