"""The headers that a request hands on to the servers that it asks, so that their spans join its trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_headers: ContextVar[Mapping[str, str]] = ContextVar("ragstone_outgoing_headers", default=MappingProxyType({}))


def outgoing_headers() -> Mapping[str, str]:
    """Return what is to be sent along: `traceparent` and `tracestate` where the request is traced, else nothing."""
    return _headers.get()


@contextmanager
def handing_on(headers: Mapping[str, str]) -> Iterator[None]:
    """Send these along while the block runs, in its context and in those that are copied from it."""
    token = _headers.set(headers)
    try:
        yield
    finally:
        _headers.reset(token)
