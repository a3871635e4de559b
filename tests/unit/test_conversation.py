"""From OpenAI's messages to a question and its conversation."""

import pytest

from backends.errors import InvalidInput
from retrieval.generation.base import Message
from retrieval.service.conversation import conversation_of
from retrieval.service.schemas.chat import ChatMessage


def messages(*said: tuple[str, object]) -> list[ChatMessage]:
    return [ChatMessage.model_validate({"role": role, "content": content}) for role, content in said]


def test_the_last_message_of_the_user_is_the_question() -> None:
    """What user and assistant said before is the conversation; other roles and empty messages are not read."""
    question, history = conversation_of(
        messages(
            ("system", "You are a pirate."),
            ("user", "Why?"),
            ("assistant", None),
            ("tool", "42"),
            ("assistant", [{"type": "text", "text": "Because"}, {"type": "text", "text": "of it."}]),
            ("user", "Since when?"),
            ("assistant", "Since"),
        )
    )
    assert question == "Since when?"
    assert history == (Message("user", "Why?"), Message("assistant", "Because\nof it."))


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ([("assistant", "Hello.")], "messages"),
        ([("user", "Why?"), ("user", " ")], "messages[1].content"),
        ([("user", None)], "messages[0].content"),
        ([("user", "Why?\x00")], "messages[0].content"),
        ([("user", "a"), ("assistant", "b\x00"), ("user", "c")], "messages[1].content"),
    ],
)
def test_a_conversation_without_a_question_is_refused(said: list[tuple[str, object]], field: str) -> None:
    """The error names the message."""
    with pytest.raises(InvalidInput) as caught:
        conversation_of(messages(*said))
    assert caught.value.field == field
