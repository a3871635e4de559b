"""The Generator seam: a prompt in, a stream of text and a closing usage out."""

from abc import ABC, abstractmethod
from collections import abc
from dataclasses import dataclass
from typing import ClassVar, Literal

from retrieval.documents import Hit, Usage

Role = Literal["system", "user", "assistant"]
Stream = abc.Generator[str | Usage, None, None]
"""Pieces of text, then one `Usage`; `close()` stops it."""


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

    `tokens` is what the messages were counted to take.
    """

    question: str
    passages: tuple[Passage, ...]
    messages: tuple[Message, ...]
    tokens: int


class Generator(ABC):
    """Writes an answer from a prompt. `stream` is the one thing an adapter must do. Safe from any thread."""

    model: str
    """The model's name as answers report it; empty while a server has not been asked for it yet."""

    quotes: ClassVar[bool] = False
    """Whether an answer is made of paragraphs that quote a passage verbatim, each followed by its `[n]`."""

    @abstractmethod
    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        """Yield the answer's text in pieces, then exactly one `Usage`, and end.

        Closing the stream early stops the work and gives back what it held. `max_tokens` bounds the answer.
        Raises GeneratorUnavailable where the whole answer cannot be had, also after pieces were yielded; Busy
        where the model has too much to do; InvalidSettings where its key, name or window is wrong.
        """

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Give back what is held. Calling it again does nothing."""

    def ping(self) -> None:  # noqa: B027  # an adapter without a server is always there
        """Raise GeneratorUnavailable where the model cannot be asked now."""
