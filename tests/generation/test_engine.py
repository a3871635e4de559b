"""Looking at a model server again and again, however it behaves."""

import threading
import time
from contextlib import nullcontext

import pytest

from backends.errors import GeneratorUnavailable
from ops.generation import engine
from ops.generation.engine import REMEMBERED_S
from retrieval.generation import metrics_page
from retrieval.generation.address import ServerAddress
from retrieval.generation.metrics_page import MetricsPage
from tests.generation.engine_server import Clock, engine_server, watching


def test_two_looks_make_figures() -> None:
    """The first look says how it stands, the second how fast it goes."""
    clock = Clock()
    with engine_server() as server, watching(server.url, clock) as watch:
        assert (watch.state, watch.last, watch.figures) == ("unread", None, None)
        watch.look()
        assert watch.last is not None
        assert (watch.state, watch.last.values["generation_tokens"], watch.figures) == ("read", 60, None)
        clock.now_s += 2
        server.says(generation_tokens_total=160, num_requests_running=3)
        watch.look()
        assert watch.figures is not None
        assert (watch.figures.generation_tokens_per_s, watch.figures.running) == (50, 3)
        assert watch.restarts == 0
        server.says(generation_tokens_total=1)
        watch.look()
        assert watch.restarts == 1


def test_old_readings_are_forgotten() -> None:
    """What is kept covers the time that is compared, and no more."""
    clock = Clock()
    with engine_server() as server, watching(server.url, clock) as watch:
        for _ in range(4):
            watch.look()
            clock.now_s += REMEMBERED_S * 0.4
        assert len(watch.readings) == 3


def test_a_server_without_metrics_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line, not one every ten seconds; when it has metrics after all, they are read."""
    with engine_server() as server, watching(server.url) as watch:
        server.path = "/nowhere"
        for _ in range(3):
            watch.look()
        assert (watch.state, watch.problem) == ("no_metrics", "the model server has no page of metrics")
        assert caplog.messages == ["model server: the model server has no page of metrics"]
        server.path = "/metrics"
        watch.look()
        assert watch.state == "read"


def test_the_page_is_found_where_tensorrt_llm_has_it() -> None:
    """Its /metrics is JSON, which is taken from whoever else reads it: it is asked once, and then the other page."""
    with engine_server() as server, watching(server.url) as watch:
        server.path = "/prometheus/metrics"
        for _ in range(3):
            watch.look()
        assert watch.state == "read"
        assert server.asked == ["/metrics", *["/prometheus/metrics"] * 3]


@pytest.mark.parametrize("base", ["", "/behind/a/proxy/v1", "/v3"])
def test_the_page_is_beside_the_api(base: str) -> None:
    """Whatever stands before the version in generator_url stands before /metrics."""
    with engine_server() as server, watching(server.url.removesuffix("/v1") + base) as watch:
        server.path = f"{base.removesuffix('/v1').removesuffix('/v3')}/metrics"
        watch.look()
        assert watch.state == "read"


def test_a_server_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once that it does not answer; its last figures are not shown as if they were of now."""
    with engine_server() as server:
        port = server.server_address[1]
    with watching(server.url) as watch:
        for running in (True, False, True):
            with engine_server(port) if running else nullcontext():
                watch.look()
                watch.look()
            expected = ("read", True) if running else ("away", False)
            assert (watch.state, watch.figures is not None) == expected
            assert (watch.last is not None) is running
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_is_being_away(status: int) -> None:
    """A server that fails at its own metrics is not one that has none."""
    with engine_server() as server, watching(server.url) as watch:
        server.status = status
        watch.look()
        assert watch.state == "away"
        assert str(status) in watch.problem


@pytest.mark.parametrize("status", [301, 302, 307])
def test_no_redirect_is_followed(status: int) -> None:
    """A model server does not send us to other addresses of our network."""
    with engine_server() as server, engine_server() as other, watching(server.url) as watch:
        server.status, server.headers = status, {"Location": f"{other.url.removesuffix('/v1')}/metrics"}
        watch.look()
        assert (watch.state, other.asked) == ("no_metrics", [])


def test_a_page_of_something_else_is_none() -> None:
    """HTML with status 200, as proxies answer, is no page of metrics."""
    with engine_server() as server, watching(server.url) as watch:
        server.text, server.content_type = "<html>hello</html>", "text/html"
        watch.look()
        assert watch.state == "no_metrics"
        server.content_type = "text/plain"
        watch.look()
        assert (watch.state, "none of the names" in watch.problem) == ("no_metrics", True)


def test_a_slow_page_is_not_waited_for() -> None:
    """A server that sends a little now and then is left after the time that a look may take."""
    with engine_server() as server, watching(server.url, timeout_s=0.3) as watch:
        server.pause_s = 0.1
        began_s = time.monotonic()
        watch.look()
        assert time.monotonic() - began_s < 1.0
        assert (watch.state, "within 0.3 s" in watch.problem) == ("away", True)


def test_a_page_that_does_not_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a page can be is not kept in memory."""
    monkeypatch.setattr(metrics_page, "MOST_BYTES", 10_000)
    with engine_server() as server:
        page = MetricsPage(ServerAddress(server.url, None))
        with pytest.raises(GeneratorUnavailable, match="longer than 10000 bytes"):
            page.read()
        page.close()


def test_the_timer_looks_and_ends() -> None:
    """While it runs a thread looks; when the block ends, so does the thread."""
    with engine_server() as server, watching(server.url) as watch:
        with watch.running(every_s=0.02, sustained_s=60):
            until_s = time.monotonic() + 10
            while len(watch.readings) < 3 and time.monotonic() < until_s:
                time.sleep(0.01)
        assert len(watch.readings) >= 3
        looked = len(server.asked)
        time.sleep(0.1)
        assert len(server.asked) == looked
        assert "ragstone-engine" not in {thread.name for thread in threading.enumerate()}


def test_an_error_that_nobody_foresaw_is_not_the_last_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread goes on."""
    real, calls = engine.read, []

    def fails_once(page: str, at_s: float) -> object:
        calls.append(page)
        if len(calls) == 1:
            raise RuntimeError("out of something")
        return real(page, at_s)

    monkeypatch.setattr(engine, "read", fails_once)
    with engine_server() as server, watching(server.url) as watch, watch.running(every_s=0.02, sustained_s=60):
        until_s = time.monotonic() + 10
        while watch.state != "read" and time.monotonic() < until_s:
            time.sleep(0.01)
        assert watch.state == "read"
    assert "model server: unexpected error" in caplog.messages
