"""The Generator seam: a prompt in, a stream of text and its ending out."""

from abc import ABC, abstractmethod
from collections import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from retrieval.documents import Hit, Usage
from retrieval.generation.threaded import in_threads

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What closes a stream: the tokens, and why it ended, in OpenAI's words ("stop", "length"); None for unknown."""

    usage: Usage
    finish_reason: str | None = None


Stream = abc.Generator[str | Ending, None, None]
"""Pieces of text, then one `Ending`; `close()` stops it."""
AsyncStream = abc.AsyncGenerator[str | Ending, None]
"""The same on an event loop; `aclose()`, or cancelling the task that waits for it, stops it at once."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, as every chat model takes it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What the generator is shown of one hit, under the number that an answer cites it by.

    `text` is characters `start` to `end` of the document's text: the hit's own, or the part of it that fits
    the budget and that no better passage shows already.
    """

    number: int
    hit: Hit
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a generator is asked: messages for a model, question and passages for one that needs no text.

    `tokens` is what the messages were counted to take. `answer_tokens` is the most that the answer may take, so that
    both fit into the model's window; None where nobody says how long that is.
    """

    question: str
    passages: tuple[Passage, ...]
    messages: tuple[Message, ...]
    tokens: int
    answer_tokens: int | None = None


class Generator(ABC):
    """Writes an answer from a prompt. `stream` is the one thing an adapter must do. Safe from any thread."""

    model: str
    """The model's name as answers report it; empty while a server has not been asked for it yet."""

    quotes: ClassVar[bool] = False
    """Whether an answer is made of paragraphs that quote a passage verbatim, each followed by its `[n]`."""

    @abstractmethod
    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        """Yield the answer's text in pieces, then exactly one `Ending`, and end.

        Closing the stream early stops the work and gives back what it held. `max_tokens` bounds the answer.
        Raises GeneratorUnavailable where the whole answer cannot be had, also after pieces were yielded; Busy
        where the model has too much to do; InvalidSettings where its key, name or window is wrong.
        """

    def astream(self, prompt: Prompt, max_tokens: int | None) -> AsyncStream:
        """Do what `stream` does, for an event loop: here in worker threads, natively where an adapter can."""
        return in_threads(self.stream(prompt, max_tokens))

    def check(self) -> None:  # noqa: B027  # most do not know
        """Raise GeneratorUnavailable where it is known, without asking, that it would not answer now."""

    def window_tokens(self) -> int | None:
        """Return how many tokens prompt and answer may take together; None where nobody says. May ask a server."""
        return None

    def count_tokens(self, messages: Sequence[Message]) -> int | None:  # noqa: ARG002  # an adapter's counts them
        """Return how many tokens the model reads in these messages, exactly; None where nobody can say that."""
        return None

    async def aclose(self) -> None:  # noqa: B027  # most hold nothing
        """Give back what belongs to the event loop that is running."""

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Give back what is held. Calling it again does nothing."""

    def ping(self) -> None:  # noqa: B027  # an adapter without a server is always there
        """Raise GeneratorUnavailable where the model cannot be asked now."""
