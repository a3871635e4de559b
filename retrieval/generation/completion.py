"""The stream of an OpenAI-compatible chat completion, from bytes to text and usage."""

from typing import Any

from pydantic_core import from_json

from retrieval.documents import Usage
from retrieval.generation.address import ServerAddress
from retrieval.generation.base import Ending
from retrieval.generation.failures import message_of, quoted
from retrieval.generation.sse import EventDecoder, EventTooLong

_LAST_EVENT = "[DONE]"
_MOST_TOKENS = 1 << 40


class NotAnAnswer(ValueError):
    """What came is an error or no chat completion; the text says what was found.

    `status` is the HTTP status that an error in the stream stands for, where it names one.
    """

    def __init__(self, found: str, status: int | None = None) -> None:
        super().__init__(found)
        self.status = status


class Completion:
    """What a completion's stream has said so far."""

    def __init__(self, server: ServerAddress) -> None:
        self._server = server
        self._decoder = EventDecoder()
        self._usage = Usage()
        self._finish_reason: str | None = None
        self.begun = False
        """Whether the model has said anything."""
        self.ended = False
        """Whether the server said that nothing follows."""
        self.wrong: NotAnAnswer | None = None
        """What was no answer. Nothing after it is read."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the answer's text was received."""
        return self.ended or self._finish_reason is not None

    @property
    def ending(self) -> Ending:
        return Ending(usage=self._usage, finish_reason=self._finish_reason)

    def feed(self, received: bytes) -> list[str]:
        """Return the pieces of text that `received` completes, those before something wrong included."""
        pieces: list[str] = []
        try:
            for data in self._decoder.feed(received):
                if data == _LAST_EVENT or data.strip() == _LAST_EVENT:
                    self.ended = True
                    break
                self._take(data, pieces)
        except NotAnAnswer as error:
            self.wrong = error
        except EventTooLong as error:
            self.wrong = NotAnAnswer(f"found {error}")
        return pieces

    def _take(self, data: str, pieces: list[str]) -> None:
        # By hand: a validating model of the event was seen to cost more than all the rest of a piece's way.
        try:
            event = from_json(data)
            if "error" in event or "choices" not in event:
                self._check_error(event)
            for choice in event.get("choices") or ():
                if content := (choice.get("delta") or {}).get("content"):
                    pieces.append(_text(content))
                if reason := choice.get("finish_reason"):
                    self._finish_reason = _text(reason)
            if counted := event.get("usage"):
                self._usage = _usage(counted)
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, NotAnAnswer):
                raise
            raise NotAnAnswer(f"found an event that is no chat completion: {quoted(data, self._server)}") from error
        self.begun = True

    def _check_error(self, event: object) -> None:
        if message := message_of(event, self._server):
            raise NotAnAnswer(f"the server gave up: {message}", _status_of(event))


def _status_of(event: Any) -> int | None:
    error = event.get("error")
    code = error.get("code") if isinstance(error, dict) else event.get("code")
    return code if isinstance(code, int) else None


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(found)
    return found


def _usage(counted: Any) -> Usage:
    details = counted.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=_tokens(counted.get("prompt_tokens")),
        completion_tokens=_tokens(counted.get("completion_tokens")),
        cached_tokens=_tokens(details.get("cached_tokens")),
    )


def _tokens(found: object) -> int:
    """Return a count of tokens; 0 for what is none."""
    return found if isinstance(found, int) and 0 < found < _MOST_TOKENS else 0
