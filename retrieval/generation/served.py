"""What a server says of the model that it serves: its name, its window, how many tokens a prompt takes."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import httpx
from pydantic import BaseModel, ValidationError

from backends.errors import Busy, GeneratorUnavailable, InvalidSettings, RagstoneError
from retrieval.generation.address import ServerAddress
from retrieval.generation.base import Message
from retrieval.generation.failures import cannot_connect, closed, failure, no_http

_log = logging.getLogger(__name__)

REMEMBERED_S = 300.0
"""A server that restarts with another window, or learns to count, is noticed after this time."""

ASKED_AGAIN_S = 10.0
"""After a failure, for so long an estimate does: a server that hangs must not hold up every answer."""

TIMEOUT_S = 2.0

_MAX_BYTES = 8 << 20
_CANNOT = frozenset({404, 405, 501})
_THIS_ONE = frozenset({400, 413, 422})


class _Model(BaseModel):
    id: str
    max_model_len: int | None = None
    parent: str | None = None


class _Models(BaseModel):
    data: list[_Model]


class _Counted(BaseModel):
    count: int
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: httpx.Headers
    body: bytes


class Served:
    """Asks a server, blocking, and remembers the answers. Safe from any thread.

    `model` is its name as far as it is known: the one that was configured, or the server's first once it was asked.
    """

    def __init__(
        self,
        address: ServerAddress,
        configured_model: str,
        connect_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._configured_model = configured_model
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._client = address.blocking_client()
        self._asking = threading.Lock()
        self._models: list[_Model] | None = None
        self._told_window: int | None = None
        self._ask_models_at = 0.0
        self._count_at = 0.0
        self.model = configured_model

    def find_model(self) -> str:
        """Ask which models are served, and return the name to ask for.

        Raises GeneratorUnavailable, Busy, and InvalidSettings for a key, a URL or a model that is not taken.
        """
        models = self._list(self._connect_timeout_s)
        self._remember(models)
        self.model = self._configured_model or models[0].id
        return self.model

    def window_tokens(self) -> int | None:
        """Return the most tokens that prompt and answer may take; None where the server does not say."""
        # One asks, and the others go by what is known already.
        if self._clock() >= self._ask_models_at and self._asking.acquire(blocking=self._models is None):
            try:
                self._refresh()
            finally:
                self._asking.release()
        return _window(self._models or [], self.model) or self._told_window

    def count_tokens(self, messages: Sequence[Message]) -> int | None:
        """Return the tokens that these messages take; None where the server cannot say that."""
        now = self._clock()
        if now < self._count_at:
            return None
        if not self.model:
            self.window_tokens()  # the same list names the model
        body = {
            "model": self.model,
            "messages": [asdict(message) for message in messages],
            "add_generation_prompt": True,
        }
        try:
            return self._counted(self._client.build_request("POST", self._address.beside("tokenize"), json=body))
        except RagstoneError as error:
            self._count_at = now + ASKED_AGAIN_S
            _log.warning("tokens of prompts are estimated for now: %s", error)
            return None

    def forget(self, *, model: bool) -> None:
        """Ask again, next time: the server seems to have another window than it said, or another model."""
        if model:
            self.model = self._configured_model
        self._told_window = None
        self._ask_models_at = self._count_at = 0.0

    def ping(self) -> None:
        """Raise GeneratorUnavailable where the server does not answer, or does not take the key."""
        try:
            self.find_model()
        except Busy:
            return  # it is there
        except InvalidSettings as error:
            # Some servers list no models; who names one does not need the list.
            if error.field == "generator_api_key" or not self._configured_model:
                raise GeneratorUnavailable(str(error)) from error

    def close(self) -> None:
        self._client.close()

    def _refresh(self) -> None:
        if self._clock() < self._ask_models_at:
            return  # another thread was first
        try:
            self._remember(self._list(TIMEOUT_S))
        except RagstoneError as error:
            self._ask_models_at = self._clock() + ASKED_AGAIN_S
            _log.warning("the model's window is not known for now: %s", error)
        else:
            self.model = self.model or (self._models or [_Model(id="")])[0].id

    def _remember(self, models: list[_Model]) -> None:
        self._models = models
        self._ask_models_at = self._clock() + REMEMBERED_S

    def _list(self, timeout_s: float) -> list[_Model]:
        reply = self._ask(self._client.build_request("GET", self._address.at("models")), timeout_s)
        if reply.status != 200:
            raise self._failure(reply)
        try:
            models = _Models.model_validate_json(reply.body).data
        except ValidationError as error:
            raise InvalidSettings(
                "generator_model", f"found none, and {self._address.name} does not list its models: name one"
            ) from error
        if not models:
            raise GeneratorUnavailable(f"{self._address.name} serves no model")
        return models

    def _counted(self, request: httpx.Request) -> int | None:
        reply = self._ask(request, TIMEOUT_S)
        if reply.status in _CANNOT:
            self._count_at = self._clock() + REMEMBERED_S
            _log.info("%s counts no tokens of prompts: they are estimated", self._address.name)
            return None
        if reply.status in _THIS_ONE:
            _log.warning("the tokens of a prompt are estimated: %s", self._failure(reply))
            return None
        if reply.status != 200:
            raise self._failure(reply)
        try:
            counted = _Counted.model_validate_json(reply.body)
        except ValidationError as error:
            raise GeneratorUnavailable(f"{self._address.name} answered a request for a count with none") from error
        self._told_window = counted.max_model_len
        return counted.count

    def _ask(self, request: httpx.Request, timeout_s: float) -> _Reply:
        """Return the whole reply; a server that goes on and on is not listened to."""
        request.extensions["timeout"] = httpx.Timeout(timeout_s).as_dict()
        until = self._clock() + timeout_s
        body = bytearray()
        response: httpx.Response | None = None
        try:
            response = self._client.send(request, stream=True)
            try:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > _MAX_BYTES or self._clock() > until:
                        raise GeneratorUnavailable(f"{self._address.name} did not finish a short answer")
            finally:
                response.close()
        except httpx.RequestError as error:
            said = _unreachable(self._address, error, timeout_s, begun=response is not None)
            raise GeneratorUnavailable(said) from error
        return _Reply(response.status_code, response.headers, bytes(body))

    def _failure(self, reply: _Reply) -> RagstoneError:
        said = reply.body.decode("utf-8", "replace")
        retry_after = reply.headers.get("retry-after")
        return failure(self._address, reply.status, said, retry_after=retry_after, max_tokens=None)


def _unreachable(server: ServerAddress, error: httpx.RequestError, timeout_s: float, *, begun: bool) -> str:
    """Say what became of the connection to `server`, in our words: the library quotes what it received."""
    match error:
        case httpx.ConnectTimeout():
            return f"cannot connect to {server.name} within {timeout_s:g} s; is the model server running?"
        case httpx.ConnectError():
            return cannot_connect(server, error)
        case httpx.TimeoutException():
            return f"{server.name} did not answer within {timeout_s:g} s"
        case httpx.ProxyError():
            return f"the proxy does not let us through to {server.name}"
        case httpx.RemoteProtocolError() if not begun and "disconnected" not in str(error):
            return no_http(server)
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return closed(server, begun=begun)
        case _:
            return f"the request to {server.name} failed ({type(error).__name__})"


def _window(models: list[_Model], name: str) -> int | None:
    """Return the window of the model of this name; an adapter (LoRA) has its parent's."""
    by_name = {model.id: model for model in models}
    model = by_name.get(name)
    if model is not None and model.max_model_len is None and model.parent:
        model = by_name.get(model.parent)
    window = model.max_model_len if model else None
    return window if window and window > 0 else None
