"""The checks of the model server: each sees a fault that a server really shows, and sees it mended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

import ops.generation
from ops.generation import Telemetry
from ops.generation.answers import AnswerMetrics
from ops.generation.engine import EngineWatch
from ops.generation.trends import BASELINE_S, SUSTAINED_S
from ops.health import generation, running
from ops.health.check import Check, CheckFunction, Subject
from retrieval import Ragstone
from retrieval.documents import Usage
from tests.generation.conftest import Opening
from tests.generation.engine_server import Clock, EngineServer, watching
from tests.latency.watching import answered


def check(rag: Ragstone, function: CheckFunction) -> Check | None:
    """What a function finds; None where it has nothing to say."""
    found = {one.name: one for one in function(Subject(rag=rag))}
    assert found.keys() <= {function.__name__}
    return found.get(function.__name__)


class Watched:
    """A corpus in a process that serves, whose model server is looked at when a test says."""

    def __init__(self, rag: Ragstone, server: EngineServer, watch: EngineWatch, clock: Clock) -> None:
        self.rag, self.server, self.watch, self.clock = rag, server, watch, clock
        self.answers = AnswerMetrics(clock)

    def look(self, span_s: float = 0.0, **values: float) -> None:
        """Let the server say this, for so long."""
        self.server.says(**values)
        for _ in range(int(span_s // 30) + 1):
            self.clock.now_s += 30
            self.watch.look()

    def level(self, function: CheckFunction) -> str:
        found = check(self.rag, function)
        assert found is not None
        assert found.level == "ok" or found.hint
        return found.level


@contextmanager
def serving(rag: Ragstone, server: EngineServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    clock = Clock()
    with watching(server.url, clock) as watch:
        watch.sustained_s = SUSTAINED_S
        made = Watched(rag, server, watch, clock)
        monkeypatch.setitem(ops.generation._running, rag, Telemetry(made.answers, watch))
        yield made


@pytest.fixture
def watched(opening: Opening, server: EngineServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with serving(opening(generator_url=server.url), server, monkeypatch) as made:
        yield made


def test_a_server_that_does_not_answer(opening: Opening, server: EngineServer) -> None:
    """It is critical while nothing answers at generator_url; other checks of it have nothing to say then."""
    assert check(opening(generator_url=server.url), generation.model_server) is not None
    away = opening(generator_url="http://127.0.0.1:9/v1")
    found = check(away, generation.model_server)
    assert found is not None
    assert (found.level, "127.0.0.1:9" in found.detail) == ("crit", True)
    assert check(away, generation.model_server_queue) is None
    server_there = check(opening(generator_url=server.url), generation.model_server)
    assert server_there is not None
    assert server_there.level == "ok"


def test_without_a_model_server_there_is_nothing_to_check(opening: Opening) -> None:
    """The extractive generator has no server."""
    rag = opening()
    assert [list(function(Subject(rag=rag))) for function in generation.CORPUS_CHECKS] == [[]] * 7


def test_a_server_without_metrics_is_only_asked_whether_it_is_there(opening: Opening, server: EngineServer) -> None:
    """What it does not tell is not unknown every five minutes."""
    server.path = "/nowhere"
    rag = opening(generator_url=server.url)
    found = [one for function in generation.CORPUS_CHECKS for one in function(Subject(rag=rag))]
    assert [one.name for one in found] == ["model_server"]


def test_requests_that_wait_all_the_time(watched: Watched) -> None:
    """A queue that was there at every look of the last five minutes is a warning; one that empties is none."""
    watched.look(SUSTAINED_S, num_requests_waiting=0)
    watched.look(SUSTAINED_S / 2, num_requests_waiting=4)
    assert watched.level(generation.model_server_queue) == "ok"
    watched.look(SUSTAINED_S, num_requests_waiting=3)
    assert watched.level(generation.model_server_queue) == "warn"
    watched.look(num_requests_waiting=0)
    assert watched.level(generation.model_server_queue) == "ok"


def test_a_cache_that_is_nearly_full(watched: Watched) -> None:
    """Above 90 % for five minutes is a warning."""
    watched.look(SUSTAINED_S, kv_cache_usage_perc=0.9)
    assert watched.level(generation.model_server_kv_cache) == "ok"
    watched.look(SUSTAINED_S / 2, kv_cache_usage_perc=0.97)
    assert watched.level(generation.model_server_kv_cache) == "ok"
    watched.look(SUSTAINED_S, kv_cache_usage_perc=0.93)
    found = check(watched.rag, generation.model_server_kv_cache)
    assert found is not None
    assert (found.level, found.value) == ("warn", 0.93)
    assert found.detail == "93% is in use; never less than 93% in the last 5 minutes"


def test_a_process_that_just_started_waits_before_it_warns(watched: Watched) -> None:
    """Two looks are not five minutes."""
    watched.look(30, kv_cache_usage_perc=0.99, num_requests_waiting=9)
    assert watched.level(generation.model_server_kv_cache) == "ok"
    assert watched.level(generation.model_server_queue) == "ok"


def test_requests_that_lost_their_place(watched: Watched) -> None:
    """Each preemption of the last five minutes is counted; later they are forgotten."""
    watched.look(60, num_preemptions_total=7)
    assert watched.level(generation.model_server_preemptions) == "ok"
    watched.look(num_preemptions_total=12)
    found = check(watched.rag, generation.model_server_preemptions)
    assert found is not None
    assert (found.level, found.value) == ("warn", 5)
    watched.look(2 * SUSTAINED_S, num_preemptions_total=12)
    assert watched.level(generation.model_server_preemptions) == "ok"


def test_tokens_that_come_slower(watched: Watched) -> None:
    """Half the tokens a second for as many requests in progress is a warning; so many again, and it is gone."""
    tokens = 0

    def generating(per_s: int, span_s: float) -> None:
        nonlocal tokens
        for _ in range(int(span_s // 30)):
            tokens += 30 * per_s
            watched.look(generation_tokens_total=tokens, num_requests_running=8)

    generating(1_000, BASELINE_S)
    assert watched.level(generation.model_server_speed) == "ok"
    generating(450, SUSTAINED_S)
    found = check(watched.rag, generation.model_server_speed)
    assert found is not None
    assert (found.level, found.value) == ("warn", pytest.approx(0.45))
    assert found.detail.startswith("450 tokens/s for 8 requests in progress; in the half hour before, 1000 for 8")
    generating(1_000, SUSTAINED_S)
    assert watched.level(generation.model_server_speed) == "ok"


def test_first_tokens_that_lag(watched: Watched) -> None:
    """Ten times the prompt and thirty times the wait is a warning; ten times the wait is none."""

    def answers(prompt_tokens: int, first_s: float) -> None:
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=20)
        for _ in range(25):
            watched.answers(replace(answered(), usage=usage, first_s=first_s, generate_s=first_s + 1))

    assert check(watched.rag, generation.first_token_growth) is None
    answers(400, 0.1)
    answers(4_000, 1.0)
    assert watched.level(generation.first_token_growth) == "ok"
    watched.clock.now_s += 3_600
    answers(400, 0.1)
    answers(4_000, 3.0)
    found = check(watched.rag, generation.first_token_growth)
    assert found is not None
    assert (found.level, found.value) == ("warn", pytest.approx(3.0))
    assert found.detail == "0.10 s at 400 tokens, 3.00 s at 4,000"


def test_a_breaker_that_is_open(opening: Opening) -> None:
    """Failures in a row open it, which is critical; before the generator was ever asked there is none."""
    rag = opening(generator_url="http://127.0.0.1:9/v1", generator_breaker_failures=1, generator_retries=0)
    assert check(rag, generation.generation_breaker) is None
    breaker = rag.generator.breaker  # type: ignore[attr-defined]  # the client of a model server has one
    found = check(rag, generation.generation_breaker)
    assert found is not None
    assert found.level == "ok"
    with breaker.attempt() as attempt:
        attempt.failed()
    found = check(rag, generation.generation_breaker)
    assert found is not None
    assert (found.level, found.detail) == ("crit", "open; 1 failures since the start")


def test_one_look_of_a_command(opening: Opening, server: EngineServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not serve looks twice itself, once for all checks together."""
    monkeypatch.setattr(generation, "LOOK_S", 0.01)
    server.says(kv_cache_usage_perc=0.95, num_requests_waiting=2)
    rag = opening(generator_url=server.url)
    report = running.run(rag)
    levels = {one.name: one.level for one in report.checks}
    assert levels["model_server_kv_cache"] == levels["model_server_queue"] == "warn"
    assert levels["model_server"] == levels["model_server_preemptions"] == "ok"
    assert "model_server_speed" not in levels
    assert server.asked.count("/metrics") == 2


def test_a_service_looks_on_its_own(opening: Opening, server: EngineServer) -> None:
    """While it runs, the checks go by what its thread has read; afterwards nobody reads any more."""
    rag = opening(generator_url=server.url, generator_metrics_every_s=0.05)
    with ops.generation.running(rag) as telemetry:
        assert telemetry.engine is not None
        until_s = time.monotonic() + 10
        while len(telemetry.engine.readings) < 3 and time.monotonic() < until_s:
            time.sleep(0.02)
        assert generation.engine_of(rag) is telemetry.engine
        assert telemetry.provider == "vllm"
        assert telemetry.answers in rag.observers._observers
    assert ops.generation.telemetry_of(rag) is None
    assert not rag.observers


def test_switched_off(opening: Opening, server: EngineServer) -> None:
    """With generator_metrics_every_s 0 a service reads nothing, and has no findings of it."""
    rag = opening(generator_url=server.url, generator_metrics_every_s=0)
    with ops.generation.running(rag) as telemetry:
        assert telemetry.engine is None
        assert check(rag, generation.model_server_kv_cache) is None
    assert "/metrics" not in server.asked
