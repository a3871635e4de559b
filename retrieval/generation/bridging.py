"""An asynchronous stream, read by a thread."""

import asyncio
import threading
from collections import abc, deque
from collections.abc import Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any

from backends.errors import GeneratorUnavailable
from retrieval.generation.base import AsyncStream, Ending
from retrieval.generation.loop_thread import LoopThread

MOST_PIECES = 256
"""Pieces that are read ahead of a slow reader, before the server is made to wait."""

_CLOSE_S = 5.0


class BlockingStream(abc.Generator[str | Ending, None, None]):
    """Yields what an asynchronous stream yields on its loop, which starts with the first piece that is asked for.

    `close` may be called from any thread, also while another waits for the next piece, whose iteration then ends.
    """

    def __init__(self, begin: Callable[[], AsyncStream], loop_thread: LoopThread) -> None:
        self._begin = begin
        self._loop_thread = loop_thread
        self._starting = threading.Lock()
        self._feed: _Feed | None = None
        self._closed = False

    def send(self, value: None) -> str | Ending:  # noqa: ARG002  # what every generator takes
        with self._starting:
            if self._closed:
                raise StopIteration
            if self._feed is None:
                self._feed = _Feed(self._begin(), self._loop_thread)
            feed = self._feed
        return feed.take()

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None, /) -> str | Ending:
        self.close()
        return super().throw(kind, value, trace)

    def close(self) -> None:
        """Stop the stream, and wait until it has given back what it held."""
        if (feed := self._close()) is not None:
            feed.wait()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> "_Feed | None":
        with self._starting:
            self._closed = True
            feed = self._feed
        if feed is not None:
            feed.abandon()
        return feed


class _Feed:
    """What the loop and the reader share. It outlives a reader who forgets to close, until the loop has let go."""

    def __init__(self, source: AsyncStream, loop_thread: LoopThread) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._pieces: deque[str | Ending] = deque()
        self._room = asyncio.Event()
        self._is_full = False
        self._is_abandoned = False
        self._over = False
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = loop_thread.call_soon(self._start)

    def take(self) -> str | Ending:
        """Return the next piece, waiting for it; raises StopIteration at the end, and what the stream raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._over)
            if not self._pieces:
                error, self._error = self._error, None
                raise error or StopIteration
            piece = self._pieces.popleft()
            makes_room = self._is_full and len(self._pieces) <= MOST_PIECES // 2
            if makes_room:
                self._is_full = False
        if makes_room:
            self._soon(self._room.set)
        return piece

    def abandon(self) -> None:
        """Nobody reads on."""
        with self._changed:
            if self._over or self._is_abandoned:
                self._pieces.clear()
                self._error = None
                return
            self._is_abandoned = True
        self._soon(self._cancel)

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over, _CLOSE_S)

    def _soon(self, do: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and the stream with it
            self._loop.call_soon_threadsafe(do)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._pump())
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _pump(self) -> None:
        async with aclosing(self._source) as source:
            async for piece in source:
                with self._changed:
                    self._pieces.append(piece)
                    self._is_full = is_full = len(self._pieces) >= MOST_PIECES
                    self._changed.notify()
                if is_full:
                    await self._room.wait()
                    self._room.clear()

    def _end(self, task: asyncio.Task[None]) -> None:
        error: BaseException | None
        if task.cancelled():
            error = GeneratorUnavailable("the client of the model server was closed")
        else:
            error = task.exception()
        with self._changed:
            if self._is_abandoned:
                self._pieces.clear()
            else:
                self._error = error
            self._over = True
            self._changed.notify_all()
