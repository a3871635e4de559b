"""`ragstone status`: one screen, and an exit status that scripts can go by."""

import json
from typing import Any

import pytest

import ops.generation
import retrieval
from ops.cli.app import run
from ops.generation_metrics import GenerationMetrics
from ops.health import generation
from ops.health_metrics import HealthMetrics
from retrieval.service import create_app
from tests.acceptance.command import Ragstone
from tests.generation.conftest import Opening
from tests.generation.engine_server import EngineServer, engine_server
from tests.service.serving import served


@pytest.fixture
def looked(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `ragstone status --json` in this process with these settings, and returns its exit status and document."""
    monkeypatch.setattr(generation, "LOOK_S", 0.02)

    def look(*options: str, **settings: str) -> tuple[int, dict[str, Any]]:
        for name, value in {"embedding_model": "hashing", **settings}.items():
            monkeypatch.setenv(f"RAGSTONE_{name.upper()}", value)
        status = run(["--data", url, "status", "--json", *options])
        return status, json.loads(capsys.readouterr().out)

    return look


def test_everything_is_well(looked: Any, server: EngineServer, opening: Opening) -> None:
    """Corpus, collections, embedder and model server with its window and its figures; exit status 0."""
    rag = opening()
    rag.create_collection("shown").upsert([retrieval.Document(id="a", text="One document.")])
    server.says(num_requests_running=3, kv_cache_usage_perc=0.25)
    status, found = looked(generator_url=server.url)
    rag.delete_collection("shown")
    assert status == 0
    assert found["corpus_ms"] > 0
    (collection,) = [one for one in found["collections"] if one["name"] == "shown"]
    assert collection == {
        "name": "shown", "backend": "pgvector", "documents": 1, "chunks": 1, "behind": 0, "away_since": None,
    }  # fmt: skip
    assert found["embedder"] == "hashing"
    generator = found["generator"]
    assert (generator["model"], generator["window_tokens"], generator["problem"]) == ("tiny", 4096, None)
    assert (generator["metrics"], generator["url"]) == ("read", server.url)
    figures = generator["figures"]
    assert (figures["running"], figures["kv_cache_usage"], figures["generation_tokens_per_s"]) == (3, 0.25, 0)
    assert found["findings"] == []
    assert found["service"] is None


def test_without_a_model_server(looked: Any) -> None:
    """The extractive generator needs none."""
    status, found = looked()
    assert (status, found["generator"]) == (0, None)


def test_a_finding(looked: Any, server: EngineServer) -> None:
    """A cache that is nearly full is a finding: exit status 1."""
    server.says(kv_cache_usage_perc=0.97)
    status, found = looked(generator_url=server.url)
    assert status == 1
    assert [one["name"] for one in found["findings"]] == ["model_server_kv_cache"]


def test_a_model_server_that_is_away(looked: Any) -> None:
    """Exit status 3, with the reason; all the rest is shown."""
    status, found = looked(generator_url="http://user:geheim@127.0.0.1:9/v1")
    assert status == 3
    assert "127.0.0.1:9" in found["generator"]["problem"]
    assert found["generator"]["metrics"] == "away"
    assert found["embedder"] == "hashing"
    assert "geheim" not in json.dumps(found)


def test_a_model_server_without_metrics(looked: Any, server: EngineServer) -> None:
    """That is said, and is no finding."""
    server.path = "/nowhere"
    status, found = looked(generator_url=server.url)
    assert (status, found["generator"]["metrics"], found["generator"]["figures"]) == (0, "no_metrics", None)


def test_what_a_running_service_says(looked: Any, server: EngineServer, opening: Opening) -> None:
    """With --url: who waits there, its breaker, and what its own checks found."""
    rag = opening(generator_url="http://127.0.0.1:9/v1", generations_running=3, generator_metrics_every_s=0)
    health = HealthMetrics(rag, every_s=0)
    with ops.generation.running(rag) as telemetry, rag.admission.enter():
        for _ in range(rag.settings.generator_breaker_failures):
            with rag.generator.breaker.attempt() as attempt:  # type: ignore[attr-defined]  # a model server's client
                attempt.failed()
        health.look()
        with served(create_app(rag, collectors=[GenerationMetrics(rag, telemetry), health])) as url:
            status, found = looked("--url", url, generator_url=server.url)
    service = found["service"]
    assert status == 1
    assert (service["problem"], service["breaker"]) == (None, "open")
    assert (service["admission"]["running"], service["admission"]["places"]) == (1, 3)
    assert service["findings"] == {"model_server": "crit", "generation_breaker": "crit"}


def test_a_breaker_that_opened_since_the_last_check_is_a_finding(looked: Any, opening: Opening, url: str) -> None:
    """The service's own checks may be minutes old: exit status 1 all the same, and the screen says whose it is."""
    rag = opening(generator_url="http://127.0.0.1:9/v1", generator_metrics_every_s=0)
    with ops.generation.running(rag) as telemetry:
        for _ in range(rag.settings.generator_breaker_failures):
            with rag.generator.breaker.attempt() as attempt:  # type: ignore[attr-defined]  # a model server's client
                attempt.failed()
        with served(create_app(rag, collectors=[GenerationMetrics(rag, telemetry)])) as service:
            status, found = looked("--url", service)
            done = Ragstone(url, {})("status", "--url", service)
    assert (status, found["service"]["findings"]) == (1, {"generation_breaker": "crit"})
    assert done.status == 1
    said = " ".join(done.out.split())
    assert "configured (generator_url) for this command; the service has settings of its own" in said
    assert "crit generation_breaker: the service says so" in said


@pytest.mark.parametrize("text", ["", "<html>", "up 1\n", "up{ 1\n"])
def test_what_is_no_service(looked: Any, server: EngineServer, text: str) -> None:
    """Something else at --url, whatever its page says, is exit status 3."""
    with engine_server() as other:
        other.text = text
        status, found = looked("--url", other.url.removesuffix("/v1"), generator_url=server.url)
    assert status == 3
    assert other.url.removesuffix("/v1") in found["service"]["problem"]
    assert found["generator"]["problem"] is None


def test_a_service_that_is_not_there(looked: Any, server: EngineServer) -> None:
    """Nothing at --url is exit status 3, with the address."""
    status, found = looked("--url", "http://127.0.0.1:9", generator_url=server.url)
    assert status == 3
    assert "127.0.0.1:9" in found["service"]["problem"]


def test_a_wrong_address(looked: Any) -> None:
    """What is no address is wrong usage: exit status 2."""
    status, found = looked("--url", "nowhere")
    assert (status, found["error"]["code"]) == (2, "invalid_input")


def test_the_screen(url: str, server: EngineServer, opening: Opening) -> None:
    """The command as people run it: a line for each thing, and the finding with what to do about it."""
    rag = opening()
    rag.create_collection("handbook").upsert([retrieval.Document(id="a", text="One document.")])
    server.says(num_requests_running=12, num_requests_waiting=2, kv_cache_usage_perc=0.5)
    done = Ragstone(url, {"RAGSTONE_GENERATOR_URL": server.url})("status")
    rag.delete_collection("handbook")
    assert done.status == 1, done.err
    for said in (
        "handbook: 1 documents, 1 chunks in pgvector",
        "tiny, window 4,096 tokens",
        "running 12, waiting 2, KV cache 50 %",
        "warn model_server_queue: at least 2 waited in two looks",
        "add a model server",
    ):
        assert said in done.out
