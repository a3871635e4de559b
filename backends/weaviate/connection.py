"""One connection to Weaviate: opened at the first call, tried again after a failure, with a deadline for every call."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from weaviate import WeaviateClient
from weaviate.auth import AuthApiKey
from weaviate.config import AdditionalConfig, Timeout
from weaviate.connect import ConnectionParams
from weaviate.exceptions import WeaviateClosedClientError
from weaviate.proto.v1 import health_weaviate_pb2 as health
from weaviate.proto.v1 import weaviate_pb2_grpc

from backends.errors import IndexUnavailable
from backends.weaviate.faults import FAULTS, Kind, kind, mapped

MIN_VERSION = (1, 29)
"""The first that counts over gRPC."""
TRIES = 3
BACKOFF_S = 0.2
WRITES_TAKE = 6
"""A call that writes may take as many times the timeout of one that reads."""
CHANNEL_OPTIONS = [
    # REST takes no proxy from the environment; gRPC would, and so reach a host that nobody named.
    ("grpc.enable_http_proxy", 0),
    # By default a channel whose server was away refuses calls for up to two minutes after it is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Open:
    client: WeaviateClient
    channel: grpc.Channel
    stub: Any
    version: tuple[int, int]

    def close(self) -> None:
        self.client.close()
        self.channel.close()


class Connection:
    """REST through the client; gRPC through the stub that the client ships.

    The client's own gRPC calls wait through a minute of retries when the server is away, whatever the timeout
    says, and a search has to fail fast. Everything we ask is idempotent, so a call that failed in a way that may
    pass is tried up to three times, with exponential backoff and jitter, until its deadline.
    """

    def __init__(self, url: str, grpc_port: int, api_key: str | None, timeout_s: float) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._grpc_port = grpc_port
        self._api_key = api_key
        self._metadata = [("authorization", f"Bearer {api_key}")] if api_key else None
        self._lock = threading.Lock()
        self._open: _Open | None = None

    def rest(self, call: Callable[[WeaviateClient], T], *, writing: bool = False) -> T:
        """Call the client's REST side, and return what it gives. Each try has the whole time."""
        return self._tried(lambda open_, _: call(open_.client), self.until(writing=writing))

    def ask(self, method: str, request: Any, until: float) -> Any:
        """Call a method of Weaviate's gRPC service and return its reply, by the monotonic time `until`."""
        return self._tried(lambda open_, left_s: self._asked(getattr(open_.stub, method), request, left_s), until)

    def check(self) -> None:
        """Raise IndexUnavailable unless both REST and gRPC answer."""
        self.rest(WeaviateClient.get_meta)
        reply = self._tried(self._health, self.until())
        if reply.status != health.WeaviateHealthCheckResponse.SERVING:
            raise IndexUnavailable(f"Weaviate at {self.url} does not serve gRPC yet: try again")

    def version(self, until: float) -> tuple[int, int]:
        """Return the server's version: major and minor."""
        return self._tried(lambda open_, _: open_.version, until)

    def until(self, *, writing: bool = False) -> float:
        """Return the monotonic time by which a call made now has to be over, tries and all."""
        return time.monotonic() + self.timeout_s * (WRITES_TAKE if writing else 1)

    def close(self) -> None:
        """Close what is open. The next call opens it again."""
        with self._lock:
            open_, self._open = self._open, None
        if open_ is not None:
            open_.close()

    def _tried(self, call: Callable[[_Open, float], T], until: float) -> T:
        with mapped(self.url):
            for turn in range(TRIES - 1):
                try:
                    return call(self._opened(until), _left_s(until))
                except tuple(FAULTS) as fault:
                    pause_s = BACKOFF_S * 2**turn * random.uniform(0.5, 1.0)  # noqa: S311  # jitter is no secret
                    if kind(fault) is not Kind.AGAIN or time.monotonic() + pause_s >= until:
                        raise
                time.sleep(pause_s)
            return call(self._opened(until), _left_s(until))

    def _opened(self, until: float) -> _Open:
        if (found := self._open) is not None:
            return found
        if not self._lock.acquire(timeout=_left_s(until)):
            raise IndexUnavailable(f"Weaviate at {self.url} {Kind.AGAIN.value} (another thread is still connecting)")
        try:
            if self._open is None:
                self._open = self._connected()
            return self._open
        finally:
            self._lock.release()

    def _connected(self) -> _Open:
        client = self._client()
        try:
            client.connect()
            version = _version(client.get_meta()["version"])
            if version < MIN_VERSION:
                raise IndexUnavailable(
                    f"Weaviate at {self.url} has version {version[0]}.{version[1]}: Ragstone needs 1.29 or later"
                )
        except BaseException:
            client.close()
            raise
        channel = self._channel()
        return _Open(client, channel, weaviate_pb2_grpc.WeaviateStub(channel), version)  # type: ignore[no-untyped-call]

    def _client(self) -> WeaviateClient:
        return WeaviateClient(
            self._params(),
            auth_client_secret=AuthApiKey(self._api_key) if self._api_key else None,
            additional_config=AdditionalConfig(
                timeout=Timeout(init=self.timeout_s, query=self.timeout_s, insert=self.timeout_s * WRITES_TAKE)
            ),
            skip_init_checks=True,  # they ask PyPI for the client's newest version, and the server what we ask anyway
        )

    def _params(self) -> ConnectionParams:
        try:
            return ConnectionParams.from_url(self.url, self._grpc_port)
        except ValueError as fault:
            raise IndexUnavailable(
                f"found {self.url!r} and gRPC port {self._grpc_port}; needed an http or https address in "
                "RAGSTONE_WEAVIATE_URL and another port in RAGSTONE_WEAVIATE_GRPC_PORT"
            ) from fault

    def _channel(self) -> grpc.Channel:
        address = self._params().grpc
        target = f"{address.host}:{address.port}"
        if address.secure:
            return grpc.secure_channel(target, grpc.ssl_channel_credentials(), CHANNEL_OPTIONS)
        return grpc.insecure_channel(target, CHANNEL_OPTIONS)

    def _asked(self, method: Callable[..., Any], request: Any, left_s: float) -> Any:
        try:
            return method(request, timeout=left_s, metadata=self._metadata)
        except ValueError as fault:  # what grpc says of a channel that another thread has closed
            raise WeaviateClosedClientError from fault

    def _health(self, open_: _Open, left_s: float) -> Any:
        method = open_.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health.WeaviateHealthCheckRequest.SerializeToString,
            response_deserializer=health.WeaviateHealthCheckResponse.FromString,
        )
        return self._asked(method, health.WeaviateHealthCheckRequest(), left_s)


def _left_s(until: float) -> float:
    return max(until - time.monotonic(), 0.001)


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
