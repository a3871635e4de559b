"""What a service's /metrics says of generation."""

import asyncio
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import ops.generation
from ops.generation.names import FIGURES
from ops.generation_metrics import ENGINE_HELP, GenerationMetrics
from retrieval import Document, Ragstone
from retrieval.service import create_app
from tests.generation.conftest import Opening
from tests.generation.engine_server import EngineServer
from tests.generation.test_answers import Scraped, scraped
from tests.service.serving import served


def gauge(found: Scraped, name: str, **labels: str) -> float | None:
    return found.get((f"ragstone_{name}", frozenset(labels.items())))


@pytest.fixture
def metrics(opening: Opening, server: EngineServer) -> Iterator[GenerationMetrics]:
    """Of a process that looks at its model server every 20 ms."""
    rag = opening(generator_url=server.url, generator_metrics_every_s=0.02, generations_running=2)
    with ops.generation.running(rag) as telemetry:
        yield GenerationMetrics(rag, telemetry)


def eventually(metrics: GenerationMetrics, name: str, value: float | None, **labels: str) -> Scraped:
    """Wait until a sample has a value."""
    until_s = time.monotonic() + 10
    while True:
        found = scraped(metrics)
        if gauge(found, name, **labels) == value:
            return found
        assert time.monotonic() < until_s, f"{name} is {gauge(found, name, **labels)}"
        time.sleep(0.02)


def test_the_model_server_is_seen_through_us(metrics: GenerationMetrics, server: EngineServer) -> None:
    """Its figures under our names, with units; what it does not tell is not there."""
    server.says(num_requests_running=3, num_requests_waiting=1, kv_cache_usage_perc=0.5, num_preemptions_total=2)
    found = eventually(metrics, "engine_requests_running", 3)
    assert gauge(found, "engine_up") == 1
    assert gauge(found, "engine_requests_waiting") == 1
    assert gauge(found, "engine_kv_cache_usage_ratio") == 0.5
    assert gauge(found, "engine_preemptions_total") == 2
    assert gauge(found, "engine_generation_tokens_total") == 60
    assert gauge(found, "engine_prefix_cache_queries_total") == 183
    assert gauge(found, "engine_requests_finished_total", reason="length") == 3
    assert gauge(found, "engine_last_read_timestamp_seconds") == pytest.approx(time.time(), abs=10)
    assert gauge(found, "engine_kv_evictions_total") is None
    assert not [name for name, _ in found if name.startswith("vllm")]


def test_every_figure_has_a_name_of_ours() -> None:
    """None is read and then forgotten."""
    assert ENGINE_HELP.keys() == FIGURES.keys()


def test_a_restart_is_counted(metrics: GenerationMetrics, server: EngineServer) -> None:
    """Counters that begin anew are a server that was started anew."""
    eventually(metrics, "engine_restarts_total", 0)
    eventually(metrics, "engine_generation_tokens_total", 60)
    server.says(generation_tokens_total=1)
    eventually(metrics, "engine_restarts_total", 1)


def test_figures_of_a_server_that_went_away_are_not_told(metrics: GenerationMetrics, server: EngineServer) -> None:
    """Neither its queue of a while ago nor its cache."""
    eventually(metrics, "engine_up", 1)
    server.status = 500
    found = eventually(metrics, "engine_up", 0)
    assert gauge(found, "engine_requests_running") is None
    server.status, server.path = 200, "/nowhere"
    eventually(metrics, "engine_up", None)


def test_queue_depth_for_an_autoscaler(metrics: GenerationMetrics) -> None:
    """Who holds a place, who waits and for how long, and who was refused."""
    admission = metrics._rag.admission

    async def three() -> None:
        async with admission.aenter(), admission.aenter():
            waiting = asyncio.create_task(_enter())
            await asyncio.sleep(0.05)
            found = scraped(metrics)
            assert (gauge(found, "generation_running"), gauge(found, "generation_waiting")) == (2, 1)
            assert (gauge(found, "generation_places"), gauge(found, "generation_waiting_places")) == (2, 128)
        await waiting

    async def _enter() -> None:
        async with admission.aenter():
            pass

    asyncio.run(three())
    found = scraped(metrics)
    assert (gauge(found, "generation_running"), gauge(found, "generation_admitted_total")) == (0, 3)
    assert (gauge(found, "generation_wait_seconds_total") or 0) >= 0.04
    assert gauge(found, "generation_refused_total") == 0


def test_the_breaker_is_one_of_three(metrics: GenerationMetrics) -> None:
    """Its state is there when the generator is, and of the states one is 1."""
    assert gauge(scraped(metrics), "generation_breaker_state", state="closed") is None
    breaker = metrics._rag.generator.breaker  # type: ignore[attr-defined]  # the client of a model server has one
    found = scraped(metrics)
    states = {state: gauge(found, "generation_breaker_state", state=state) for state in ("closed", "open", "half_open")}
    assert states == {"closed": 1, "open": 0, "half_open": 0}
    for _ in range(metrics._rag.settings.generator_breaker_failures):
        with breaker.attempt() as attempt:
            attempt.failed()
    found = scraped(metrics)
    assert gauge(found, "generation_breaker_state", state="open") == 1
    assert gauge(found, "generation_breaker_opened_total") == 1
    assert gauge(found, "generation_breaker_failures_total") == 5


@pytest.fixture
def extractive(opening: Opening) -> Iterator[Ragstone]:
    rag = opening(refusal_score=-1.0)
    rag.create_collection("metered").upsert([Document(id="leave", text="Everyone has thirty days of leave a year.")])
    yield rag
    rag.delete_collection("metered")


def test_a_scrape_while_answers_are_written(extractive: Ragstone) -> None:
    """Streamed or whole, each answer that the service gave is counted, and a scrape meanwhile is a page that parses."""
    texts: list[str] = []
    with (
        ops.generation.running(extractive) as telemetry,
        served(create_app(extractive, collectors=[GenerationMetrics(extractive, telemetry)])) as url,
    ):
        asked = {"query": "How many days of leave?"}

        def ask(stream: bool) -> None:
            body = asked | {"stream": stream}
            httpx.post(f"{url}/v1/collections/metered/generate", json=body).raise_for_status()

        threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(10)]
        for thread in threads:
            thread.start()
        texts = [httpx.get(f"{url}/metrics").text for _ in range(5)]
        for thread in threads:
            thread.join()
        texts.append(httpx.get(f"{url}/metrics").text)
    for text in texts:
        found = {
            (sample.name, sample.labels.get("streamed", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    assert found["ragstone_generation_answers_total", "true"] == 5
    assert found["ragstone_generation_answers_total", "false"] == 5
    assert found["ragstone_generation_admitted_total", ""] == 10
