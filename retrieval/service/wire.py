"""JSON in, read strictly; JSON out, written fast."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json, to_json

from retrieval.service.failures import RefusedBody


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


def _is_json(content_type: str) -> bool:
    essence = _essence(content_type)
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _unsupported(request: Request, needed: str) -> RefusedBody:
    found = request.headers.get("content-type", "none")[:100]
    return RefusedBody(415, "unsupported_media_type", f"Content-Type: found {found}; needed {needed}")
