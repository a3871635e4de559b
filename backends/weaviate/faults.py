"""What can go wrong with Weaviate: which faults are worth another try, and what each becomes for our callers."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import grpc  # type: ignore[import-untyped]
import httpx
from weaviate import exceptions

from backends.errors import IndexUnavailable


class Kind(Enum):
    """What a fault calls for. The value says it to people, after "Weaviate at URL"."""

    AGAIN = "cannot be reached: check that it runs, and RAGSTONE_WEAVIATE_URL and RAGSTONE_WEAVIATE_GRPC_PORT"
    REFUSED = "refused us: check RAGSTONE_WEAVIATE_API_KEY"
    GONE = "has lost this index, or never had it: rebuild it from the corpus"
    FINAL = "could not do what it was asked"


FAULTS: dict[type[Exception], Kind] = {
    exceptions.WeaviateBaseError: Kind.FINAL,  # what a later client adds
    exceptions.WeaviateConnectionError: Kind.AGAIN,
    exceptions.WeaviateGRPCUnavailableError: Kind.AGAIN,
    exceptions.WeaviateRetryError: Kind.AGAIN,
    exceptions.WeaviateStartUpError: Kind.AGAIN,
    exceptions.WeaviateTimeoutError: Kind.AGAIN,
    exceptions.WeaviateClosedClientError: Kind.AGAIN,  # closed by another thread: the next try opens it anew
    exceptions.AuthenticationFailedError: Kind.REFUSED,
    exceptions.InsufficientPermissionsError: Kind.REFUSED,
    exceptions.MissingScopeError: Kind.REFUSED,
    exceptions.UnexpectedStatusCodeError: Kind.FINAL,  # its status decides, see `kind`
    exceptions.AdditionalPropertiesError: Kind.FINAL,
    exceptions.BackupCanceledError: Kind.FINAL,
    exceptions.BackupFailedError: Kind.FINAL,
    exceptions.EmptyResponseError: Kind.FINAL,
    exceptions.ExportCanceledError: Kind.FINAL,
    exceptions.ExportFailedError: Kind.FINAL,
    exceptions.InvalidDataModelError: Kind.FINAL,
    exceptions.ObjectAlreadyExistsError: Kind.FINAL,
    exceptions.ResponseCannotBeDecodedError: Kind.FINAL,
    exceptions.SchemaValidationError: Kind.FINAL,
    exceptions.WeaviateAddInvalidPropertyError: Kind.FINAL,
    exceptions.WeaviateAgentsNotInstalledError: Kind.FINAL,
    exceptions.WeaviateBatchError: Kind.FINAL,
    exceptions.WeaviateBatchFailedToReestablishStreamError: Kind.FINAL,
    exceptions.WeaviateBatchSendError: Kind.FINAL,
    exceptions.WeaviateBatchStreamError: Kind.FINAL,
    exceptions.WeaviateBatchValidationError: Kind.FINAL,
    exceptions.WeaviateDeleteManyError: Kind.FINAL,
    exceptions.WeaviateEmbeddedInvalidVersionError: Kind.FINAL,
    exceptions.WeaviateInsertInvalidPropertyError: Kind.FINAL,
    exceptions.WeaviateInsertManyAllFailedError: Kind.FINAL,
    exceptions.WeaviateInvalidInputError: Kind.FINAL,
    exceptions.WeaviateProtobufIncompatibility: Kind.FINAL,
    exceptions.WeaviateQueryError: Kind.FINAL,
    exceptions.WeaviateTenantGetError: Kind.FINAL,
    exceptions.WeaviateUnsupportedFeatureError: Kind.FINAL,
    grpc.RpcError: Kind.FINAL,  # its code decides, see `kind`
    httpx.HTTPError: Kind.AGAIN,  # the client lets these through
}
"""Every class of the client's errors, and of those of the two libraries under it."""

_STATUSES = {401: Kind.REFUSED, 403: Kind.REFUSED, **dict.fromkeys((429, 502, 503, 504), Kind.AGAIN)}
_CODES = {
    grpc.StatusCode.UNAVAILABLE: Kind.AGAIN,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Kind.AGAIN,
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind.AGAIN,
    grpc.StatusCode.CANCELLED: Kind.AGAIN,  # the channel was closed by another thread
    grpc.StatusCode.UNAUTHENTICATED: Kind.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Kind.REFUSED,
}
_NO_CLASS = "could not find class"  # Weaviate says it under the code UNKNOWN
_SHOWN_CHARACTERS = 300


def kind(fault: Exception) -> Kind:
    """Say what a fault of the client's calls for. One that FAULTS does not know is raised again."""
    if isinstance(fault, grpc.Call):
        found = _CODES.get(fault.code(), Kind.FINAL)
        return Kind.GONE if _NO_CLASS in (fault.details() or "") else found
    if isinstance(fault, exceptions.UnexpectedStatusCodeError) and fault.status_code in _STATUSES:
        return _STATUSES[fault.status_code]
    return next(FAULTS[base] for base in type(fault).__mro__ if base in FAULTS)


@contextmanager
def mapped(url: str) -> Iterator[None]:
    """Turn the client's errors into IndexUnavailable, which names what to mend."""
    try:
        yield
    except tuple(FAULTS) as fault:
        raise IndexUnavailable(f"Weaviate at {url} {kind(fault).value} ({_shown(fault)})") from fault


def _shown(fault: Exception) -> str:
    if isinstance(fault, grpc.Call):
        text = f"{fault.code().name}: {fault.details()}"
    else:
        text = " ".join(str(fault).split()) or type(fault).__name__
    return text[:_SHOWN_CHARACTERS]
