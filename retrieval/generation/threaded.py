"""A blocking iterator on an event loop."""

from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

T = TypeVar("T")
_END = object()


async def in_threads(items: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Yield what a generator yields, each fetched in a worker thread; the generator is closed in the end."""
    try:
        while (item := await run_sync(next, items, _END)) is not _END:
            yield item  # type: ignore[misc]  # whatever is not the end came from the generator
    finally:
        with anyio.CancelScope(shield=True):
            await run_sync(items.close)
