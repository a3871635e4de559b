"""Errors to problem documents (RFC 9457): one table, and the handlers that read it."""

import json
import logging
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from backends import errors

log = logging.getLogger(__name__)

STATUS: dict[type[errors.RagstoneError], int] = {
    errors.InvalidInput: 422,
    errors.InvalidSettings: 500,  # the operator's to mend, not the caller's
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.Busy: 429,
    errors.FilterTooExpensive: 503,
    errors.Unavailable: 503,
    errors.BackupDamaged: 500,
    errors.Unsupported: 500,
    errors.BehindHorizon: 503,
    errors.NotBuiltYet: 501,
}
"""An error has the status of its nearest ancestor here."""

HTTP_CODE = {400: "malformed_body", 413: "too_large"}
RETRY_UNAVAILABLE_S = 5.0
CLIENT_GONE = 499
"""No answer was sent, since nobody waited for it any more."""
SHOWN_CHARACTERS = 60
SHOWN_FAULTS = 3


class RefusedBody(HTTPException):
    """A request body that is not read any further; `code` goes into its problem document."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(status_code=status, detail=detail)
        self.code = code


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class ProblemResponse(Response):
    """A problem document. ASCII on the wire, so that whatever an error quotes can be sent."""

    media_type = "application/problem+json"

    def __init__(self, problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(json.dumps(problem), status_code=problem["status"], headers=headers)


def status_of(kind: type[errors.RagstoneError]) -> int:
    """Return the HTTP status of a kind of error."""
    return next((STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS), 500)


def codes_by_status() -> dict[int, list[str]]:
    """Return every stable code under its status."""
    kinds, found = list(STATUS), {400: ["malformed_body"], 405: ["method_not_allowed"], 415: ["unsupported_media_type"]}
    found |= {404: ["no_such_route"], 500: ["internal_error"]}
    for kind in kinds:
        found.setdefault(status_of(kind), []).append(kind.code)
        own = (below for below in kind.__subclasses__() if "code" in vars(below))  # a backend's own kinds have none
        kinds.extend(below for below in own if below not in kinds)
    return {status: sorted(codes) for status, codes in sorted(found.items())}


def problem(status: int, code: str, detail: str, **more: object) -> dict[str, Any]:
    """Return a problem document's members; `code` is stable, `detail` is for people."""
    return {
        "type": f"urn:problem-type:ragstone:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        **more,
    }


def problem_of(error: Exception) -> dict[str, Any]:
    """Return the problem document of any error. What we did not raise on purpose is logged, and told as an id."""
    if not isinstance(error, errors.RagstoneError):
        return _unexpected(error)
    more: dict[str, object] = {}
    if isinstance(error, errors.InvalidInput):
        more["field"] = error.field
    if (seconds := _retry_after_s(error)) is not None:
        more["retry_after_s"] = seconds
    return problem(status_of(type(error)), error.code, str(error), **more)


def respond(error: errors.RagstoneError) -> ProblemResponse:
    """Return the response to an error that we raised on purpose."""
    return ProblemResponse(logged_problem_of(error), _retry_after(error))


def logged_problem_of(error: Exception) -> dict[str, Any]:
    """Return the problem document of an error, and log it where it is none of the caller's."""
    document = problem_of(error)
    if isinstance(error, errors.RagstoneError) and document["status"] in (500, 503):
        log.warning("%s: %s", error.code, error)
    return document


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Make every error of `app`, which serves `routers`, a problem document, those of the framework too."""
    app.state.routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    app.add_exception_handler(errors.RagstoneError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientGone, _on_gone)


async def _on_ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.RagstoneError)
    return respond(error)


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)  # for the log: there is nobody to receive it


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _nothing_there(request)
    if error.status_code == 405:
        return _other_method(request)
    code = error.code if isinstance(error, RefusedBody) else HTTP_CODE.get(error.status_code, "http_error")
    return ProblemResponse(problem(error.status_code, code, error.detail), error.headers)


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    detail = ". ".join(f"{_field(one['loc'])}: {_fault(one)}" for one in found[:SHOWN_FAULTS])
    if len(found) > SHOWN_FAULTS:
        detail += f". And {len(found) - SHOWN_FAULTS} more"
    return ProblemResponse(problem(422, errors.InvalidInput.code, detail, field=_field(found[0]["loc"])))


def _nothing_there(request: Request) -> ProblemResponse:
    detail = f"there is nothing at {_shortened(request.url.path)}; /docs lists what there is"
    return ProblemResponse(problem(404, "no_such_route", detail))


def _other_method(request: Request) -> ProblemResponse:
    """The framework names the methods of the first route that has this path; there may be several."""
    routes = [route for route in request.app.state.routes if route.path_regex.match(request.url.path)]
    allowed = ", ".join(sorted({method for route in routes for method in route.methods}))
    detail = f"{_shortened(request.method)} is not served here; needed one of {allowed}"
    return ProblemResponse(problem(405, "method_not_allowed", detail), {"Allow": allowed})


def _fault(found: Mapping[str, Any]) -> str:
    """What pydantic found, in our words: what was found; what is needed."""
    kind, message = found["type"], str(found["msg"])
    if kind == "missing":
        return "found none; it is needed"
    if kind == "extra_forbidden":
        return "not a field of this request; see /docs for those that are"
    needed = message.removeprefix("Input ").removeprefix("should be ")
    return f"found {_shortened(repr(found.get('input')))}; needed {needed}"


def _field(location: tuple[str | int, ...]) -> str:
    """`("body", "documents", 3, "text")` is `documents[3].text`."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".") or str(location[0])


def _unexpected(error: Exception) -> dict[str, Any]:
    id_ = uuid.uuid4().hex
    log.error("unexpected error %s", id_, exc_info=error)
    return problem(500, "internal_error", f"an error that was not foreseen; the log has it as {id_}", id=id_)


def _retry_after(error: errors.RagstoneError) -> dict[str, str]:
    seconds = _retry_after_s(error)
    if seconds is None and isinstance(error, errors.Unavailable):
        seconds = RETRY_UNAVAILABLE_S
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


def _retry_after_s(error: errors.RagstoneError) -> float | None:
    """Return the seconds that an error knows, after which another try makes sense."""
    if isinstance(error, errors.BudgetExceeded) and error.retry_after_s == 0:
        return None  # one request that may not cost so much will not be let in later either
    return error.retry_after_s if isinstance(error, errors.Busy | errors.Unavailable) else None


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
