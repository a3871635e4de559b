"""The SDK's errors, each in our words and with what mends it: the one place that knows them."""

from collections.abc import Iterator
from contextlib import contextmanager

from pinecone import errors

from backends.errors import IndexUnavailable


class NotThere(IndexUnavailable):
    """Pinecone answers, and has no such index or namespace."""


_KEY = "set RAGSTONE_PINECONE_API_KEY to a key of the right project"
_REACH = "check RAGSTONE_PINECONE_HOST and the network"
_WAIT = "try again later"
_REFUSED = "Pinecone refused the request, which is a fault of Ragstone or a limit of the plan"
_REBUILD = "rebuild the index"
_VERSION = "check that RAGSTONE_PINECONE_HOST is Pinecone, and the version of the `pinecone` package"
_LOCAL = "check RAGSTONE_PINECONE_HOST; else this is a fault of Ragstone"

REMEDIES: dict[type[errors.PineconeError], str] = {
    errors.PineconeError: _REFUSED,
    errors.ApiError: _REFUSED,
    errors.NotFoundError: _REBUILD,
    errors.ConflictError: _REFUSED,
    errors.UnauthorizedError: _KEY,
    errors.ForbiddenError: f"{_KEY}, or see what the plan allows",
    errors.RateLimitError: _WAIT,
    errors.ServiceError: _WAIT,
    errors.IndexInitFailedError: "see the index's state in Pinecone's console",
    errors.IndexTerminatedError: "see the index's state in Pinecone's console",
    errors.PineconeTimeoutError: f"{_REACH}, or raise RAGSTONE_BACKEND_TIMEOUT_S",
    errors.PineconeConnectionError: _REACH,
    errors.PineconeValueError: _LOCAL,
    errors.PineconeTypeError: _LOCAL,
    errors.ResponseParsingError: _VERSION,
}


@contextmanager
def as_unavailable(action: str, where: str) -> Iterator[None]:
    """Turn the SDK's errors into IndexUnavailable, or into NotThere, which is one."""
    try:
        yield
    except errors.PineconeError as error:
        kind = NotThere if isinstance(error, errors.NotFoundError) else IndexUnavailable
        said = str(error) or type(error).__name__
        raise kind(f"Pinecone: could not {action} at {where}: {said}; {_remedy(error)}") from error


def _remedy(error: errors.PineconeError) -> str:
    return next(REMEDIES[kind] for kind in type(error).__mro__ if kind in REMEDIES)
