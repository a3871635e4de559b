"""The outermost layer: what was asked and how it went, and the errors that nobody foresaw."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.service.failures import ProblemResponse, problem_of
from retrieval.service.metrics import Metrics

access_log = logging.getLogger("retrieval.service.access")


class Edge:
    """Counts and logs each request, one line each, without bodies, queries or headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, sent_bytes = 0, 0
        started_s = time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status, sent_bytes
            status = message.get("status", status)
            sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            document = problem_of(error)
            if status:
                raise  # half a response is out: only breaking the connection says that it is not whole
            await ProblemResponse(document)(scope, receive, sending)
        finally:
            self._note(scope, status, sent_bytes, time.perf_counter() - started_s)

    def _note(self, scope: Scope, status: int, sent_bytes: int, took_s: float) -> None:
        self._metrics.request(scope["method"], _template(scope), status, took_s)
        if access_log.isEnabledFor(logging.INFO):
            access_log.info(
                "method=%s path=%s status=%d duration_ms=%.1f sent_bytes=%d",
                scope["method"],
                _path(scope),
                status,
                took_s * 1000,
                sent_bytes,
            )


def _template(scope: Scope) -> str:
    """The path as the route has it: a bounded set, which paths are not."""
    return getattr(scope.get("route"), "path_format", "unmatched")


def _path(scope: Scope) -> str:
    """As it was sent, percent-encoded, so that no line break of a caller's gets into the log."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("ascii", "backslashreplace")
