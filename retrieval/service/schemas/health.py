"""Health."""

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


class ReadyResult(Result):
    """Everything that the service needs answers."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ready", "dependencies": {"corpus": {"latency_ms": 0.412}}}]}
    )

    status: Literal["ready"] = Field(description="Always `ready`; otherwise a problem document is sent, with 503.")
    dependencies: dict[str, DependencyResult] = Field(description="Each of them by name.")
