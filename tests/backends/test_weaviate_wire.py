"""What goes over the wire to Weaviate: its own REST specification, the size of messages, and who is reached."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import psutil
import pytest

from backends.filters import parse
from backends.types import Batch
from backends.weaviate import messages
from tests.backends.weaviate_subject import IDENTITY, batch, change, held, opened
from tests.fakes.weaviate.rest import Exchange
from tests.fakes.weaviate_server import FakeWeaviate, weaviate_server

SPECIFICATION = "weaviate_rest_schema.json"


@pytest.fixture
def server() -> Iterator[FakeWeaviate]:
    with weaviate_server() as running:
        yield running


@pytest.fixture
def specification(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Weaviate's Swagger 2 file, from the folder that --specs names."""
    folder = request.config.getoption("--specs", default=None)
    if folder is None or not (path := Path(folder) / SPECIFICATION).is_file():
        pytest.skip(f"no {SPECIFICATION} (from github.com/weaviate/weaviate) in the folder that --specs names")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _whole_run(server: FakeWeaviate) -> None:
    with opened(server) as index:
        index.ping()
        index.stats()
        index.build([batch(range(1, 31), attributes=[{"lang": "en"}] * 30)], 1)
        index.apply([change(2, batch([40]), deletes=[1, 2])])
        index.search(batch([3]).embeddings, 5, parse({"lang": {"$ne": "de"}}))
        assert len(held(index)) == 29
        index.drop()
        index.stats()


def test_a_whole_run_is_as_weaviates_specification_says(server: FakeWeaviate, specification: dict[str, Any]) -> None:
    """Every REST request of a life of an index, and every answer of the test server, fits the Swagger file."""
    _whole_run(server)
    assert len({(exchange.method, exchange.path) for exchange in server.exchanges}) >= 5
    for exchange in server.exchanges:
        _check(exchange, specification)


def test_the_check_notices_what_does_not_fit(server: FakeWeaviate, specification: dict[str, Any]) -> None:
    """A path, a status or a body that the specification lacks is found."""
    _whole_run(server)
    created = next(exchange for exchange in server.exchanges if exchange.method == "POST")
    for wrong in (
        Exchange("PATCH", created.path, {}, created.asked, created.answer),
        Exchange("POST", "/v1/schemas", {}, created.asked, created.answer),
        Exchange("POST", created.path, {}, {**created.asked, "properties": "tokens"}, created.answer),
        Exchange("POST", created.path, {"output": ["verbose"]}, created.asked, created.answer),
    ):
        with pytest.raises((AssertionError, jsonschema_rs.ValidationError)):
            _check(wrong, specification)


def _check(exchange: Exchange, specification: dict[str, Any]) -> None:
    path, operation = _operation(exchange, specification)
    parameters = [_resolved(made, specification) for made in operation.get("parameters", [])]
    known = {made["name"] for made in parameters if made["in"] == "query"}
    assert exchange.query.keys() <= known, f"{path} takes no {exchange.query.keys() - known}"
    body = next((made for made in parameters if made["in"] == "body"), None)
    assert (exchange.asked is None) == (body is None), f"{exchange.method} {path}: a body where there is none, or none"
    if body is not None:
        _validate(exchange.asked, body["schema"], specification)
    answers = operation["responses"]
    assert str(exchange.answer.status) in answers, f"{exchange.method} {path} never answers {exchange.answer.status}"
    schema = answers[str(exchange.answer.status)].get("schema")
    assert (exchange.answer.body is None) == (schema is None)
    if schema is not None:
        _validate(exchange.answer.body, schema, specification)


def _operation(exchange: Exchange, specification: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    for template, operations in specification["paths"].items():
        pattern = specification["basePath"] + re.sub(r"\{\w+\}", "[^/]+", template)
        if re.fullmatch(pattern, exchange.path) and exchange.method.lower() in operations:
            return template, operations[exchange.method.lower()]
    raise AssertionError(f"the specification has no {exchange.method} {exchange.path}")


def _resolved(made: dict[str, Any], specification: dict[str, Any]) -> dict[str, Any]:
    reference = made.get("$ref", "")
    return specification["parameters"][reference.rsplit("/", 1)[1]] if reference else made


def _validate(body: Any, schema: dict[str, Any], specification: dict[str, Any]) -> None:
    whole = {**schema, "definitions": specification["definitions"]}
    if "$ref" in schema:  # draft 4 takes nothing beside a reference
        whole = {"allOf": [schema], "definitions": specification["definitions"]}
    jsonschema_rs.Draft4Validator(whole, validate_formats=False).validate(body)


def test_nobody_else_is_reached(server: FakeWeaviate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run looks up and connects to the given host alone: no check of versions, no proxy, no telemetry."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    reached: set[str] = set()
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def looking_up(host: str, *rest: Any, **options: Any) -> Any:
        reached.add(host)
        return look_up(host, *rest, **options)

    def connecting(self: socket.socket, address: Any) -> None:
        reached.add(address[0])
        connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", looking_up)
    monkeypatch.setattr(socket.socket, "connect", connecting)
    _whole_run(server)
    assert reached == {"127.0.0.1"}


def test_grpc_also_reaches_nobody_else(server: FakeWeaviate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does gRPC, which connects below Python: the process has no connection to another machine."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    with opened(server) as index:
        index.build([batch([1])], 1)
        index.search(batch([1]).embeddings, 1)
        open_ = [made.raddr for made in psutil.Process().net_connections("tcp") if made.raddr]
        assert server.grpc_port in {address.port for address in open_}
        assert {address.ip.removeprefix("::ffff:") for address in open_} == {"127.0.0.1"}


def test_messages_are_bounded_by_rows_and_by_bytes() -> None:
    """No message has more than a thousand objects or four million bytes; together they have them all, in order."""
    small = messages.objects_of("Ragstone", batch(range(2_500)))
    assert [len(piece) for piece in messages.in_messages(small)] == [1_000, 1_000, 500]
    wide = Batch(ids=np.arange(700), embeddings=np.ones((700, 4_000), np.float32), attributes=[{}] * 700)
    pieces = list(messages.in_messages(messages.objects_of("Ragstone", wide)))
    assert all(messages.write(piece).ByteSize() < messages.MESSAGE_BYTES * 1.01 for piece in pieces)
    assert [one.uuid for piece in pieces for one in piece] == [
        one.uuid for one in messages.objects_of("Ragstone", wide)
    ]


def test_another_index_is_left_alone(server: FakeWeaviate) -> None:
    """An index's class is its own, whatever becomes of another one's."""
    with opened(server) as index, opened(server, identity=replace(IDENTITY, index_id=9)) as other:
        index.build([batch([1])], 1)
        other.build([batch([2])], 1)
        assert (held(index), held(other)) == ([1], [2])
        other.drop()
        assert held(index) == [1]


def test_a_chunk_without_metadata_has_a_token_too() -> None:
    """No list of tokens is empty: Weaviate indexes none, and "has none of" must find the chunk."""
    bare, tagged = messages.objects_of("Ragstone", batch([1, 2], attributes=[{}, {"lang": "en"}]))
    assert list(bare.properties.text_array_properties[0].values) == [messages.NO_TOKENS]
    assert messages.NO_TOKENS not in tagged.properties.text_array_properties[0].values
