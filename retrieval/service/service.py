"""What every route needs."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from retrieval.library import Ragstone
from retrieval.service.metrics import Metrics
from retrieval.service.worker import IngestWorker


@dataclass(frozen=True, slots=True)
class Service:
    """The corpus that is served, and what the service itself keeps beside it."""

    rag: Ragstone
    metrics: Metrics
    worker: IngestWorker


async def _service(request: Request) -> Service:  # async: a plain function would take a thread
    found = request.app.state.service
    assert isinstance(found, Service)
    return found


Here = Annotated[Service, Depends(_service)]
