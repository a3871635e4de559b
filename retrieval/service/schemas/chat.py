"""OpenAI's chat completions, as its clients send and expect them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from retrieval.documents import Usage
from retrieval.service.schemas.answers import CITATION_EXAMPLE, CitationResult
from retrieval.service.schemas.base import Filter, MaxTokens, Result, TopK
from retrieval.service.schemas.costs import CostResult

_ID = "chatcmpl-3f0c5b1d2a"
_ANNOTATION_EXAMPLE: JsonDict = {
    "type": "url_citation",
    "url_citation": {
        "start_index": 0,
        "end_index": 41,
        "url": "/v1/collections/handbook/documents/leave#char=0,37",
        "title": "Leave",
    },
}


class _Lenient(BaseModel):
    """OpenAI's clients send fields that mean nothing here; they are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class TextPart(_Lenient):
    """A part of a message."""

    type: Literal["text"] = Field(description="Only text is understood.")
    text: str = Field(description="The text.")


def _only_text(content: object, check: ValidatorFunctionWrapHandler) -> object:
    """One error for all the ways in which content is no text: pydantic has one for each way."""
    try:
        return check(content)
    except ValidationError as error:
        needed = "text, or parts of the type 'text': only text is understood"
        raise PydanticCustomError("only_text", "Input should be {needed}", {"needed": needed}) from error


_Content = Annotated[str | list[TextPart] | None, WrapValidator(_only_text)]


class ChatMessage(_Lenient):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"] = Field(description="Who said it.")
    content: _Content = Field(None, description="What was said.")


class StreamOptions(_Lenient):
    """What a stream is to carry."""

    include_usage: bool = Field(False, description="Send a last chunk with the usage.")


class ChatBody(_Lenient):
    """A conversation. The last message of the user is the question, and what it is answered from is searched for it.

    What user and assistant said before is the conversation that it stands in, as far as that fits its share of the
    prompt. Messages of other roles are not read: how to answer is the collection's own `prompt`. `top_k` and `filter`
    are not OpenAI's: its clients send them as extra fields.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "handbook", "messages": [{"role": "user", "content": "How much leave do I get?"}]}]
        }
    )

    model: str = Field(description="The collection to answer from.", examples=["handbook"])
    messages: list[ChatMessage] = Field(description="The conversation so far.", min_length=1)
    stream: bool | None = Field(None, description="Send the answer as it comes.")
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens = None
    max_completion_tokens: MaxTokens = None
    n: Literal[1] | None = Field(None, description="One answer is all there is.")
    top_k: TopK = 5
    filter: Filter = None


class UrlCitation(Result):
    """A statement of the answer and the place in a document that it rests on."""

    start_index: int = Field(description="Where the statement begins in `content`, in Unicode code points.")
    end_index: int = Field(description="Where it ends, with its `[number]`: the first character after it.")
    url: str = Field(
        description="The document's path in this service, then the source's characters as RFC 5147 writes them: "
        "`#char=start,end`."
    )
    title: str = Field(description="The document's title, or its id where it has none.")


class Annotation(Result):
    """A citation as OpenAI's clients know it: one for each statement and source."""

    type: Literal["url_citation"] = Field(description="What this is.")
    url_citation: UrlCitation


class ChatAnswer(Result):
    """The answer, as a message."""

    role: Literal["assistant"] = Field(description="Always `assistant`.")
    content: str = Field(description="The answer; numbers in brackets are its citations.")
    citations: list[CitationResult] = Field(description="Not OpenAI's: what the numbers point at.")
    annotations: list[Annotation] = Field(description="The same as OpenAI's clients know it.")
    refused: bool = Field(description="Not OpenAI's: whether nothing relevant was found.")
    cost: CostResult | None = Field(description="Not OpenAI's: by the operator's prices; null where there are none.")
    warnings: list[str] = Field(description="Not OpenAI's: budgets that are nearly used up.")


class ChatChoice(Result):
    """One of the answers: the only one."""

    index: Literal[0] = Field(description="Always 0.")
    message: ChatAnswer
    finish_reason: str = Field(description="`stop`, or `length` where the answer was cut off.")


class PromptTokens(Result):
    """Of the tokens that were read."""

    cached_tokens: int = Field(description="Those that the model server still knew; 0 if untold.")


class ChatUsage(Result):
    """Tokens that the model read and wrote; 0 where no model was asked."""

    prompt_tokens: int = Field(description="Read.")
    completion_tokens: int = Field(description="Written.")
    total_tokens: int = Field(description="Both.")
    prompt_tokens_details: PromptTokens


class ChatResult(Result):
    """A chat completion."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _ID,
                    "object": "chat.completion",
                    "created": 1795512600,
                    "model": "handbook",
                    "choices": [
                        {
                            "index": 0,
                            "message": {
                                "role": "assistant",
                                "content": "Everyone has 30 days of leave a year. [1]",
                                "citations": [CITATION_EXAMPLE],
                                "annotations": [_ANNOTATION_EXAMPLE],
                                "refused": False,
                                "cost": None,
                                "warnings": [],
                            },
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {
                        "prompt_tokens": 0,
                        "completion_tokens": 0,
                        "total_tokens": 0,
                        "prompt_tokens_details": {"cached_tokens": 0},
                    },
                }
            ]
        }
    )

    id: str = Field(description="Of this completion.")
    object: Literal["chat.completion"] = Field(description="What this is.")
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="The collection.")
    choices: list[ChatChoice] = Field(description="One.")
    usage: ChatUsage


class ModelResult(Result):
    """A collection, as a model that can be asked."""

    id: str = Field(description="Its name.")
    object: Literal["model"] = Field(description="What this is.")
    created: int = Field(description="Seconds since 1970.")
    owned_by: Literal["ragstone"] = Field(description="Always `ragstone`.")


class ModelList(Result):
    """The collections, as models."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [{"id": "handbook", "object": "model", "created": 1795512600, "owned_by": "ragstone"}],
                }
            ]
        }
    )

    object: Literal["list"] = Field(description="What this is.")
    data: list[ModelResult] = Field(description="One for each collection.")


def chat_usage_json(usage: Usage) -> dict[str, Any]:
    """Return a ChatUsage as a dict."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
