"""A stand-in for vLLM: the same events, errors and counts, from words that a test can work out in its head.

tests/vllm shows that a real vLLM does what this one does.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.model_server import MODEL, ModelServer, Reply, document, event, failed, model_server

_TOKEN = re.compile(r"\w+|\s*[^\w\s]")

Speech = Callable[[dict[str, Any]], list[str]]
"""From a request's body to the pieces that the model would say, were there no limit."""


def count_tokens(messages: list[dict[str, str]]) -> int:
    """Every word and every sign is a token; a message takes two more, and the answer's beginning takes two."""
    return sum(len(_TOKEN.findall(message["content"])) + 2 for message in messages) + 2


def endless_words(_body: dict[str, Any]) -> list[str]:
    return [f"word{number} " for number in range(100_000)]


def echo(body: dict[str, Any]) -> list[str]:
    """Say the whole prompt, word for word."""
    return re.findall(r"\s*\S+", "\n".join(message["content"] for message in body["messages"]))


@dataclass
class VllmLike:
    """Serves `MODEL` with a window of `window_tokens`. `speech` says what it answers, a piece each `pause_s`."""

    speech: Speech = endless_words
    window_tokens: int = 4096
    pause_s: float = 0.0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def serve_on(self, server: ModelServer) -> None:
        """Answer with what is served now: a window that is changed later shows at once."""
        server.reply = self.complete
        server.routes["GET /v1/models"] = lambda _body: document(self._models())
        server.routes["POST /tokenize"] = self._tokenize

    def complete(self, body: dict[str, Any]) -> Reply:
        if refused := self._refused(body):
            return refused
        prompt_tokens = count_tokens(body["messages"])
        left = self.window_tokens - prompt_tokens
        events = self._events(body, prompt_tokens, min(body.get("max_tokens") or left, left))
        return Reply(parts=events, pause_s=self.pause_s)

    def _events(self, body: dict[str, Any], prompt_tokens: int, most: int) -> Iterator[bytes]:
        head = {"id": f"chatcmpl-{next(self._numbers):016x}", "object": "chat.completion.chunk", "created": 1795875284}
        head["model"] = body["model"]
        words = self.speech(body)
        said = words[:most]
        first = _choice({"role": "assistant", "content": ""})
        yield event({**head, "choices": [first], "prompt_token_ids": None, "prompt_text": None})
        for number, word in enumerate(said, start=1):
            reason = "length" if number == most else None
            yield event({**head, "choices": [_choice({"content": word}, reason, token_ids=None)]})
        if len(words) < most:
            yield event({**head, "choices": [_choice({"content": ""}, "stop", token_ids=None)]})
        if (body.get("stream_options") or {}).get("include_usage"):
            counts = {
                "prompt_tokens": prompt_tokens,
                "total_tokens": prompt_tokens + len(said),
                "completion_tokens": len(said),
            }
            yield event({**head, "choices": [], "usage": counts, "system_fingerprint": "stand-in"})
        yield event("[DONE]")

    def _refused(self, body: dict[str, Any]) -> Reply | None:
        if body["model"] != MODEL:
            return failed(404, f"The model `{body['model']}` does not exist. Valid aliases: {MODEL}.")
        window = self.window_tokens
        if (asked := body.get("max_tokens") or 0) > window:
            return failed(400, f"max_tokens={asked} cannot be greater than max_model_len={window}.")
        if (found := count_tokens(body["messages"])) == window:
            return failed(400, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)")
        if found > window:
            return failed(
                400,
                f"This model's maximum context length is {window} tokens. However, your prompt contains at least"
                f" {found} input tokens, which exceeds this limit even without any output tokens.",
            )
        return None

    def _models(self) -> dict[str, Any]:
        model = {
            "id": MODEL,
            "object": "model",
            "created": 1795875284,
            "owned_by": "vllm",
            "root": MODEL,
            "parent": None,
            "max_model_len": self.window_tokens,
            "permission": [],
        }
        return {"object": "list", "data": [model]}

    def _tokenize(self, body: dict[str, Any]) -> Reply:
        if body["model"] != MODEL:
            return failed(404, f"The model `{body['model']}` does not exist. Valid aliases: {MODEL}.")
        count = count_tokens(body["messages"])
        return document(
            {"count": count, "max_model_len": self.window_tokens, "tokens": [7] * count, "token_strs": None}
        )


def _choice(delta: dict[str, str], reason: str | None = None, **more: Any) -> dict[str, Any]:
    stopped = {"stop_reason": None} if reason else {}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, **stopped, **more}


@contextmanager
def vllm_like(speech: Speech = endless_words, window_tokens: int = 4096, pause_s: float = 0.0) -> Iterator[ModelServer]:
    """Run a server that does as vLLM does."""
    like = VllmLike(speech=speech, window_tokens=window_tokens, pause_s=pause_s)
    with model_server(like.complete) as server:
        like.serve_on(server)
        yield server
