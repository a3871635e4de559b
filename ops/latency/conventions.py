"""What OpenTelemetry calls what we observe, all of it in this file.

The names are those of the semantic conventions for generative AI, version 0.1.0, which are still in development
(https://github.com/open-telemetry/semantic-conventions-genai), and of those for HTTP and databases, which are stable.
No query, text, id or path of a request is in any of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from retrieval.observing import AnswerObserved, SearchObserved

Attributes = dict[str, str | int | float | bool | list[str]]

WORKFLOW = "ragstone generate"
DATABASE_SYSTEMS = {"pgvector": "postgresql"}
"""The backends that OpenTelemetry knows under another name."""
STAGES_IN_ORDER = ("queue", "embed", "search", "corpus")
ERROR_TYPE = "error.type"


@dataclass(frozen=True, slots=True)
class ModelServer:
    """Who is asked for answers. `provider` is the kind of server where that is known, else whose API it speaks."""

    address: str
    port: int
    provider: str = "openai"


IN_PROCESS = "ragstone"
"""The provider where no model server is asked."""


def of_request(method: str, scheme: str) -> Attributes:
    return {"http.request.method": method, "url.scheme": scheme}


def of_response(route: str, status: int) -> Attributes:
    """`status` is 0 where no response began."""
    attributes: Attributes = {"http.route": route} if route else {}
    return attributes | {"http.response.status_code": status} if status else attributes


def of_search(observed: SearchObserved) -> Attributes:
    return {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.data_source.id": observed.collection.name,
        "db.system.name": DATABASE_SYSTEMS.get(observed.backend, observed.backend),
        "db.collection.name": observed.collection.name,
        "db.response.returned_rows": len(observed.ids),
        "ragstone.backend": observed.backend,
        "gen_ai.retrieval.top_k": observed.top_k,
        "ragstone.exact": observed.exact,
        "ragstone.filtered": observed.filter is not None,
    }


def of_embedding(observed: SearchObserved) -> tuple[str, Attributes]:
    """Return the span's name, too."""
    stamp: Mapping[str, Mapping[str, str]] = observed.collection.stamp or {}
    model = stamp.get("embedder", {}).get("model", "")
    return f"embeddings {model}", {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": model}


def of_workflow(observed: AnswerObserved) -> Attributes:
    return {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.agent.name": WORKFLOW,
        "gen_ai.data_source.id": observed.collection.name,
        "gen_ai.request.stream": observed.streamed,
        "ragstone.refused": observed.refused,
    }


def of_chat(observed: AnswerObserved, server: ModelServer | None) -> Attributes:
    usage = observed.usage
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": IN_PROCESS if server is None else server.provider,
        "gen_ai.data_source.id": observed.collection.name,
        "gen_ai.request.model": observed.model,
        "gen_ai.response.model": observed.model,
        "gen_ai.request.stream": True,  # always, whether or not our own answer is
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
    }
    if observed.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = observed.max_tokens
    if observed.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [observed.finish_reason]
    if observed.first_s is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = observed.first_s
    if server is not None:
        attributes |= {"server.address": server.address, "server.port": server.port}
    return attributes
