"""The page of figures that a model server keeps for Prometheus, beside its API."""

import time

import httpx

from backends.errors import GeneratorUnavailable
from retrieval.generation.address import ServerAddress

TIMEOUT_S = 2.0
MOST_BYTES = 8 << 20
"""Many times what vLLM's page takes."""
PATHS: tuple[str, ...] = ("metrics", "prometheus/metrics")
"""Where vLLM and OpenVINO have theirs, and TensorRT-LLM, whose /metrics is something else."""


class MetricsPage:
    """Reads the page of one server. One caller at a time; `close()` it.

    Redirects are not followed, and neither a slow page nor a long one is read to its end.
    """

    def __init__(self, address: ServerAddress, timeout_s: float = TIMEOUT_S) -> None:
        """Connects to nothing."""
        self._address = address
        self._timeout_s = timeout_s
        self._client = address.blocking_client(timeout_s)
        self._paths = PATHS

    def read(self) -> str | None:
        """Return the page; None where the server has none. Raises GeneratorUnavailable where it does not answer."""
        until_s = time.monotonic() + self._timeout_s
        for path in self._paths:
            text = self._read(self._address.beside(path), until_s)
            if text is not None:
                self._paths = (path, *(other for other in PATHS if other != path))
                return text
        return None

    def close(self) -> None:
        self._client.close()

    def _read(self, url: str, until_s: float) -> str | None:
        """Return what is there, where that is Prometheus' text format."""
        try:
            with self._client.stream("GET", url) as response:
                if response.status_code >= 500:
                    raise GeneratorUnavailable(f"{self._address.name} answered {response.status_code} at {url}")
                if response.status_code != 200 or not _is_exposition(response):
                    return None
                return self._body(response, until_s).decode("utf-8", "replace")
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise GeneratorUnavailable(f"{self._address.name} gives no metrics: {reason}") from error

    def _body(self, response: httpx.Response, until_s: float) -> bytes:
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > MOST_BYTES:
                raise GeneratorUnavailable(f"the metrics of {self._address.name} are longer than {MOST_BYTES} bytes")
            if time.monotonic() > until_s:
                raise GeneratorUnavailable(
                    f"{self._address.name} did not give its metrics within {self._timeout_s:g} s"
                )
        return bytes(body)


def _is_exposition(response: httpx.Response) -> bool:
    content_type: str = response.headers.get("content-type", "")
    return content_type.startswith(("text/plain", "application/openmetrics-text"))
