"""Health."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from retrieval.service.schemas.base import Result


class LiveResult(Result):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "live"}]})

    status: Literal["live"] = Field(description="Always `live`.")


class DependencyResult(Result):
    """Something that the service needs, and that answered."""

    latency_ms: float = Field(description="How long it took to answer.")


class AwayResult(Result):
    """A vector index that cannot be used now, or has not caught up yet."""

    collection: str = Field(description="The collection that it serves.")
    backend: str = Field(description="Where it lives.")
    since: datetime = Field(description="Since when.")
    reason: str = Field(description="What was seen.")


class ReadyResult(Result):
    """Everything that the service cannot do without answers."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "ready", "dependencies": {"corpus": {"latency_ms": 0.412}}, "away": []},
                {
                    "status": "degraded",
                    "dependencies": {"corpus": {"latency_ms": 0.412}},
                    "away": [
                        {
                            "collection": "handbook",
                            "backend": "weaviate",
                            "since": "2026-11-25T12:00:00+00:00",
                            "reason": "Weaviate cannot be reached",
                        }
                    ],
                },
            ]
        }
    )

    status: Literal["ready", "degraded"] = Field(
        description="`degraded` where a vector index is away: its collection is searched exactly while it is small, "
        "and answers 503 above that. Where the corpus is away, a problem document is sent, with 503."
    )
    dependencies: dict[str, DependencyResult] = Field(description="Each of them by name.")
    away: list[AwayResult] = Field(description="The vector indexes that are away.")
