"""Who may generate now, who waits, who is sent away."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import Busy
from retrieval.generation.admission import Admission


def counts(admission: Admission) -> tuple[int, int, int, int]:
    stats = admission.stats()
    return stats.running, stats.waiting, stats.admitted, stats.refused


def wait_for_waiting(admission: Admission, number: int) -> None:
    until = time.monotonic() + 5
    while admission.stats().waiting != number:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_beyond_those_who_wait_all_are_sent_away_at_once() -> None:
    """With the time after which it is worth another try."""
    admission = Admission(running=1, waiting=0, wait_s=5)
    with admission.enter():
        began = time.monotonic()
        with pytest.raises(Busy, match="1 answers are being written and 0 wait") as caught, admission.enter():
            pytest.fail("admitted")
        assert time.monotonic() - began < 1
        assert caught.value.retry_after_s >= 1
        assert counts(admission) == (1, 0, 1, 1)
    assert counts(admission) == (0, 0, 1, 1)


def test_who_waits_in_vain_is_sent_away() -> None:
    """In a thread and on a loop; the waiting is counted, and the place in the queue is free again."""
    admission = Admission(running=1, waiting=1, wait_s=0.1)

    async def wait() -> None:
        async with admission.aenter():
            pytest.fail("admitted")

    with admission.enter():
        for _ in range(2):
            with pytest.raises(Busy, match=r"no turn came within 0\.1 s"), admission.enter():
                pytest.fail("admitted")
            with pytest.raises(Busy, match=r"no turn came within 0\.1 s"):
                asyncio.run(wait())
        assert admission.stats().waited_s >= 0.4
    assert counts(admission) == (0, 0, 1, 4)


def test_threads_and_tasks_take_turns_in_the_order_they_came() -> None:
    """One queue for all."""
    admission = Admission(running=1, waiting=20, wait_s=20)
    order: list[int] = []
    with ExitStack() as first:
        first.enter_context(admission.enter())
        waiters = []
        for number in range(20):
            waiters.append(threading.Thread(target=_task if number % 2 else _thread, args=[admission, order, number]))
            waiters[-1].start()
            wait_for_waiting(admission, number + 1)
    for waiter in waiters:
        waiter.join(10)
    assert order == list(range(20))
    assert counts(admission) == (0, 0, 21, 0)


def _thread(admission: Admission, order: list[int], number: int) -> None:
    with admission.enter():
        order.append(number)


def _task(admission: Admission, order: list[int], number: int) -> None:
    async def run() -> None:
        async with admission.aenter():
            order.append(number)

    asyncio.run(run())


def test_a_place_is_given_back_whatever_happens() -> None:
    """An error inside passes through, and the next is admitted."""
    admission = Admission(running=1, waiting=0, wait_s=1)
    with pytest.raises(ZeroDivisionError), admission.enter():
        raise ZeroDivisionError
    with admission.enter():
        assert counts(admission) == (1, 0, 2, 0)


STEPS = st.lists(st.tuples(st.integers(0, 15), st.sampled_from(["come", "cancel", "leave"])), max_size=60)


@given(running=st.integers(1, 3), waiting=st.integers(0, 4), steps=STEPS)
@settings(deadline=None)
def test_it_admits_as_a_plain_queue_would(running: int, waiting: int, steps: list[tuple[int, str]]) -> None:
    """Against a list that is easy to believe: who is in, who waits, after any coming, leaving and giving up."""

    async def play() -> None:
        admission = Admission(running=running, waiting=waiting, wait_s=60)
        doors = {number: asyncio.Event() for number, _ in steps}
        tasks: dict[int, asyncio.Task[None]] = {}
        inside: set[int] = set()
        model: list[int] = []  # in the order they came

        async def visit(number: int) -> None:
            async with admission.aenter():
                inside.add(number)
                try:
                    await doors[number].wait()
                finally:
                    inside.remove(number)

        for number, step in steps:
            if step == "come" and number not in model:
                doors[number].clear()
                tasks[number] = asyncio.ensure_future(visit(number))
                if len(model) < running + waiting:
                    model.append(number)
            elif number in model and step == "cancel":
                tasks[number].cancel()
                model.remove(number)
            elif number in model[:running]:
                doors[number].set()
                model.remove(number)
            for _ in range(8):
                await asyncio.sleep(0)
            assert inside == set(model[:running])
            assert counts(admission)[:2] == (len(model[:running]), len(model[running:]))
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert counts(admission)[:2] == (0, 0)

    asyncio.run(play())


def test_nothing_is_lost_when_waiters_vanish() -> None:
    """Threads and tasks on two loops, many giving up at a random moment: the bound holds, and all places come back."""
    admission = Admission(running=3, waiting=1_000, wait_s=0.05)
    now = 0
    most = 0
    lock = threading.Lock()

    @contextmanager
    def inside() -> Iterator[None]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            yield
        finally:
            with lock:
                now -= 1

    async def visit(rng: random.Random) -> None:
        async with admission.aenter():
            with inside():
                await asyncio.sleep(rng.random() * 0.002)

    async def crowd(seed: int) -> None:
        rng = random.Random(seed)
        tasks = [asyncio.ensure_future(visit(rng)) for _ in range(300)]
        for task in rng.sample(tasks, 150):
            asyncio.get_running_loop().call_later(rng.random() * 0.1, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)

    def thread() -> None:
        for _ in range(50):
            try:
                with admission.enter(), inside():
                    time.sleep(0.001)
            except Busy:
                pass

    workers = [threading.Thread(target=asyncio.run, args=[crowd(seed)]) for seed in range(2)]
    workers += [threading.Thread(target=thread) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert counts(admission)[:2] == (0, 0)
    assert (now, most) == (0, 3)
    assert admission.stats().admitted > 100
