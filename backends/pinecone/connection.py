"""The SDK's clients for one Pinecone index: where they connect, how long they wait, what is tried again."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pinecone import Index, Pinecone, RetryConfig, ServerlessSpec
from pinecone._internal.constants import DATA_PLANE_API_VERSION
from pinecone._internal.http_client import HTTPClient
from pinecone.errors import (
    ConflictError,
    NotFoundError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    RateLimitError,
    ServiceError,
)
from pinecone.models.indexes.index import IndexModel

from backends.errors import IndexUnavailable
from backends.pinecone.failures import as_unavailable

Answer = TypeVar("Answer")

TRIES = 3
FIRST_PAUSE_S, RATE_LIMITED_PAUSE_S = 0.1, 1.0
READY_WITHIN_S = 300.0
"""A serverless index is ready after seconds; Pinecone promises nothing."""
CONNECTIONS = 64
_NO_RETRIES = RetryConfig(max_retries=0)
# Says too that the SDK shall not look for headers in the environment.
_HEADERS = {"Accept-Encoding": "identity"}  # a broken gzip body would raise an error of httpx's, not of the SDK's


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How Pinecone is reached and where it is to keep what is made. `host` is the control plane."""

    host: str
    api_key: str = field(repr=False)
    cloud: str
    region: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which Pinecone index."""

    name: str
    dimension: int
    metric: str
    reached: Reached


class Connection:
    """Calls Pinecone on behalf of many threads. Connects on the first call, and to no other host than those two.

    Every call that Ragstone makes can be repeated, so what failed on the way, 429 and 500, 502, 503 and 504 are
    tried up to three times, with a pause that doubles, or the one that Pinecone asks for.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._clients: dict[str, Index] = {}  # by address; an index made anew has another
        self._address: str | None = None

    def call(self, action: str, request: Callable[[Index, float], Answer], deadline: float | None = None) -> Answer:
        """Let `request` call the SDK with the index and a timeout in seconds.

        `deadline`, on time.monotonic(), bounds all tries together; by default each may take the timeout. Raises
        IndexUnavailable, with NotThere for what Pinecone does not have.
        """
        if deadline is None:
            deadline = time.monotonic() + TRIES * self.target.reached.timeout_s
        with as_unavailable(action, self._address or self.target.reached.host):
            return self._tried(request, deadline)

    def create(self) -> None:
        """Make the Pinecone index where there is none, and wait until it is ready."""
        with as_unavailable("create the index", self.target.reached.host):
            give_up = time.monotonic() + READY_WITHIN_S
            pause_s = FIRST_PAUSE_S
            while not self._described_or_created().status.ready:
                if time.monotonic() > give_up:
                    raise PineconeTimeoutError(f"index {self.target.name!r} is not ready after {READY_WITHIN_S:.0f} s")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 5.0)

    def describe(self) -> IndexModel:
        """Ask the control plane for the index."""
        with as_unavailable("describe the index", self.target.reached.host):
            return _again(
                self._describe, time.monotonic() + TRIES * self.target.reached.timeout_s, self.target.reached.timeout_s
            )

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            clients, self._clients, self._address = list(self._clients.values()), {}, None
        for client in clients:
            client.close()

    def _tried(self, request: Callable[[Index, float], Answer], deadline: float) -> Answer:
        def attempt(timeout_s: float) -> Answer:
            started = time.monotonic()
            index = self._index(timeout_s)
            try:
                return request(index, max(0.001, timeout_s - (time.monotonic() - started)))
            except (PineconeConnectionError, NotFoundError):
                self._address = None  # it may have been made anew, at another address
                raise

        return _again(attempt, deadline, self.target.reached.timeout_s)

    def _index(self, timeout_s: float) -> Index:
        address = self._address or self._resolved(timeout_s)
        with self._lock:
            if address not in self._clients:
                self._clients[address] = self._opened(address)
            self._address = address
            return self._clients[address]

    def _resolved(self, timeout_s: float) -> str:
        host = self._describe(timeout_s).host
        if not host:
            raise PineconeError(f"index {self.target.name!r} has no host yet")
        # The data plane is reached as the control plane is: the emulator and the tests have no TLS.
        scheme = "http" if self.target.reached.host.startswith("http://") else "https"
        return f"{scheme}://{host.split('://')[-1]}"

    def _opened(self, address: str) -> Index:
        target = self.target
        index = Index(
            host=address,
            api_key=target.reached.api_key,
            timeout=target.reached.timeout_s,
            additional_headers=_HEADERS,
            connection_pool_maxsize=CONNECTIONS,
        )
        # In 9.1 Index takes no retry_config, and retries by itself beyond any deadline. A test counts the tries.
        index._http.close()
        index._http = HTTPClient(replace(index._config, retry_config=_NO_RETRIES), DATA_PLANE_API_VERSION)
        return index

    def _control(self, timeout_s: float) -> Pinecone:
        """Make a client of the control plane; it is asked so seldom that none is kept."""
        return Pinecone(
            api_key=self.target.reached.api_key,
            host=self.target.reached.host,
            timeout=timeout_s,
            additional_headers=_HEADERS,
            retry_config=_NO_RETRIES,
        )

    def _describe(self, timeout_s: float) -> IndexModel:
        with self._control(timeout_s) as control:
            found = control.indexes.describe(self.target.name)
        if (found.dimension, found.metric) != (self.target.dimension, self.target.metric):
            raise IndexUnavailable(
                f"the Pinecone index {self.target.name!r} has dimension {found.dimension} and metric {found.metric}, "
                f"not {self.target.dimension} and {self.target.metric}; delete it, and rebuild"
            )
        return found

    def _described_or_created(self) -> IndexModel:
        def attempt(timeout_s: float) -> IndexModel:
            try:
                return self._describe(timeout_s)
            except NotFoundError:
                self._create(timeout_s)
                return self._describe(timeout_s)

        return _again(attempt, time.monotonic() + TRIES * self.target.reached.timeout_s, self.target.reached.timeout_s)

    def _create(self, timeout_s: float) -> None:
        target = self.target
        with self._control(timeout_s) as control:
            try:
                control.indexes.create(
                    name=target.name,
                    dimension=target.dimension,
                    metric=target.metric,
                    spec=ServerlessSpec(cloud=target.reached.cloud, region=target.reached.region),
                    timeout=-1,  # the SDK would look only every five seconds
                )
            except ConflictError:
                return  # another process, or a try of ours whose answer was lost, made it


def _again(attempt: Callable[[float], Answer], deadline: float, timeout_s: float) -> Answer:
    """Call `attempt` with the seconds it may take, up to TRIES times, while there is time."""
    for number in range(1, TRIES + 1):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise PineconeTimeoutError("no time is left")
        try:
            return attempt(min(timeout_s, left_s))
        except (PineconeConnectionError, PineconeTimeoutError, RateLimitError, ServiceError) as error:
            pause_s = _pause_s(error, number)
            if number == TRIES or pause_s is None or time.monotonic() + pause_s >= deadline:
                raise
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def _pause_s(error: PineconeError, number: int) -> float | None:
    """Return how long to wait before the next try; None where trying again is no use."""
    if isinstance(error, ServiceError) and error.status_code not in (500, 502, 503, 504):
        return None
    jitter: float = 2 ** (number - 1) * random.uniform(0.5, 1.5)  # noqa: S311  # spreads the clients
    if not isinstance(error, RateLimitError):
        return FIRST_PAUSE_S * jitter
    asked_s = error.retry_after
    return RATE_LIMITED_PAUSE_S * jitter if asked_s is None else asked_s + FIRST_PAUSE_S * jitter
