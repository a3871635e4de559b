"""The generator that asks an OpenAI-compatible server: vLLM, TensorRT-LLM, OpenVINO and others."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict

import httpx
from pydantic import BaseModel, ValidationError

from backends.errors import Busy, GeneratorUnavailable, InvalidSettings, RagstoneError
from retrieval.generation.base import Generator, Prompt, Stream
from retrieval.generation.completion import Completion, NotAnAnswer
from retrieval.generation.failures import failure, shortened

_log = logging.getLogger(__name__)

# Shorter than the 5 s after which common servers close an idle connection, so that none is taken as it closes.
_KEEPALIVE_S = 3.0
_MAX_ERROR_BYTES = 64 * 1024


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class OpenAIGenerator(Generator):
    """Streams answers from `POST {url}/chat/completions`, over connections that are kept and shared.

    Without a `model`, the first that `GET {url}/models` lists is asked for. An answer is whole or an error: a
    stream that breaks off before the server says that it has finished raises GeneratorUnavailable. `Usage` is
    what the server counted, and zeros where it counts nothing: it is never estimated. Nothing is tried twice
    but the making of a connection.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 60.0,
    ) -> None:
        """`read_timeout_s` is the longest wait for the next piece. Raises InvalidSettings; connects to nothing."""
        self._url = _checked_url(url)
        self._server = self._url.netloc.decode("ascii")
        self._key = _checked_key(api_key)
        self._configured_model = model or ""
        self._connect_timeout_s = connect_timeout_s
        self._client = httpx.Client(
            headers=_headers(self._key),
            timeout=httpx.Timeout(read_timeout_s, connect=connect_timeout_s),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE_S),
        )
        self.model = self._configured_model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server!r}, model={self.model!r})"

    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        """Yield the answer as it comes. A closed stream closes the connection, and the server stops."""
        body: dict[str, object] = {
            "model": self.model or self._find_model(),
            "messages": [asdict(message) for message in prompt.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        request = self._client.build_request("POST", self._at("chat/completions"), json=body)
        with closing(self._send(request)) as response:
            if not response.is_success:
                raise self._failure(response, max_tokens)
            completion = Completion()
            yield from self._read(response, completion)
            if completion.finish_reason == "length" and max_tokens is None:
                _log.warning("%s cut its answer off at its own limit of tokens", self._server)
            yield completion.usage

    def close(self) -> None:
        self._client.close()

    def ping(self) -> None:
        """Raise GeneratorUnavailable where the server does not answer, or does not take the key."""
        try:
            self._find_model()
        except Busy:
            return  # it is there
        except InvalidSettings as error:
            # Some servers list no models; who names one does not need the list.
            if error.field == "generator_api_key" or not self._configured_model:
                raise GeneratorUnavailable(str(error)) from error

    def _find_model(self) -> str:
        """Ask which models are served, and return the first; remember it where none is configured."""
        timeout = httpx.Timeout(self._connect_timeout_s)
        with closing(self._send(self._client.build_request("GET", self._at("models"), timeout=timeout))) as response:
            if not response.is_success:
                raise self._failure(response, None)
            served = self._listed(response)
        self.model = self._configured_model or served[0]
        return served[0]

    def _listed(self, response: httpx.Response) -> list[str]:
        try:
            models = _Models.model_validate_json(response.read()).data
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        except ValidationError as error:
            raise InvalidSettings(
                "generator_model", f"found none, and {self._server} does not list its models: name one"
            ) from error
        if not models:
            raise GeneratorUnavailable(f"{self._server} serves no model")
        return [model.id for model in models]

    def _read(self, response: httpx.Response, completion: Completion) -> Iterator[str]:
        """Yield the text of a stream; raise unless all of it came."""
        found = response.headers.get("content-type", "text/event-stream")
        if not found.startswith("text/event-stream"):
            raise GeneratorUnavailable(f"{self._server} answered with {shortened(found)}; needed text/event-stream")
        received = response.iter_bytes()
        try:
            for part in received:
                yield from completion.feed(part)
                if completion.ended:
                    next(received, None)  # the end of the response, after which the connection serves others
                    break
        except httpx.RequestError as error:
            if not completion.is_whole:
                raise self._unreachable(error) from error
        except NotAnAnswer as error:
            raise GeneratorUnavailable(self._without_key(f"{self._server}: {error}")) from error
        if not completion.is_whole:
            raise GeneratorUnavailable(f"{self._server} closed the stream before the answer was finished")

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            try:
                return self._client.send(request, stream=True)
            except httpx.ConnectError:
                return self._client.send(request, stream=True)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.RequestError) -> GeneratorUnavailable:
        if isinstance(error, httpx.ReadTimeout):
            return GeneratorUnavailable(f"{self._server} sent nothing for too long")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return GeneratorUnavailable(f"cannot connect to {self._server}: {error}; is the model server running?")
        return GeneratorUnavailable(f"the connection to {self._server} broke off: {error}")

    def _failure(self, response: httpx.Response, max_tokens: int | None) -> RagstoneError:
        if response.status_code == 404 and not self._configured_model:
            self.model = ""  # the server may have another one since it was asked
        return failure(
            self._server,
            response.status_code,
            self._without_key(_beginning(response)),
            retry_after=response.headers.get("retry-after"),
            max_tokens=max_tokens,
        )

    def _without_key(self, text: str) -> str:
        """Servers repeat a key that they refuse."""
        return text.replace(self._key, "***") if self._key else text

    def _at(self, endpoint: str) -> httpx.URL:
        return self._url.copy_with(path=f"{self._url.path.rstrip('/')}/{endpoint}")


def _headers(key: str) -> dict[str, str]:
    # A proxy that compresses holds pieces back.
    return {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})


def _beginning(response: httpx.Response) -> str:
    """Return the body of an error, as far as it can be read."""
    body = b""
    try:
        for part in response.iter_bytes():
            body += part
            if len(body) > _MAX_ERROR_BYTES:
                break
    except httpx.RequestError:
        pass  # what came is told
    return body[:_MAX_ERROR_BYTES].decode("utf-8", "replace")


def _checked_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidSettings("generator_url", "found no http address; needed, for example, http://host:8000/v1")
    return parsed


def _checked_key(key: str | None) -> str:
    """Return the key as a header can carry it; the message never repeats it."""
    stripped = (key or "").strip()
    if not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise InvalidSettings("generator_api_key", "found a space or a character that is not ASCII")
    return stripped
