"""A short way through the service for what is asked most."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.service.wire import QuickRoute


class Shortcut:
    """Takes requests for quick routes past FastAPI's own layers and its search for a route; the others take `app`.

    Both ways have the same layers of ours around them, and the same handlers of errors.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[QuickRoute], quick: ASGIApp) -> None:
        self._app = app
        self._quick = quick
        self._routes = {route.path.rpartition("/")[2]: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            route = self._routes.get(scope["path"].rpartition("/")[2])
            found = None if route is None else route.path_regex.match(scope["path"])
            if found is not None:
                scope["route"], scope["path_params"] = route, found.groupdict()
                await self._quick(scope, receive, send)
                return
        await self._app(scope, receive, send)


class QuickAnswers:
    """The application at the end of the short way: it answers requests that were routed."""

    def __init__(self, handlers: Mapping[Any, Any]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response: Response = await scope["route"].answer(scope, receive)
        except Exception as error:
            handler = next((self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers), None)
            if handler is None:
                raise
            response = await handler(Request(scope, receive), error)
        await response(scope, receive, send)
