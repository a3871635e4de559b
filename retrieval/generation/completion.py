"""The stream of an OpenAI-compatible chat completion, from bytes to text and usage."""

import json
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from retrieval.documents import Usage
from retrieval.generation.failures import message_of, shortened
from retrieval.generation.sse import EventDecoder, EventTooLong

_LAST_EVENT = "[DONE]"


class NotAnAnswer(ValueError):
    """What came is an error or no chat completion; the text says what was found."""


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Counted(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(BaseModel):
    """One event; the fields that are not named here are another's business."""

    choices: list[_Choice] = []
    usage: _Counted | None = None


class Completion:
    """What a completion's stream has said so far."""

    def __init__(self) -> None:
        self._decoder = EventDecoder()
        self.usage = Usage()
        self.finish_reason: str | None = None
        self.ended = False
        """Whether the server said that nothing follows."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the answer's text was received."""
        return self.ended or self.finish_reason is not None

    def feed(self, received: bytes) -> Iterator[str]:
        """Yield the pieces of text that `received` completes; raises NotAnAnswer."""
        try:
            events = self._decoder.feed(received)
        except EventTooLong as error:
            raise NotAnAnswer(f"found {error}") from error
        for data in events:
            if data.strip() == _LAST_EVENT:
                self.ended = True
            if self.ended:
                return
            yield from self._take(data)

    def _take(self, data: str) -> Iterator[str]:
        event = _parsed(data)
        if event.usage:
            self.usage = Usage(
                prompt_tokens=event.usage.prompt_tokens or 0,
                completion_tokens=event.usage.completion_tokens or 0,
            )
        for choice in event.choices:
            if choice.delta.content:
                yield choice.delta.content
            self.finish_reason = choice.finish_reason or self.finish_reason


def _parsed(data: str) -> _Event:
    try:
        payload = json.loads(data)
        if message := message_of(payload):
            raise NotAnAnswer(f"the server gave up: {message}")
        return _Event.model_validate(payload)
    except (json.JSONDecodeError, ValidationError, RecursionError) as error:
        raise NotAnAnswer(f"found an event that is no chat completion: {shortened(data)}") from error
