"""Bodies over the limit."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.conftest import MAX_BODY_BYTES
from tests.service.problems import problem

OVER = b" " * (MAX_BODY_BYTES + 1)
JSON = {"content-type": "application/json"}


def _in_pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


@pytest.mark.parametrize("route", ["retrieve", "documents", "files"])
@pytest.mark.parametrize("chunked", [False, True])
def test_over_the_limit(client: httpx.Client, empty: str, route: str, chunked: bool) -> None:
    """A body over the limit is refused, whether it says its length or comes in chunks, as JSON or as a file."""
    data, headers = OVER, JSON
    if route == "files":
        data = (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n' + OVER + b"\r\n--b--\r\n"
        )
        headers = {"content-type": "multipart/form-data; boundary=b"}
    content = _in_pieces(data) if chunked else data
    found = client.post(f"/v1/collections/{empty}/{route}", content=content, headers=headers)
    assert str(MAX_BODY_BYTES) in problem(found, 413, "too_large")["detail"]


def test_at_the_limit(client: httpx.Client, handbook: str) -> None:
    """A body of exactly the limit is read."""
    body = json.dumps({"query": "leave"}).encode()
    body += b" " * (MAX_BODY_BYTES - len(body))
    assert client.post(f"/v1/collections/{handbook}/retrieve", content=body, headers=JSON).status_code == 200


def test_expecting_clients_need_not_send(url: str) -> None:
    """A client that asks first is told before it has sent anything."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/collections HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1024).startswith(b"HTTP/1.1 413")
