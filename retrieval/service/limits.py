"""The largest request body, counted while it is read."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.service.failures import ProblemResponse, RefusedBody, problem


class BodyLimit:
    """Answers 413 to a body over `max_body_bytes`, also where no Content-Length says so beforehand."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (declared := _declared_bytes(scope)) > self._max_body_bytes:
            await self._refuse(declared, scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        read_bytes = 0

        async def counting() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > self._max_body_bytes:
                await self._drain(receive, message)
                raise RefusedBody(413, "too_large", self._detail(f"more than {self._max_body_bytes} bytes"))
            return message

        return counting

    async def _refuse(self, declared: int, scope: Scope, receive: Receive, send: Send) -> None:
        if not _waits_for_permission(scope):
            await self._drain(receive, {"more_body": True})
        document = problem(413, "too_large", self._detail(f"{declared} bytes"))
        await ProblemResponse(document, {"Connection": "close"})(scope, receive, send)

    async def _drain(self, receive: Receive, message: Message) -> None:
        """Read on for as much again: most clients look at the answer only after they have sent everything."""
        left_bytes = self._max_body_bytes
        while left_bytes > 0 and message.get("more_body", False):
            message = await receive()
            left_bytes -= len(message.get("body", b""))

    def _detail(self, found: str) -> str:
        return (
            f"body: found {found}; needed at most {self._max_body_bytes} bytes: send fewer documents or files at "
            "once, or have the operator raise max_body_bytes"
        )


def _declared_bytes(scope: Scope) -> int:
    declared = _header(scope, b"content-length")
    return int(declared) if declared.isdigit() and len(declared) < 20 else 0


def _waits_for_permission(scope: Scope) -> bool:
    return _header(scope, b"expect").lower() == b"100-continue"


def _header(scope: Scope, name: bytes) -> bytes:
    found: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return found
