"""Health, metrics, the log, and what stands around the routes."""

import logging
import threading
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter

import retrieval
from backends.errors import CorpusUnavailable
from retrieval.config import load
from retrieval.service import create_app
from tests.service.problems import problem
from tests.service.serving import database_of_its_own, served


def test_live_and_ready(client: httpx.Client) -> None:
    """The process is alive, and ready with the time that each dependency took."""
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert 0 < ready.json()["dependencies"]["corpus"]["latency_ms"] < 5_000


def test_not_ready(rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its corpus the service is alive and not ready."""

    def unreachable() -> None:
        raise CorpusUnavailable("PostgreSQL cannot be reached: connection refused")

    with served(create_app(rag)) as url:
        monkeypatch.setattr(rag, "ping", unreachable)
        found = httpx.get(f"{url}/health/ready")
        problem(found, 503, "corpus_unavailable")
        assert found.headers["retry-after"]
        assert httpx.get(f"{url}/health/live").status_code == 200


def test_metrics(client: httpx.Client, handbook: str) -> None:
    """Requests are counted by the template of their route, never by their path."""
    client.post(f"/v1/collections/{handbook}/retrieve", json={"query": "leave"}).raise_for_status()
    client.get(f"/nowhere/{handbook}")
    text = client.get("/metrics").text
    assert 'ragstone_http_requests_total{method="POST",route="/v1/collections/{name}/retrieve",status="200"}' in text
    assert 'ragstone_http_requests_total{method="GET",route="unmatched",status="404"}' in text
    assert "ragstone_database_pool_size" in text
    assert "ragstone_embedder_passes_total" in text
    assert handbook not in text


def test_odd_methods_share_a_label(client: httpx.Client) -> None:
    """A caller cannot make a metric for each word that it takes for a method."""
    client.request("PURGE", "/health/live")
    text = client.get("/metrics").text
    assert 'method="other"' in text
    assert "BREW" not in text


def test_access_log(client: httpx.Client, handbook: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line says how a request went; what was asked is not in it, nor can a path break the line."""
    caplog.set_level(logging.INFO, logger="retrieval.service.access")
    client.post(f"/v1/collections/{handbook}/retrieve", json={"query": "my secret question"})
    client.get("/v1/collections/a%0Ab?key=secret")
    lines: list[str] = []
    deadline_s = time.monotonic() + 10
    while len(lines) < 2 and time.monotonic() < deadline_s:  # a line is written after its answer was sent
        lines = [record.getMessage() for record in caplog.records if record.name == "retrieval.service.access"]
        time.sleep(0.01)
    assert any(f"method=POST path=/v1/collections/{handbook}/retrieve status=200" in line for line in lines)
    assert any("path=/v1/collections/a%0Ab status=422" in line for line in lines)
    assert not any("secret" in line or "\n" in line for line in lines)


def test_alive_while_all_threads_work(rag: retrieval.Ragstone) -> None:
    """Liveness and readiness need none of the threads that requests block."""
    release, router = threading.Event(), APIRouter()

    @router.get("/block")
    def block() -> str:
        release.wait(20)
        return "done"

    threads = rag.settings.service_threads
    with served(create_app(rag, routers=[router])) as url:
        blocked = [
            threading.Thread(target=httpx.get, args=(f"{url}/block",), kwargs={"timeout": 30}) for _ in range(threads)
        ]
        for thread in blocked:
            thread.start()
        time.sleep(0.5)
        try:
            assert httpx.get(f"{url}/health/live", timeout=5).status_code == 200
            assert httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
        finally:
            release.set()
            for thread in blocked:
                thread.join()


def test_unexpected_error(rag: retrieval.Ragstone, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is a 500 without internals, logged once under its id."""
    router = APIRouter()

    @router.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("the secret of the house")

    with served(create_app(rag, routers=[router])) as url:
        found = problem(httpx.get(f"{url}/broken"), 500, "internal_error")
    assert "secret" not in str(found)
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == 1
    assert found["id"] in logged[0].getMessage()


def test_serves_without_its_model(postgres_url: str) -> None:
    """Where the embedding model cannot be loaded, whoever needs none is served, and the others are told."""
    settings = load(embedding_model="/nowhere")
    with (
        database_of_its_own(postgres_url, "no_model") as database,
        retrieval.open(database, settings=settings) as rag,
        served(create_app(rag)) as url,
    ):
        assert httpx.get(f"{url}/health/ready").status_code == 200
        assert httpx.post(f"{url}/v1/collections", json={"name": "own", "dimension": 2}).status_code == 201
        found = problem(httpx.post(f"{url}/v1/collections", json={"name": "texts"}), 500, "invalid_settings")
        assert "/nowhere" in found["detail"]


def test_hooks_end_in_reverse(rag: retrieval.Ragstone) -> None:
    """What is started beside the service is entered in order and left in reverse."""
    events: list[str] = []

    def hook(name: str):  # type: ignore[no-untyped-def]
        @asynccontextmanager
        async def enter(app):  # type: ignore[no-untyped-def]
            events.append(f"start {name}")
            yield
            events.append(f"stop {name}")

        return enter

    with served(create_app(rag, hooks=[hook("one"), hook("two")])):
        assert events == ["start one", "start two"]
    assert events[2:] == ["stop two", "stop one"]


def test_docs_need_no_network(client: httpx.Client) -> None:
    """/docs loads nothing from elsewhere."""
    page = client.get("/docs").text
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/assets/{asset}" in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200
