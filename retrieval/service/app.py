"""Builds the service around a corpus that is open."""

import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio
from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client.registry import Collector
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from retrieval.library import Ragstone
from retrieval.service import failures
from retrieval.service.attributing import Attributing
from retrieval.service.documentation import DESCRIPTION, TAGS, complete
from retrieval.service.edge import Edge
from retrieval.service.limits import BodyLimit
from retrieval.service.metrics import Metrics
from retrieval.service.routes import answers, chat, collections, documents, files, health, search
from retrieval.service.service import Service
from retrieval.service.shortcut import QuickAnswers, Shortcut
from retrieval.service.together import Together
from retrieval.service.wire import QuickRoute
from retrieval.service.worker import IngestWorker

log = logging.getLogger(__name__)

Hook = Callable[[FastAPI], AbstractAsyncContextManager[Any]]

ROUTERS = tuple(module.router for module in (collections, documents, files, search, answers, chat, health))


def create_app(
    rag: Ragstone,
    *,
    routers: Sequence[APIRouter] = (),
    hooks: Sequence[Hook] = (),
    collectors: Sequence[Collector] = (),
    middleware: Sequence[Middleware] = (),
    warmed: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Return the service over `rag`, which stays the caller's to close, after the service has stopped.

    `routers` are served beside its own. `hooks` are entered when it starts, after everything of its own, and left
    first when it stops. What `collectors` give is on /metrics beside its own. `middleware` stands around the routes,
    the first of it outermost, within what the service itself counts and logs. `warmed` is called in a thread, once
    the embedding model is loaded, or could not be.
    """
    threads = ThreadPoolExecutor(rag.settings.service_threads, thread_name_prefix="ragstone-search")
    metrics = Metrics(rag, collectors)
    together = Together(rag, threads, search.rendered, metrics.searches)
    service = Service(rag, metrics, IngestWorker(rag), threads, together)
    app = FastAPIOffline(
        title="Ragstone",
        version=version("ragstone"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": 0},
        static_url="/docs/assets",
        lifespan=_lifespan(service, hooks, warmed),
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would ask at each request; ours is in ops
    )
    app.state.service = service
    app.user_middleware = [
        Middleware(Edge, metrics=service.metrics),
        *middleware,
        Middleware(BodyLimit, max_body_bytes=rag.settings.max_body_bytes),
        Middleware(Attributing),
    ]
    served = (*ROUTERS, *routers)
    failures.install(app, served)
    for router in served:
        app.include_router(router)
    complete(app)
    app.middleware_stack = _with_shortcut(app)
    return app


def _with_shortcut(app: FastAPI) -> ASGIApp:
    """FastAPI's layers, and a short way beside them for quick routes."""
    quick: ASGIApp = QuickAnswers(app.exception_handlers)
    for layer in reversed(app.user_middleware):
        quick = layer.cls(quick, *layer.args, **layer.kwargs)
    routes = [route for route in app.state.routes if isinstance(route, QuickRoute)]
    return Shortcut(app.build_middleware_stack(), routes, quick)


def _warm(rag: Ragstone, warmed: Callable[[], None]) -> None:
    """Load the embedding model before the first question has to wait for that."""
    try:
        log.info("the embedding model is ready: %s", rag.embedder.stamp.model)
    except Exception as error:  # who searches with embeddings of their own needs none; whoever needs it is told again
        log.warning("the embedding model could not be loaded: %s", error)
    warmed()


def _lifespan(service: Service, hooks: Sequence[Hook], warmed: Callable[[], None]) -> Hook:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = service.rag.settings.service_threads
        async with AsyncExitStack() as stack:
            warming = threading.Thread(target=_warm, args=(service.rag, warmed), name="ragstone-warming")
            warming.start()
            stack.push_async_callback(anyio.to_thread.run_sync, lambda: warming.join())
            service.worker.start()
            stack.push_async_callback(anyio.to_thread.run_sync, service.worker.stop)
            stack.push_async_callback(service.rag.close_streams)
            stack.callback(service.threads.shutdown, wait=False)
            stack.push_async_callback(service.together.close)
            for hook in hooks:
                await stack.enter_async_context(hook(app))
            yield

    return lifespan
