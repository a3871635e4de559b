"""What every route needs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from retrieval.library import Ragstone
from retrieval.service.metrics import Metrics
from retrieval.service.together import Together
from retrieval.service.worker import IngestWorker

Answered = TypeVar("Answered")


@dataclass(frozen=True, slots=True)
class Service:
    """The corpus that is served, and what the service itself keeps beside it."""

    rag: Ragstone
    metrics: Metrics
    worker: IngestWorker
    threads: ThreadPoolExecutor
    """For searches: at most `service_threads`, beside as many for the others.

    Handing over to one takes a third of the processor time that it takes with AnyIO.
    """
    together: Together

    async def in_thread(self, answer: Callable[[], Answered]) -> Answered:
        """Run what blocks in one of the threads, within the context of the request."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, copy_context().run, answer)


async def _service(request: Request) -> Service:  # async: a plain function would take a thread
    found = request.app.state.service
    assert isinstance(found, Service)
    return found


Here = Annotated[Service, Depends(_service)]
