"""Who a request is made for, read from its headers. Anybody can send them: only a proxy in front can vouch for them."""

from starlette.types import ASGIApp, Receive, Scope, Send

from backends.errors import InvalidInput
from retrieval.attribution import NOBODY, attributed, check_tag, current_tags
from retrieval.service.failures import respond

HEADERS = {"tenant": "X-Ragstone-Tenant", "user": "X-Ragstone-User", "feature": "X-Ragstone-Feature"}
"""By tag. What they say holds for all that the request does, and for nothing else."""

NAMES = frozenset(name.lower().encode() for name in HEADERS.values())

WITHIN = "/v1/"


class Attributing:
    """Makes what the routes do for the tenant, user and feature of the headers; answers 422 to what is no tag.

    Probes and metrics are for nobody, whatever headers a proxy puts on them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(WITHIN) or _is_for_nobody(scope):
            await self._app(scope, receive, send)
            return
        try:
            tags = _tags(scope)
        except InvalidInput as error:
            await respond(error)(scope, receive, send)
            return
        with attributed(**tags):
            await self._app(scope, receive, send)


def _is_for_nobody(scope: Scope) -> bool:
    """No header says anything, and nothing was said before that would have to be taken back: the usual request."""
    return current_tags() is NOBODY and NAMES.isdisjoint(key for key, _ in scope["headers"])


def _tags(scope: Scope) -> dict[str, str]:
    """Raises InvalidInput, which names the header. A header that is not sent is an empty tag."""
    return {tag: check_tag(_header(scope, name), name) for tag, name in HEADERS.items()}


def _header(scope: Scope, name: str) -> str:
    """UTF-8, as most clients send what is not ASCII; bytes that are none are shown escaped, and refused."""
    wanted = name.lower().encode()
    values: list[bytes] = [value for key, value in scope["headers"] if key == wanted]
    if len(values) > 1:
        raise InvalidInput(name, f"found {len(values)} of them; needed one")
    return values[0].decode("utf-8", "surrogateescape").strip() if values else ""
