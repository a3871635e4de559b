"""Work done a little ahead in a thread, so that this machine encodes the next rows while PostgreSQL takes the last."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

DEPTH = 8
"""So many results at most wait to be taken: they are large."""


def ahead(calls: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
    """Give the results of the calls in their order. Close it, lest a call run on after its result is not wanted."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ragstone-ahead") as thread:
        try:
            for call in calls:
                waiting.append(_begun(thread, call))
                if len(waiting) > DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def _begun(thread: ThreadPoolExecutor, call: Callable[[], T]) -> "Future[T]":
    """Begin a call in the thread; at the interpreter's end there are no more threads, and it is done at once."""
    try:
        return thread.submit(call)
    except RuntimeError:
        done: Future[T] = Future()
        done.set_result(call())
        return done
