"""The dynamic batcher: shared passes, priority, bounds, errors, the cache, the end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from backends.errors import EmbedderUnavailable, QueueFull
from retrieval.embedding.batching import SLICE_TEXTS, Batcher
from retrieval.embedding.hashing import HashingEmbedder
from tests.fakes.embedders import HeldEmbedder, RecordingEmbedder


@contextmanager
def batching(embedder, *, batch_tokens=1_000, queue_texts=1_000, cache_queries=0):
    batcher = Batcher(embedder, batch_tokens=batch_tokens, queue_texts=queue_texts, cache_queries=cache_queries)
    try:
        yield batcher
    finally:
        if isinstance(embedder, HeldEmbedder):
            embedder.free()
        batcher.close()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(64) as pool:
        yield pool


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass within 10 s"
        time.sleep(0.001)


def expected(texts):
    return HashingEmbedder().embed(texts, "passage")


def hold_a_pass(batcher, embedder, threads, kind="passage"):
    """Start a pass that waits, so that what comes next queues up behind it."""
    running = threads.submit(batcher.embed, ["first"], kind)
    assert embedder.started.acquire(timeout=10)
    return running


def test_texts_come_back_in_their_order():
    """Each row is its text's embedding, whatever the order in which passes took the texts."""
    texts = [f"text {'word ' * (number % 7)}{number}" for number in range(1_000)]
    with batching(RecordingEmbedder(), batch_tokens=50) as batcher:
        embeddings = batcher.embed(texts, "passage")
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, expected(texts))


def test_no_texts_give_no_rows():
    """An empty call returns an array of no rows and the right width, and costs no pass."""
    embedder = RecordingEmbedder()
    with batching(embedder) as batcher:
        assert batcher.embed([], "passage").shape == (0, 64)
    assert embedder.passes == []


def test_callers_share_forward_passes(threads):
    """Whatever came while a pass ran forms the next one."""
    embedder = HeldEmbedder()
    with batching(embedder) as batcher:
        first = hold_a_pass(batcher, embedder, threads, "query")
        queries = [f"query {number}" for number in range(32)]
        others = [threads.submit(batcher.embed, [query], "query") for query in queries]
        wait_until(lambda: batcher.stats().waiting_queries == 32)
        embedder.let_go(2)
        for query, other in zip(queries, others, strict=True):
            np.testing.assert_array_equal(other.result(10), expected([query]))
        first.result(10)
        assert [len(texts) for texts in embedder.passes] == [1, 32]
        assert batcher.stats().passes == 2


def test_queries_go_before_passages(threads):
    """A query that comes last runs in the very next pass."""
    embedder = HeldEmbedder()
    with batching(embedder, batch_tokens=20) as batcher:
        bulk = hold_a_pass(batcher, embedder, threads)
        more = threads.submit(batcher.embed, [f"passage {number}" for number in range(100)], "passage")
        wait_until(lambda: batcher.stats().waiting_passages == 100)
        query = threads.submit(batcher.embed, ["the query"], "query")
        wait_until(lambda: batcher.stats().waiting_queries == 1)
        embedder.let_go(2)
        query.result(10)
        assert embedder.passes[:2] == [["first"], ["the query"]]
        embedder.free()
        bulk.result(10)
        more.result(10)


def test_the_first_text_of_an_idle_batcher_runs_at_once():
    """No window of time is waited for company: a hundred calls in a row take far less than any window."""
    with batching(RecordingEmbedder()) as batcher:
        started = time.perf_counter()
        for number in range(100):
            batcher.embed([f"query {number}"], "query")
        assert time.perf_counter() - started < 1.0


def test_a_batch_that_does_not_fit_is_split():
    """Running out of memory halves the batch until it fits, and every text is embedded."""
    embedder = RecordingEmbedder(fits=3)
    texts = [f"text {number}" for number in range(20)]
    with batching(embedder) as batcher:
        np.testing.assert_array_equal(batcher.embed(texts, "passage"), expected(texts))
        assert batcher.stats().splits > 0
    assert [len(texts) for texts in embedder.passes][:3] == [20, 10, 5]


def test_one_text_that_does_not_fit_fails_alone(threads):
    """A text that runs out of memory by itself raises MemoryError to its caller, and the others are served."""
    embedder = HeldEmbedder(fits=0)
    with batching(embedder) as batcher:
        failing = hold_a_pass(batcher, embedder, threads)
        embedder.let_go()
        with pytest.raises(MemoryError):
            failing.result(10)
        embedder.fits = 10
        embedder.free()
        np.testing.assert_array_equal(batcher.embed(["fine"], "passage"), expected(["fine"]))


def test_an_error_reaches_the_callers_of_its_pass_and_no_other(threads):
    """Callers who shared the failing pass get its error; those before and after get their embeddings."""
    embedder = HeldEmbedder()
    with batching(embedder) as batcher:
        before = hold_a_pass(batcher, embedder, threads)
        failing = [threads.submit(batcher.embed, [text], "query") for text in ("poison", "its neighbour")]
        wait_until(lambda: batcher.stats().waiting_queries == 2)
        after = threads.submit(batcher.embed, ["after"], "passage")
        wait_until(lambda: batcher.stats().waiting_passages == 1)
        embedder.free()
        for call in failing:
            with pytest.raises(ValueError, match="poison"):
                call.result(10)
        np.testing.assert_array_equal(before.result(10), expected(["first"]))
        np.testing.assert_array_equal(after.result(10), expected(["after"]))
        np.testing.assert_array_equal(batcher.embed(["its neighbour"], "query"), expected(["its neighbour"]))


def test_a_call_whose_pass_failed_costs_no_further_passes():
    """Once one of its passes failed, a call's other passages are passed over."""
    embedder = RecordingEmbedder()
    texts = ["poison", *(f"a longer text {number}" for number in range(200))]
    with batching(embedder, batch_tokens=4) as batcher:
        with pytest.raises(ValueError, match="poison"):
            batcher.embed(texts, "passage")
        batcher.embed(["another"], "passage")
    assert len(embedder.passes) < 20


def test_an_answer_of_the_wrong_shape_is_an_error():
    """An embedder that loses a row does not shift the others."""

    class Losing(RecordingEmbedder):
        def run(self, prepared):
            return super().run(prepared)[:-1]

    with batching(Losing()) as batcher, pytest.raises(EmbedderUnavailable, match="shape"):
        batcher.embed(["one", "two"], "passage")


def test_queries_are_refused_when_the_queue_is_full(threads):
    """The query that finds the queue full gets QueueFull with a time; those that wait are served."""
    embedder = HeldEmbedder()
    with batching(embedder, queue_texts=4) as batcher:
        first = hold_a_pass(batcher, embedder, threads)
        waiting = [threads.submit(batcher.embed, [f"query {number}"], "query") for number in range(4)]
        wait_until(lambda: batcher.stats().waiting_queries == 4)
        with pytest.raises(QueueFull, match="4 queries wait") as refused:
            batcher.embed(["one too many"], "query")
        assert refused.value.retry_after_s > 0
        assert batcher.stats().refused == 1
        embedder.free()
        for call in [first, *waiting]:
            assert call.result(10).shape == (1, 64)


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_a_call_larger_than_the_queue_works(kind):
    """A call with more texts than may wait feeds them slice by slice."""
    texts = [f"text {number}" for number in range(50)]
    with batching(RecordingEmbedder(), queue_texts=3) as batcher:
        np.testing.assert_array_equal(batcher.embed(texts, kind), expected(texts))


def test_ingest_is_slowed_and_queries_are_let_in(threads):
    """While many callers' passages fill their queue, none of them is refused, and neither is a query."""
    embedder = HeldEmbedder()
    with batching(embedder, queue_texts=8) as batcher:
        calls = [threads.submit(batcher.embed, [f"{caller} {n}" for n in range(20)], "passage") for caller in range(8)]
        wait_until(lambda: batcher.stats().waiting_passages > 0)
        query = threads.submit(batcher.embed, ["query"], "query")
        wait_until(lambda: batcher.stats().waiting_queries == 1)
        assert batcher.stats().waiting_passages <= 8
        embedder.free()
        assert query.result(10).shape == (1, 64)
        for caller, call in enumerate(calls):
            np.testing.assert_array_equal(call.result(10), expected([f"{caller} {n}" for n in range(20)]))


def test_a_bulk_call_is_tokenized_slice_by_slice(threads):
    """Only two slices of a bulk call are prepared before the first is embedded."""
    embedder = HeldEmbedder()
    with batching(embedder, batch_tokens=100_000) as batcher:
        call = threads.submit(batcher.embed, ["text"] * (5 * SLICE_TEXTS), "passage")
        wait_until(lambda: embedder.prepared_texts >= 2 * SLICE_TEXTS)
        time.sleep(0.05)  # a third slice would be prepared by then
        assert embedder.prepared_texts == 2 * SLICE_TEXTS
        embedder.free()
        assert len(call.result(10)) == 5 * SLICE_TEXTS


def test_repeated_queries_come_from_the_cache():
    """A query that was asked before costs no pass, and gives the same embedding; a passage is not cached."""
    embedder = RecordingEmbedder()
    with batching(embedder, cache_queries=10) as batcher:
        first = batcher.embed(["a query"], "query")
        again = batcher.embed(["another", "a query"], "query")
        np.testing.assert_array_equal(again[1], first[0])
        batcher.embed(["a query"], "passage")
        stats = batcher.stats()
    assert embedder.passes == [["a query"], ["another"], ["a query"]]
    assert (stats.cache_hits, stats.cache_misses) == (1, 2)


def test_a_callers_array_is_its_own():
    """Writing into a result does not change what the cache gives out later."""
    with batching(RecordingEmbedder(), cache_queries=10) as batcher:
        batcher.embed(["a query"], "query")[:] = 7
        batcher.embed(["a query"], "query")[:] = 7
        np.testing.assert_array_equal(batcher.embed(["a query"], "query"), expected(["a query"]))


def test_the_cache_forgets_the_least_recently_used():
    """A cache of two keeps the two queries asked last."""
    embedder = RecordingEmbedder()
    with batching(embedder, cache_queries=2) as batcher:
        for query in ("one", "two", "one", "three", "one", "two"):
            batcher.embed([query], "query")
    assert [texts[0] for texts in embedder.passes] == ["one", "two", "three", "two"]


def test_no_cache_remembers_nothing():
    """With a cache of 0 each call is a pass."""
    embedder = RecordingEmbedder()
    with batching(embedder) as batcher:
        batcher.embed(["a query"], "query")
        batcher.embed(["a query"], "query")
    assert len(embedder.passes) == 2


def test_identical_queries_that_wait_together_are_embedded_once(threads):
    """Twenty callers with one question cost one row of one pass, with the cache off."""
    embedder = HeldEmbedder()
    with batching(embedder) as batcher:
        hold_a_pass(batcher, embedder, threads)
        calls = [threads.submit(batcher.embed, ["the same", "the same"], "query") for _ in range(20)]
        wait_until(lambda: embedder.prepared_texts == 41)
        embedder.free()
        for call in calls:
            np.testing.assert_array_equal(call.result(10), expected(["the same", "the same"]))
        wait_until(lambda: batcher.stats().waiting_queries == 0)
    assert embedder.passes[1] == ["the same"]


def test_closing_ends_callers_that_wait(threads):
    """The running pass is finished; callers that wait get an error, and so does whoever comes later."""
    embedder = HeldEmbedder()
    others = set(threading.enumerate())
    with batching(embedder, queue_texts=2) as batcher:
        running = hold_a_pass(batcher, embedder, threads)
        waiting = threads.submit(batcher.embed, ["query"], "query")
        blocked = threads.submit(batcher.embed, ["passage"] * 10, "passage")
        wait_until(lambda: batcher.stats().waiting_queries == 1 and batcher.stats().waiting_passages == 2)
        closing = threads.submit(batcher.close)
        wait_until(lambda: blocked.done())
        embedder.free()
        closing.result(10)
        assert running.result(10).shape == (1, 64)
        for call in (waiting, blocked):
            with pytest.raises(EmbedderUnavailable, match="closed"):
                call.result(10)
        with pytest.raises(EmbedderUnavailable, match="closed"):
            batcher.embed(["later"], "query")
        batcher.close()
    assert embedder.closed == 1
    assert not any(thread.name == "embedding" for thread in set(threading.enumerate()) - others)


def test_many_threads_at_once_all_get_their_own_answers(threads):
    """Queries and passages of 64 threads, with failures among them, all end as they should."""
    embedder = RecordingEmbedder(fits=7)
    with batching(embedder, batch_tokens=60, queue_texts=320, cache_queries=5) as batcher:

        def call(number):
            texts = [f"{number} {row}" for row in range(number % 5 + 1)]
            np.testing.assert_array_equal(batcher.embed(texts, "query" if number % 2 else "passage"), expected(texts))

        for done in [threads.submit(call, number) for number in range(300)]:
            done.result(30)
        stats = batcher.stats()
    assert (stats.waiting_queries, stats.waiting_passages) == (0, 0)
    assert stats.texts == sum(number % 5 + 1 for number in range(300))
    assert stats.passes < stats.texts
