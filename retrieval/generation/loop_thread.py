"""An event loop in a thread of its own, for callers that have none."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from backends.errors import GeneratorUnavailable


class LoopThread:
    """Starts when it is first called, and ends with `close`, which cancels what runs on the loop."""

    def __init__(self, name: str, at_end: Callable[[], Awaitable[None]]) -> None:
        """`at_end` runs on the loop at last, and gives back what belongs to it."""
        self._name = name
        self._at_end = at_end
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._closed = False

    def call_soon(self, do: Callable[[], object]) -> asyncio.AbstractEventLoop:
        """Call `do` on the loop, surely, and return the loop; raises GeneratorUnavailable once it was closed."""
        with self._lock:
            if self._closed:
                raise GeneratorUnavailable("the client of the model server was closed")
            if self._thread is None:
                self._thread = threading.Thread(target=asyncio.run, args=[self._run()], name=self._name, daemon=True)
                self._thread.start()
                self._ready.wait()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(do)
            return self._loop

    def close(self) -> None:
        """End the loop and wait for it. Calling it again does nothing."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._stop.wait()
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._at_end()
