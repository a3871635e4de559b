"""JSON in, read strictly; JSON out, written fast."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json, to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from retrieval.service.failures import ClientGone, RefusedBody


class Json(Response):
    """Plain dicts, lists and values as JSON, without a model in between: a route that returns it is not checked."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


class StrictRequest(Request):
    """A request whose body must be what it says it is.

    JSON is read by a parser that refuses what only Python takes for JSON (NaN, lone surrogates, nesting beyond
    200, numbers beyond 4,300 digits), in a tenth of the standard library's time for a long embedding.
    """

    async def body(self) -> bytes:
        body = await super().body()
        if body and not _is_json(self.headers.get("content-type", "")):
            raise _unsupported(self, "application/json")
        return body

    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise RefusedBody(400, "malformed_body", f"body: not valid JSON ({error}); needed JSON in UTF-8") from error

    def form(self, **limits: Any) -> Any:  # what it returns is Starlette's own affair
        if _essence(self.headers.get("content-type", "")) != "multipart/form-data":
            raise _unsupported(self, "multipart/form-data, for example with curl's -F files=@handbook.md")
        return super().form(**limits)


class StrictRoute(APIRoute):
    """A route whose request is a StrictRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


class QuickRoute(StrictRoute):
    """A StrictRoute for what is asked most: a coroutine of `here`, `name` and `body`, which returns a response.

    It is described like any other route. A request goes straight to it, with its body checked as FastAPI checks it:
    what FastAPI does around that for dependencies, which there are none of, costs more than the rest. Errors are
    raised, as from any other route.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self.answer(scope, receive)
        await response(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """Return the response to a request that was routed here."""
        body = self._checked(await _sent(StrictRequest(scope, receive)))
        response: Response = await self.endpoint(scope["app"].state.service, scope["path_params"]["name"], body)
        return response

    def _checked(self, sent: Any) -> Any:
        """Return the body's model; raises RequestValidationError."""
        assert self.body_field is not None
        body, faults = self.body_field.validate(sent, loc=("body",))
        if faults:
            raise RequestValidationError(faults, body=sent)
        return body


async def _sent(request: StrictRequest) -> Any:
    """Return what the body says. Raises RequestValidationError where there is none."""
    try:
        if await request.body():
            return await request.json()
    except ClientDisconnect as error:
        raise ClientGone from error
    raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])


def _is_json(content_type: str) -> bool:
    essence = _essence(content_type)
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _unsupported(request: Request, needed: str) -> RefusedBody:
    found = request.headers.get("content-type", "none")[:100]
    return RefusedBody(415, "unsupported_media_type", f"Content-Type: found {found}; needed {needed}")
