"""A whole life of an index against Pinecone's OpenAPI files: every request and every answer is as they say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml  # type: ignore[import-untyped]

from backends.filters import parse
from tests.backends.pinecone_subject import batch, change, found, held, pinecone_index, query
from tests.fakes.pinecone_server import API_VERSION, Exchange, pinecone_server

PLANES = ("control", "data")
FORMS = {"integer": r"-?\d+", "string": ".*", "array": ".*"}


class Specification:
    """The operations of both planes, and validators of their bodies."""

    def __init__(self, folder: Path) -> None:
        self.planes = {plane: _read(folder / f"pinecone_db_{plane}_{API_VERSION}.oas.yaml") for plane in PLANES}

    def operation(self, exchange: Exchange) -> tuple[dict[str, Any], dict[str, Any]]:
        """Find the document and the operation of an exchange."""
        plane = "control" if exchange.path.startswith("/indexes") else "data"
        document = self.planes[plane]
        for template, operations in document["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), exchange.data_path):
                return document, operations[exchange.method.lower()]
        raise AssertionError(f"no operation {exchange.method} {exchange.data_path}")

    def check(self, exchange: Exchange) -> None:
        """Check the headers, the query, the body and the answer of an exchange."""
        document, operation = self.operation(exchange)
        _check_parameters(operation, exchange)
        if exchange.body:
            _check_body(document, operation["requestBody"]["content"], exchange.body)
        answers = operation["responses"]
        answer = answers.get(str(exchange.status)) or answers[f"{exchange.status // 100}XX"]
        if "content" in answer:
            _check_body(document, answer["content"], exchange.answer)
        else:
            assert not exchange.answer


def _read(path: Path) -> dict[str, Any]:
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return _nullable(document)  # type: ignore[no-any-return]


def _nullable(node: Any) -> Any:
    """Say what OpenAPI 3.0 calls nullable as JSON Schema does."""
    if isinstance(node, list):
        return [_nullable(element) for element in node]
    if not isinstance(node, dict):
        return node
    made = {key: _nullable(value) for key, value in node.items() if key not in ("example", "examples")}
    if made.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if isinstance(made.get("type"), str) and made["type"] != "object" and isinstance(made.get("required"), list):
        del made["required"]  # the files say `required` of strings, where it means nothing
    return made


def _check_parameters(operation: dict[str, Any], exchange: Exchange) -> None:
    declared = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
    assert exchange.headers["x-pinecone-api-version"] == declared["X-Pinecone-Api-Version"]["schema"]["default"]
    for name, values in exchange.query.items():
        parameter = declared[name]
        assert parameter["in"] == "query"
        assert all(re.fullmatch(FORMS[parameter["schema"]["type"]], value) for value in values)
        assert len(values) == 1 or parameter["schema"]["type"] == "array"
    for name, parameter in declared.items():
        assert not (parameter["in"] == "query" and parameter.get("required")) or name in exchange.query


def _check_body(document: dict[str, Any], content: dict[str, Any], body: bytes) -> None:
    schema = content["application/json"]["schema"]
    parsed = json.loads(body)
    whole = {"allOf": [schema], "components": document["components"]}
    jsonschema_rs.Draft202012Validator(whole).validate(parsed)
    known = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]].get("properties", {})
    assert set(parsed) <= set(known), "a field that the specification does not know"


@pytest.fixture(scope="module")
def specification(request: pytest.FixtureRequest) -> Specification:
    """Pinecone's files, from the folder that --specs names."""
    folder = request.config.getoption("--specs", None)
    if folder is None or not (Path(folder) / f"pinecone_db_data_{API_VERSION}.oas.yaml").is_file():
        pytest.skip(f"no OpenAPI files of Pinecone {API_VERSION}: name their folder with --specs")
    return Specification(Path(folder))


@pytest.fixture(scope="module")
def exchanges() -> Iterator[list[Exchange]]:
    """Everything that a whole life says: created, built, changed, searched, listed, dropped; and some refusals."""
    with pinecone_server() as server:
        server.data.ready_after_s = 0.1
        with pinecone_index(server) as index:
            index.drop()
            index.build([batch(range(1, 2_001), attributes=[{"lang": "en"}] * 2_000)], 1)
            index.apply([change(2, batch([3_000]), deletes=[1, 2]), change(3, deletes=[3])])
            index.search(query(), 10, parse({"$and": [{"lang": {"$ne": "de"}}, {"$or": [{"lang": "en"}, {"n": 1}]}]}))
            index.search(query(), 10, parse({"lang": "fr"}))
            assert len(found(index, 5_000)) == len(held(index)) == index.stats().count == 1_998
            index.ping()
            index.drop()
            index.stats()
        server.stop()
        yield server.exchanges


def test_every_exchange_is_as_specified(specification: Specification, exchanges: list[Exchange]) -> None:
    """Paths, methods, versions, parameters, bodies, statuses and answers, of all that was said."""
    for exchange in exchanges:
        specification.check(exchange)


def test_the_life_was_a_whole_one(specification: Specification, exchanges: list[Exchange]) -> None:
    """Each operation that the adapter uses occurred, and so did an error of each plane."""
    operations = {specification.operation(exchange)[1]["operationId"] for exchange in exchanges}
    assert operations == {
        "create_index",
        "describe_index",
        "upsertVectors",
        "queryVectors",
        "fetchVectors",
        "listVectors",
        "deleteVectors",
        "describeIndexStats",
        "deleteNamespace",
    }
    assert {exchange.path.startswith("/indexes") for exchange in exchanges if exchange.status == 404} == {True, False}


def test_the_check_can_fail(specification: Specification, exchanges: list[Exchange]) -> None:
    """An answer with a field of a wrong type, or an unknown one, does not pass."""
    upsert = next(exchange for exchange in exchanges if exchange.path.endswith("/vectors/upsert"))
    for answer in (b'{"upsertedCount": "one"}', b'{"upserted": 1}'):
        with pytest.raises((jsonschema_rs.ValidationError, AssertionError)):
            specification.check(Exchange(**{**vars(upsert), "answer": answer}))
