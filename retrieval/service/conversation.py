"""From OpenAI's list of messages to a question and the conversation before it."""

from collections.abc import Sequence

from backends.errors import InvalidInput
from backends.filters import check_text
from retrieval.generation.base import Message
from retrieval.service.schemas.chat import ChatMessage


def conversation_of(messages: Sequence[ChatMessage]) -> tuple[str, tuple[Message, ...]]:
    """Return the question, which is the last message of the user, and what user and assistant said before it.

    The other roles are not read: how a model is told to answer is the collection's own prompt, and tools are not
    called. Nor is what comes after the question, nor an earlier message without text. Raises InvalidInput with the
    field `messages`, or `messages[i].content`.
    """
    last = _last_of_user(messages)
    question = _text(messages[last])
    _check(question, last)
    if not question.strip():
        raise InvalidInput(f"messages[{last}].content", "found no text; needed the question")
    return question, tuple(_history(messages[:last]))


def _last_of_user(messages: Sequence[ChatMessage]) -> int:
    for position in reversed(range(len(messages))):
        if messages[position].role == "user":
            return position
    raise InvalidInput("messages", "found none whose role is 'user'; needed one: the last of them is the question")


def _history(messages: Sequence[ChatMessage]) -> list[Message]:
    history = []
    for position, message in enumerate(messages):
        text = _text(message)
        if message.role in ("user", "assistant") and text.strip():
            _check(text, position)
            history.append(Message("user" if message.role == "user" else "assistant", text))
    return history


def _text(message: ChatMessage) -> str:
    content = message.content
    return "\n".join(part.text for part in content) if isinstance(content, list) else content or ""


def _check(text: str, position: int) -> None:
    check_text(text, f"messages[{position}].content", InvalidInput)
