"""Who a request is made for: in the library, and by the headers of an HTTP request."""

import asyncio
import contextvars
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from backends.errors import InvalidInput
from retrieval import attributed
from retrieval.attribution import MAX_TAG_CHARACTERS, Tags, current_tags
from retrieval.service.attributing import HEADERS, Attributing


def test_a_block_has_its_tags() -> None:
    """What a block says holds within it, adds to what stands around it, and ends with it, also on an error."""
    with attributed(tenant="acme", feature="chat"):
        with attributed(feature="search", user="ada") as tags:
            assert current_tags() == tags == Tags(tenant="acme", user="ada", feature="search")
        with pytest.raises(ZeroDivisionError), attributed(user="bob"):
            1 / 0  # noqa: B018  # it raises
        assert current_tags() == Tags(tenant="acme", feature="chat")
    assert current_tags() == Tags()


def test_threads_that_are_given_the_context_have_the_tags() -> None:
    """A context that is copied carries them, and changes nothing outside of it."""
    with attributed(tenant="acme"):
        copied = contextvars.copy_context()
    assert copied.run(current_tags) == Tags(tenant="acme")
    assert current_tags() == Tags()


@pytest.mark.parametrize("value", ["a\nb", "a\x00", "\ud800", "x" * (MAX_TAG_CHARACTERS + 1), "\u2028", 7, b"a"])
def test_what_is_no_tag(value: Any) -> None:
    """Control characters, unpaired surrogates, what is too long and what is no text are refused by name."""
    with pytest.raises(InvalidInput) as refused, attributed(user=value):
        pass
    assert refused.value.field == "user"


def asked(*headers: tuple[bytes, bytes], path: str = "/v1/collections") -> tuple[int, dict[str, Any]]:
    """Send a request with these headers; return the status, and the tags that the route saw or the problem."""
    sent: list[Message] = []

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        tags = current_tags()
        body = {"tenant": tags.tenant, "user": tags.user, "feature": tags.feature}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
    asyncio.run(Attributing(route)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_headers_are_tags() -> None:
    """Each header is the tag of its name, in UTF-8 and without spaces around it; one that is not sent is empty."""
    status, tags = asked((b"x-ragstone-tenant", " Zoë GmbH ".encode()), (b"x-ragstone-feature", b"chat"))
    assert (status, tags) == (200, {"tenant": "Zoë GmbH", "user": "", "feature": "chat"})
    assert asked() == (200, {"tenant": "", "user": "", "feature": ""})


@pytest.mark.parametrize("header", HEADERS.values())
@pytest.mark.parametrize("value", [b"a\tb", b"\xff", b"x" * 101, b"\x1b[31m", "\u202e".encode()])
def test_a_header_that_is_no_tag_is_refused(header: str, value: bytes) -> None:
    """A 422 problem document names the header, and the route is not reached."""
    status, problem = asked((header.lower().encode(), value))
    assert (status, problem["code"], problem["field"]) == (422, "invalid_input", header)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/docs", "/v10"])
def test_probes_are_for_nobody(path: str) -> None:
    """A header that a proxy puts on everything is read under /v1 alone: a wrong one stops no probe."""
    nobody = {"tenant": "", "user": "", "feature": ""}
    assert asked((b"x-ragstone-user", b"a\tb"), path=path) == (200, nobody)


def test_a_header_twice_is_refused() -> None:
    """Of two headers of one name nobody can say which a proxy vouched for."""
    status, problem = asked((b"x-ragstone-user", b"ada"), (b"x-ragstone-user", b"bob"))
    assert (status, problem["field"]) == (422, "X-Ragstone-User")


@given(st.binary(max_size=120))
def test_any_bytes_are_a_tag_or_refused(value: bytes) -> None:
    """Whatever is sent, the route sees it as printable text of at most 100 characters, or does not see it."""
    status, found = asked((b"x-ragstone-user", value))
    if status == 200:
        assert found["user"].isprintable()
        assert found["user"] == value.decode().strip()
    else:
        assert (status, found["field"]) == (422, "X-Ragstone-User")
