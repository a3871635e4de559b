"""Searches that wait are answered together."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from backends.corpus.asynchronous import AsyncStatements
from backends.errors import FilterTooExpensive
from backends.searching import AT_ONCE
from retrieval.collection import Collection
from retrieval.documents import Retrieval
from retrieval.library import Ragstone
from retrieval.searching import PreparedSearch
from retrieval.service.wire import Json

MOST_HITS = 2_000
"""Of one statement: to make more of them into answers is too much at once for the event loop."""

Render = Callable[[Retrieval], Json]


@dataclass(slots=True)
class _Waiting:
    """A search and who waits for its answer."""

    search: PreparedSearch
    answer: "asyncio.Future[Json]"


@dataclass(slots=True)
class _Kind:
    """Searches that ask alike: those that wait, and how many are being answered, by how many statements."""

    collection: Collection
    waiting: deque[_Waiting] = field(default_factory=deque)
    answering: int = 0
    statements: int = 0


class Together:
    """Answers searches of one kind together where they come faster than one by one.

    A search never waits for others to come: it is asked for at once, unless as many statements as may already run for
    its kind. Those that come meanwhile share the next, so that the more there is to do, the less each costs. Where one
    statement is all that they take, the event loop waits for it itself; elsewhere a thread does the searches. `note` is
    told how many searches each statement, or thread, is given.
    """

    def __init__(self, rag: Ragstone, threads: ThreadPoolExecutor, render: Render, note: Callable[[int], None]) -> None:
        self._statements = AsyncStatements(rag.database, rag.settings.pool_size)
        self._most = rag.settings.searches_at_once
        self._threads = threads
        self._render = render
        self._note = note
        self._kinds: dict[Hashable, _Kind] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def search(self, collection: Collection, search: PreparedSearch) -> Json:
        """Answer a search in that collection."""
        key = search.kind
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(collection)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(search, loop.create_future())
        kind.waiting.append(waiting)
        if len(kind.waiting) == 1:  # those that the loop has read already come into line before
            loop.call_soon(self._hand_out, key, kind)
        return await waiting.answer

    async def close(self) -> None:
        """Close the connections; nothing may run any more."""
        await self._statements.close()

    def _hand_out(self, key: Hashable, kind: _Kind) -> None:
        """Begin as many statements as may run, each for its share of what waits."""
        while kind.waiting and kind.statements < self._most:
            share = -(-(len(kind.waiting) + kind.answering) // self._most)
            taken = [kind.waiting.popleft() for _ in range(min(share, AT_ONCE, len(kind.waiting)))]
            kind.answering += len(taken)
            kind.statements += 1
            self._note(len(taken))
            task = asyncio.get_running_loop().create_task(self._answer(key, kind, taken))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if not kind.waiting and not kind.statements:
            self._kinds.pop(key, None)

    async def _answer(self, key: Hashable, kind: _Kind, taken: list[_Waiting]) -> None:
        found: Sequence[Json] | BaseException
        try:
            found = await self._found(kind.collection, [one.search for one in taken])
        except BaseException as error:  # whatever it is, they wait for it
            found = error
        kind.answering -= len(taken)
        kind.statements -= 1
        self._hand_out(key, kind)
        for position, one in enumerate(taken):
            if one.answer.done():  # its client has gone
                continue
            if isinstance(found, BaseException):
                one.answer.set_exception(found)
            else:
                one.answer.set_result(found[position])

    async def _found(self, collection: Collection, alike: list[PreparedSearch]) -> list[Json]:
        is_large = len(alike) * alike[0].asked.top_k > MOST_HITS
        planned = None if is_large else collection.plan_prepared(alike)
        if planned is None:
            return await self._in_thread(collection, [alike])
        statement = planned.statement
        try:
            rows = await self._statements.rows(statement.text, statement.values, statement.settings)
        except FilterTooExpensive as error:
            if len(alike) == 1:
                planned.searches.failed(planned, error)
                raise
            return await self._in_thread(collection, [[one] for one in alike])  # each has a budget of its own
        searched = None if rows is None else planned.searches.completed(planned, rows)
        if searched is None:
            return await self._in_thread(collection, [alike])
        return [self._render(one.retrieval) for one in searched]

    async def _in_thread(self, collection: Collection, groups: list[list[PreparedSearch]]) -> list[Json]:
        def answered() -> list[Json]:
            return [self._render(one) for alike in groups for one in collection.search_prepared(alike)]

        return await asyncio.get_running_loop().run_in_executor(self._threads, answered)
