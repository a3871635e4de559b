"""The figures of a real vLLM: under the names that are looked for, and true."""

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from ops.generation.engine import EngineWatch, watch_of
from ops.generation.names import FIGURES
from ops.generation.reading import read
from retrieval.config import load
from tests.generation.engine_server import PAGE


@pytest.fixture
def watch(vllm_url: str) -> Iterator[EngineWatch]:
    watch = watch_of(load(generator_url=vllm_url))
    assert watch is not None
    yield watch
    watch.close()


def ask(vllm_url: str, words: int, max_tokens: int) -> dict[str, int]:
    """Ask for an answer of exactly so many tokens, and return the usage."""
    model = httpx.get(f"{vllm_url}/models").json()["data"][0]["id"]
    messages = [{"role": "user", "content": "leave " * words}]
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "ignore_eos": True}
    answer = httpx.post(f"{vllm_url}/chat/completions", json=body, timeout=120)
    usage: dict[str, int] = answer.raise_for_status().json()["usage"]
    return usage


def settled(watch: EngineWatch) -> None:
    """Look when nothing is under way any more: vLLM brings its figures up to date a moment after an answer."""
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        watch.look()
        assert watch.state == "read", watch.problem
        assert watch.last is not None
        if watch.last.values["running"] == watch.last.values["waiting"] == 0:
            time.sleep(0.3)
            watch.look()
            return
        time.sleep(0.1)
    raise AssertionError("vLLM does not come to rest")


def test_vllm_gives_what_is_looked_for(watch: EngineWatch) -> None:
    """It has the figures that the kept page has: a version that calls one otherwise is noticed here."""
    watch.look()
    assert watch.last is not None
    kept = read(PAGE, 0)
    assert watch.last.engine == "vllm"
    assert watch.last.values.keys() >= kept.values.keys()
    assert watch.last.finished.keys() >= kept.finished.keys()
    assert watch.last.values.keys() <= FIGURES.keys()


def test_tokens_are_those_of_the_answers(watch: EngineWatch, vllm_url: str) -> None:
    """Between two looks, the tokens and requests are exactly those of the answers in between."""
    settled(watch)
    before = watch.last
    usages = [ask(vllm_url, words, 16) for words in (5, 300)]
    settled(watch)
    after = watch.last
    assert before is not None
    assert after is not None
    grown = {name: after.values[name] - before.values[name] for name in ("prompt_tokens", "generation_tokens")}
    assert grown["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
    assert grown["generation_tokens"] == sum(usage["completion_tokens"] for usage in usages) == 32
    assert after.finished["length"] - before.finished["length"] == 2
    assert watch.restarts == 0


def test_requests_in_progress_and_the_cache_are_seen(watch: EngineWatch, vllm_url: str) -> None:
    """While answers are written: how many, how fast, and that they take room in the cache."""
    seen = threading.Event()

    def ask_on() -> None:
        while not seen.is_set():
            ask(vllm_url, 400, 1_500)

    asking = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in asking:
        thread.start()
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s and not (watch.figures and watch.figures.running and watch.figures.kv_cache_usage):
        time.sleep(0.05)
        watch.look()
    found = watch.figures
    seen.set()
    for thread in asking:
        thread.join()
    assert found is not None
    assert 1 <= (found.in_progress or 0) <= 4
    assert (found.generation_tokens_per_s or 0) > 0
    assert 0 < (found.kv_cache_usage or 0) < 1
    settled(watch)
    assert watch.last is not None
    assert watch.last.values["kv_cache_usage"] == 0


def test_a_prompt_that_was_read_before_is_found_in_the_cache(watch: EngineWatch, vllm_url: str) -> None:
    """The same prompt twice: the second time most of it is a hit."""
    ask(vllm_url, 1_000, 1)
    settled(watch)
    before = watch.last
    usage = ask(vllm_url, 1_000, 1)
    settled(watch)
    assert before is not None
    assert watch.last is not None
    hits = watch.last.values["prefix_hits"] - before.values["prefix_hits"]
    queries = watch.last.values["prefix_queries"] - before.values["prefix_queries"]
    assert queries == usage["prompt_tokens"]
    assert 0.5 * queries < hits < queries
