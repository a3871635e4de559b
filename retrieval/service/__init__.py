"""The HTTP door: the only place that knows FastAPI."""

from retrieval.service.app import create_app

__all__ = ["create_app"]
