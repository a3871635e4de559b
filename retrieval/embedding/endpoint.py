"""The HTTP side of an OpenAI-compatible embeddings server: requests, retries, errors, answers."""

import base64
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import httpx
import numpy as np

from backends.errors import Busy, EmbedderUnavailable, InvalidSettings, RagstoneError, TooLarge
from retrieval.embedding.base import Embeddings

CONNECT_TIMEOUT_S = 5.0
PAUSES_S = (0.2, 1.0)
"""Before the second and the third try. Embedding changes nothing, so a request may be sent again."""

LONGEST_PAUSE_S, LONGEST_RETRY_S = 5.0, 3_600.0
PASSING = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
SHOWN_CHARACTERS = 300


class EmbeddingsEndpoint:
    """One model on one server. The API key travels in the header, and is in no message."""

    def __init__(self, url: str, model: str, api_key: str | None, timeout_s: float) -> None:
        self._model = model
        self._api_key = api_key
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        except httpx.InvalidURL as error:
            raise InvalidSettings("embedding_url", f"{error}; needed for example http://host:8001/v1") from error
        self._name = f"the embeddings endpoint at {self._client.base_url.host or 'no host'}"

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return embeddings [len(texts), dimension], normalised, in the order of the texts.

        Raises EmbedderUnavailable, Busy, TooLarge where the server wants fewer or shorter texts, and
        InvalidSettings where it refuses the key, or has another model.
        """
        body = {"model": self._model, "input": list(texts), "encoding_format": "base64"}
        response = self._send("POST", "embeddings", body)
        self._check_status(response)
        try:
            answer = response.json()
            answered_model = answer.get("model") or self._model
            embeddings = _read_embeddings(answer["data"], len(texts))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EmbedderUnavailable(f"{self._name} answered with no embeddings ({error!r})") from error
        if answered_model != self._model:
            raise InvalidSettings(
                "embedding_model",
                f"found {self._model!r}, and {self._name} answers with {answered_model!r}; needed the same",
            )
        return embeddings

    def max_tokens(self) -> int | None:
        """Return how many tokens the model reads, where the server says so, as vLLM does."""
        response = self._send("GET", "models", None)
        if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            return None
        self._check_status(response)
        try:
            lengths = {model["id"]: model.get("max_model_len") for model in response.json()["data"]}
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        length = lengths.get(self._model)
        return int(length) if length else None

    def close(self) -> None:
        self._client.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Send, and send again after what may pass; the last response or error counts."""
        for pause_s in PAUSES_S:
            try:
                response = self._client.request(method, path, json=body)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError):
                time.sleep(pause_s)
                continue
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            wanted_s = _retry_after_s(response)
            if response.status_code not in {*PASSING, HTTPStatus.TOO_MANY_REQUESTS} or wanted_s > LONGEST_PAUSE_S:
                return response
            time.sleep(max(pause_s, wanted_s))
        try:
            return self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> RagstoneError:
        if isinstance(error, httpx.UnsupportedProtocol):
            return InvalidSettings("embedding_url", f"{error}; needed for example http://host:8001/v1")
        return EmbedderUnavailable(f"{self._name} does not answer ({type(error).__name__}: {error})")

    def _check_status(self, response: httpx.Response) -> None:
        """Turn a refusal into an error that says what to do."""
        if response.is_success:
            return
        said = self._said(response)
        match response.status_code:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                found = "no key" if self._api_key is None else "a key that it does not accept"
                raise InvalidSettings("embedding_api_key", f"{self._name} found {found}; needed a valid one")
            case HTTPStatus.NOT_FOUND:
                raise InvalidSettings(
                    "embedding_model",
                    f"found {self._model!r}, which {self._name} does not know; needed the name under which it "
                    f"serves the model, and an embedding_url that ends as in http://host:8001/v1 ({said})",
                )
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise TooLarge(f"{self._name} finds the texts too many or too long ({said})")
            case HTTPStatus.TOO_MANY_REQUESTS:
                raise Busy(f"{self._name} is busy ({said})", _retry_after_s(response))
            case status:
                raise EmbedderUnavailable(f"{self._name} answered with status {status} ({said})")

    def _said(self, response: httpx.Response) -> str:
        text = response.text if self._api_key is None else response.text.replace(self._api_key, "***")
        return " ".join(text[:SHOWN_CHARACTERS].split()) or "it said nothing"


def _retry_after_s(response: httpx.Response) -> float:
    """Read Retry-After in seconds; 1 where it is missing or a date."""
    try:
        return min(max(0.0, float(response.headers["retry-after"])), LONGEST_RETRY_S)
    except (KeyError, ValueError):
        return 1.0


def _read_embeddings(data: list[dict[str, Any]], texts: int) -> Embeddings:
    """Read base64 or numbers, put them in the order of their index, and normalise them."""
    by_index = {entry["index"]: _read_embedding(entry["embedding"]) for entry in data}
    matrix = np.stack([by_index[index] for index in range(texts)]).astype(np.float64)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise ValueError("an embedding is zero or not finite")
    normalised: Embeddings = (matrix / lengths).astype(np.float32)
    return normalised


def _read_embedding(embedding: str | list[float]) -> Embeddings:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.array(embedding, np.float32)
