"""The table from errors to statuses, and the documents that come of it."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from backends import errors
from retrieval.service.failures import (
    RETRY_UNAVAILABLE_S,
    STATUS,
    ProblemResponse,
    codes_by_status,
    problem,
    problem_of,
    respond,
    status_of,
)


def _all_errors(kind: type[errors.RagstoneError] = errors.RagstoneError) -> Iterator[type[errors.RagstoneError]]:
    """The tree that users see; what a backend tells apart for itself goes out under its parent's code."""
    for below in (each for each in kind.__subclasses__() if each.__module__ == errors.__name__):
        yield below
        yield from _all_errors(below)


@pytest.mark.parametrize("kind", list(_all_errors()))
def test_every_error_has_a_status(kind: type[errors.RagstoneError]) -> None:
    """An error that is added to the tree without a status of its own or of an ancestor's fails here."""
    assert any(ancestor in STATUS for ancestor in kind.__mro__)


def test_codes_are_stable_and_distinct() -> None:
    """No two errors share a code, and the list in /docs has each of them once, under its status."""
    codes = [kind.code for kind in _all_errors()]
    assert len(set(codes)) == len(codes)
    listed = [(code, status) for status, codes in codes_by_status().items() for code in codes]
    assert len(dict(listed)) == len(listed)
    assert {(kind.code, status_of(kind)) for kind in _all_errors()} < set(listed)


def test_invalid_input_names_its_field() -> None:
    """The part to mend is a member of its own, so that a form can mark it."""
    found = problem_of(errors.InvalidDocument("documents[3].text", "found no text; needed some"))
    assert found["status"] == 422
    assert found["code"] == "invalid_document"
    assert found["field"] == "documents[3].text"
    assert found["detail"] == "documents[3].text: found no text; needed some"


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (errors.QueueFull("full", retry_after_s=2.2), 429, "3"),
        (errors.IndexBehind("behind", retry_after_s=0.01), 429, "1"),
        (errors.CorpusUnavailable("gone"), 503, str(int(RETRY_UNAVAILABLE_S))),
        (errors.FilterTooExpensive("too long"), 503, None),
        (errors.CollectionNotFound("none"), 404, None),
        (errors.InvalidSettings("generator_url", "wrong"), 500, None),
    ],
)
def test_retry_after(error: errors.RagstoneError, status: int, retry_after: str | None) -> None:
    """Retry-After is sent where a later try can succeed, in whole seconds and at least one."""
    response = respond(error)
    assert response.status_code == status
    assert response.headers.get("Retry-After") == retry_after


def test_unexpected_error_tells_no_internals(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is logged under an id, and the caller sees the id alone."""
    try:
        raise ZeroDivisionError("the secret of the house")
    except ZeroDivisionError as error:
        found = problem_of(error)
    assert found["status"] == 500
    assert "secret" not in json.dumps(found)
    assert found["id"] in caplog.text
    assert "the secret of the house" in caplog.text


def test_a_problem_can_quote_anything() -> None:
    """A lone surrogate, which UTF-8 cannot carry, does not break the document that complains of it."""
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    response = ProblemResponse(problem(422, "invalid_input", "found '\ud800'"))
    asyncio.run(response({"type": "http"}, receive, send))  # type: ignore[arg-type]
    assert json.loads(sent[1]["body"])["detail"] == "found '\ud800'"  # type: ignore[arg-type]


def test_an_outage_says_when_to_come_back() -> None:
    """The header and the problem have the seconds that the error knows; where it knows none, the header has a guess."""
    known, unknown = errors.GeneratorUnavailable("left alone", retry_after_s=9.2), errors.GeneratorUnavailable("away")
    assert respond(known).headers["Retry-After"] == "10"
    assert problem_of(known)["retry_after_s"] == 9.2
    assert "retry_after_s" not in problem_of(unknown)
