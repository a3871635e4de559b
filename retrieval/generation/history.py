"""The conversation before a question, as far as a prompt can hold it."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from backends.errors import InvalidInput
from backends.filters import check_text
from retrieval.generation.base import Message, Role
from retrieval.generation.budget import Measure
from retrieval.generation.citing import without_markers
from retrieval.generation.fencing import harmless

Turn = tuple[Message, Message]
"""What the user said, and what was answered."""

UNANSWERED = "(not answered)"


def turns_of(history: Sequence[Message]) -> list[Turn]:
    """Return a conversation as turns, since chat templates refuse any other order; raises InvalidInput.

    Messages of one role that follow each other are one; what was answered before the user said anything is left out.
    """
    for position, message in enumerate(history):
        _check(message, f"history[{position}]")
    said = list(_joined(history))
    if said and said[0].role == "assistant":
        said = said[1:]
    if said and said[-1].role == "user":
        said.append(Message("assistant", UNANSWERED))
    return list(zip(said[::2], said[1::2], strict=True))


def newest(turns: Sequence[Turn], measure: Measure, room_tokens: int) -> list[Message]:
    """Return the newest turns that fit, whole, in their order, and without control tokens.

    Citations of earlier answers are taken away: their numbers mean other passages now.
    """
    kept: list[Message] = []
    for user, assistant in reversed(turns):
        turn = _harmless(user.role, user.content), _harmless(assistant.role, without_markers(assistant.content))
        room_tokens -= measure.added_by(turn)
        if room_tokens < 0:
            break
        kept = [*turn, *kept]
    return kept


def _joined(history: Sequence[Message]) -> Iterator[Message]:
    for role, messages in groupby(history, key=lambda message: message.role):
        yield Message(role, "\n\n".join(message.content for message in messages))


def _harmless(role: Role, content: str) -> Message:
    return Message(role, harmless(content))


def _check(message: Message, field: str) -> None:
    if message.role not in ("user", "assistant"):
        raise InvalidInput(f"{field}.role", f"found {message.role!r}; needed 'user' or 'assistant'")
    if not isinstance(message.content, str):
        raise InvalidInput(f"{field}.content", f"found {type(message.content).__name__}; needed a text")
    check_text(message.content, f"{field}.content", InvalidInput)
