"""From a model server's refusal to our error: what was wrong, and what to mend."""

import json
import os
import re
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isnan
from typing import TYPE_CHECKING

from backends.errors import Busy, GeneratorUnavailable, InvalidInput, InvalidSettings, RagstoneError

if TYPE_CHECKING:  # the HTTP client is loaded only by who has a model server
    from retrieval.generation.address import ServerAddress

_MESSAGE_CHARACTERS = 300
_TOO_LONG = re.compile(
    r"context (?:length|window|size)|max_model_len|max_seq_len|max(?:imum)?.{0,20}length|too (?:long|many tokens)"
)
# What vLLM says of a prompt that leaves no room for the answer's first token.
_NO_ROOM = re.compile(r"max_tokens must be at least 1, got (?:0|-)")
_LONGEST_RETRY_AFTER_S = 3600.0
# Where the system's own errors are from; those of libraries are OSErrors, too.
_SYSTEM = frozenset({"builtins", "socket", "ssl"})


class PromptTooLong(InvalidSettings):
    """The model's window is shorter than the prompt was meant for: lower `context_tokens`, or let it be asked again."""

    def __init__(self, problem: str) -> None:
        super().__init__("context_tokens", problem)


def quoted(text: str, server: "ServerAddress") -> str:
    """Return what a server said, on one line, without secrets, and not more of it than a message needs."""
    line = " ".join(server.without_secrets(text).split())
    return line if len(line) <= _MESSAGE_CHARACTERS else f"{line[:_MESSAGE_CHARACTERS]}\u2026"


def cannot_connect(server: "ServerAddress", error: BaseException) -> str:
    """Say why there is no connection, whichever library met it."""
    return f"cannot connect to {server.name}: {_cause(error)}; is the model server running?"


def closed(server: "ServerAddress", *, begun: bool) -> str:
    """Say when a server closed the connection; `begun` says whether some of the answer had come."""
    return f"{server.name} closed the connection {'in the middle of the answer' if begun else 'before it answered'}"


def no_http(server: "ServerAddress") -> str:
    """Say what is wrong with a server that answers with something else."""
    return f"{server.name} does not answer in HTTP"


def _cause(error: BaseException | None) -> str:
    """Return what the system says at the bottom of it: the libraries above have words of their own."""
    while error is not None and not (isinstance(error, OSError) and type(error).__module__ in _SYSTEM):
        error = error.__cause__ or error.__context__
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case ssl.SSLError():
            return f"no TLS ({error.reason})"
        case socket.gaierror(strerror=str(said)):
            return said
        case OSError(errno=int(number)):
            return os.strerror(number)
        case _:
            return "the reason is not known"


def message_of(payload: object, server: "ServerAddress") -> str:
    """Return the error that a JSON payload carries, in any of the shapes that servers use; else nothing."""
    if not isinstance(payload, dict):
        return ""
    error = payload.get("error")
    if isinstance(error, dict):
        return quoted(str(error.get("message") or error), server)
    if error or payload.get("object") == "error":
        return quoted(str(error or payload.get("message") or payload), server)
    return ""


def failure(
    server: "ServerAddress", status: int, body: str, *, retry_after: str | None, max_tokens: int | None
) -> RagstoneError:
    """Return the error for a status that is no success.

    A key, a model or a URL that the server does not take is InvalidSettings; a prompt longer than the model's
    window is PromptTooLong, unless it was `max_tokens` that asked for too much. 429 is Busy; all else is
    GeneratorUnavailable.
    """
    error = _message_in(body, server)
    said = f"{server.name} answered {status}" + (f": {error}" if error else "")
    if status in (401, 403):
        return InvalidSettings("generator_api_key", f"{said}; needed: a key that this server takes")
    if status == 404:
        return _not_found(said, names_model="model" in error.lower())
    if status == 429:
        return Busy(said, retry_after_s=_seconds(retry_after))
    if status in (400, 413, 422):
        return _not_taken(said, error, max_tokens)
    return GeneratorUnavailable(said)


def _not_taken(said: str, error: str, max_tokens: int | None) -> RagstoneError:
    if max_tokens is not None and "max_tokens" in error and not _NO_ROOM.search(error):
        return InvalidInput("max_tokens", f"found {max_tokens}; {said}")
    if _TOO_LONG.search(error) or _NO_ROOM.search(error):
        return PromptTooLong(f"{said}; lower it to what the model can read")
    return GeneratorUnavailable(said)


def _not_found(said: str, *, names_model: bool) -> InvalidSettings:
    if names_model:
        return InvalidSettings("generator_model", f"{said}; name a model that is served there, or none")
    return InvalidSettings("generator_url", f"{said}; needed: where /chat/completions is, often ending in /v1")


def _message_in(body: str, server: "ServerAddress") -> str:
    """Return what a body says: its JSON error, or plain text; of a page of HTML nothing."""
    text = body.strip()
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else quoted(text, server)
    return message_of(payload, server) or quoted(text, server)


def _seconds(retry_after: str | None) -> float:
    """Return a Retry-After header, seconds or a date, as seconds from now; 1 where it says nothing usable."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        seconds = _seconds_until(retry_after or "")
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S) if not isnan(seconds) else 1.0


def _seconds_until(date: str) -> float:
    try:
        return (parsedate_to_datetime(date).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except ValueError:
        return 1.0
