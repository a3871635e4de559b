"""The HTTP door: the only place that knows FastAPI."""

from starlette.middleware import Middleware

from retrieval.service.app import create_app

__all__ = ["Middleware", "create_app"]
