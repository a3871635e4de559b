"""The OpenAPI description: it says what the service does, and teaches it."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

import retrieval
from retrieval.service.schemas.problems import Problem

# The connection pool draws random numbers in its own threads, while hypothesis watches over Python's.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")

EXAMPLES = 8
TEXTS, EMBEDDINGS = "fuzzed", "fuzzed-embeddings"
ROUTES = [
    "POST /v1/collections",
    "GET /v1/collections",
    "GET /v1/collections/{name}",
    "PATCH /v1/collections/{name}",
    "DELETE /v1/collections/{name}",
    "POST /v1/collections/{name}/documents",
    "PUT /v1/collections/{name}/documents",
    "GET /v1/collections/{name}/documents",
    "POST /v1/collections/{name}/documents/delete",
    "GET /v1/collections/{name}/documents/{document_id}",
    "DELETE /v1/collections/{name}/documents/{document_id}",
    "POST /v1/collections/{name}/files",
    "GET /v1/jobs/{job_id}",
    "POST /v1/collections/{name}/retrieve",
    "POST /v1/collections/{name}/search",
    "POST /v1/collections/{name}/generate",
    "POST /v1/chat/completions",
    "GET /v1/models",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
]
TAKING = [route for route in ROUTES if route.startswith(("POST", "PUT", "PATCH")) or route.endswith("documents")]
"""Those with a body or a query, which can be wrong."""
CASES = [(route, GenerationMode.POSITIVE) for route in ROUTES] + [(route, GenerationMode.NEGATIVE) for route in TAKING]
CONFIG = {
    # No schema can say which metadata keys are taken, nor how long an embedding has to be.
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422", "501"]},
        "not_a_server_error": {"expected-statuses": ["2xx", "4xx", "501"]},
    },
}


@pytest.fixture(scope="module")
def api(rag: retrieval.Ragstone, url: str) -> schemathesis.schemas.BaseSchema:
    """The service by its description, with a collection for texts and one for embeddings behind the names."""
    rag.create_collection(TEXTS)
    own = rag.create_collection(EMBEDDINGS, dimension=3)
    own.upsert_embeddings(["a"], np.eye(3, dtype=np.float32)[:1], ["text"])
    config = schemathesis.Config.from_dict(CONFIG)
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)


@pytest.mark.parametrize(("route", "mode"), CASES)
def test_does_what_it_says(api: schemathesis.schemas.BaseSchema, route: str, mode: GenerationMode) -> None:
    """Whatever is sent, valid or not, status, media type and body of the answer are among those described.

    What is valid is taken, what is not is refused, and nothing is a 500.
    """
    method, path = route.split()
    operation = api[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def check(case: schemathesis.Case) -> None:
        if "name" in case.path_parameters and method != "DELETE":
            case.path_parameters["name"] = EMBEDDINGS if path.endswith("search") else TEXTS
        case.call_and_validate()

    check()


@pytest.fixture(scope="module")
def description(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def _operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_teaches(description: dict[str, Any]) -> None:
    """Each operation has a summary, a description, a tag, and an example of what it takes and gives."""
    schemas = description["components"]["schemas"]
    for name, operation in _operations(description):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [response for status, response in operation["responses"].items() if status.startswith("2")]
        for media_type, body in ((m, b) for one in bodies for m, b in one.get("content", {}).items()):
            if media_type == "application/json":
                model = schemas[body["schema"]["$ref"].rpartition("/")[2]]
                assert model.get("examples"), f"{name}: {model['title']} has no example"


def test_every_field_is_described(description: dict[str, Any]) -> None:
    """Each field of each model says what it means."""
    for name, model in description["components"]["schemas"].items():
        assert model.get("description"), name
        for field, schema in model.get("properties", {}).items():
            assert "$ref" in schema or "anyOf" in schema or schema.get("description"), f"{name}.{field}"


def test_every_error_is_a_problem(description: dict[str, Any]) -> None:
    """Each error that an operation names is a problem document with an example that is one."""
    for name, operation in _operations(description):
        for status, response in operation["responses"].items():
            if not status.startswith("2"):
                assert list(response["content"]) == ["application/problem+json"], f"{name} {status}"
                found = Problem.model_validate(response["content"]["application/problem+json"]["example"])
                assert found.status == int(status)


def test_problem_is_defined(description: dict[str, Any]) -> None:
    """What the errors refer to is there, and what FastAPI would have sent instead is not."""
    assert "Problem" in description["components"]["schemas"]
    assert "HTTPValidationError" not in description["components"]["schemas"]


def test_pinned_routes(description: dict[str, Any]) -> None:
    """Every route that others call is described, and no other."""
    assert sorted(name for name, _ in _operations(description)) == sorted(ROUTES)
