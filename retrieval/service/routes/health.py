"""What a keeper asks: is it alive, is it ready, how does it do."""

import time
from dataclasses import asdict

import anyio
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from backends.errors import CorpusUnavailable
from retrieval.service.schemas.health import LiveResult, ReadyResult
from retrieval.service.schemas.problems import answers_with
from retrieval.service.service import Here
from retrieval.service.wire import Json

router = APIRouter(tags=["health"])

PING_LIMIT_S = 5.0
_pings = anyio.CapacityLimiter(4)
"""Its own threads: the service is alive and ready also while all the others are at work."""


@router.get("/health/live", summary="Is the process alive?", response_model=LiveResult)
async def live() -> Json:
    """Answer, and touch nothing else: where this fails, the process should be started anew."""
    return Json({"status": "live"})


@router.get("/health/ready", summary="Can it serve?", response_model=ReadyResult, responses=answers_with(503))
async def ready(here: Here) -> Json:
    """Ask the corpus, and say how long that took and which vector indexes are away; 503 where the corpus is."""
    started_s = time.perf_counter()
    try:
        with anyio.fail_after(PING_LIMIT_S):
            away = await anyio.to_thread.run_sync(here.rag.away_indexes, limiter=_pings, abandon_on_cancel=True)
    except TimeoutError:
        raise CorpusUnavailable(f"PostgreSQL did not answer within {PING_LIMIT_S:.0f} s") from None
    latency_ms = round((time.perf_counter() - started_s) * 1000, 3)
    return Json(
        {
            "status": "degraded" if away else "ready",
            "dependencies": {"corpus": {"latency_ms": latency_ms}},
            "away": [asdict(index) for index in away],
        }
    )


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(here: Here) -> Response:
    """Return everything that is counted, in Prometheus' text format."""
    return Response(here.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
