"""Every setting, in one place: constructor keywords or environment variables that begin with RAGSTONE_."""

from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backends.corpus.machine import usable_cores
from backends.errors import InvalidSettings


class Settings(BaseSettings):
    """What an operator can set. `RAGSTONE_TAIL_LIMIT=500` sets `tail_limit`; units stand in the names."""

    model_config = SettingsConfigDict(env_prefix="RAGSTONE_", frozen=True, extra="forbid")

    data: str = Field("./ragstone-data", description="A folder for an embedded PostgreSQL, or a postgresql:// URL")
    pool_size: int = Field(8, ge=1, le=200, description="Connections to PostgreSQL")
    statement_budget_ms: int = Field(10_000, ge=10, description="The longest a search may take in PostgreSQL")

    placement: Literal["automatic", "advise"] = Field(
        "automatic", description="Whether `ragstone serve` moves a collection that crosses the line, or only says so"
    )
    placement_threshold: int = Field(10_000_000, ge=1, description="Vectors above which a collection leaves pgvector")
    large_backend: Literal["faiss", "weaviate", "pinecone"] = Field(
        "faiss", description="Where collections above the threshold go"
    )
    recall_target: float = Field(0.95, ge=0, le=1, description="Recall@10 that an index must show before it serves")
    old_index_kept_s: float = Field(86_400, ge=0, description="How long the index before a move follows, for rollback")
    move_chunks_per_s: float | None = Field(None, gt=0, description="The most chunks that a move builds in a second")
    exact_fallback_chunks: int = Field(
        100_000, ge=0, description="Chunks up to which a collection is searched exactly while its index is away"
    )
    backend_timeout_s: float = Field(10.0, gt=0, description="The longest wait for an answer of Weaviate or Pinecone")
    index_folder: str | None = Field(
        None, description="Where FAISS indexes are saved; default: vector-indexes in the data folder"
    )
    faiss_kind: Literal["auto", "flat", "hnsw", "ivf_sq8", "ivf_pq", "cagra"] = "auto"
    faiss_device: Literal["auto", "cpu", "gpu"] = "auto"
    weaviate_url: str | None = Field(None, description="Weaviate's REST address, for example http://localhost:8080")
    weaviate_grpc_port: int = Field(50_051, ge=1, le=65_535)
    weaviate_api_key: SecretStr | None = None
    pinecone_api_key: SecretStr | None = None
    pinecone_host: str = Field("https://api.pinecone.io", description="Pinecone's control plane")
    pinecone_cloud: str = "aws"
    pinecone_region: str = "us-east-1"
    index_min_chunks: int = Field(5_000, ge=1, description="Chunks below which no vector index is built")
    tail_limit: int = Field(2_000, ge=1, description="Chunks that a vector index may be behind before writers wait")
    ef_search: int = Field(40, ge=1, le=1000, description="HNSW effort of a search")

    embedding_model: str = Field(
        "all-MiniLM-L6-v2",
        description="`all-MiniLM-L6-v2`, `hashing`, or the path of a sentence-transformers folder; "
        "with embedding_url, the name of the model there",
    )
    embedding_device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    embedding_url: str | None = Field(
        None, description="An OpenAI-compatible endpoint, for example http://host:8001/v1"
    )
    embedding_api_key: SecretStr | None = None
    embedding_batch_tokens: int = Field(8_192, ge=1, description="Tokens in one forward pass, padding included")
    embedding_queue_texts: int = Field(4_096, ge=1, description="Texts that may wait for the model")
    embedding_cache_queries: int = Field(10_000, ge=0, description="Query embeddings that are remembered; 0 for none")

    chunk_tokens: int = Field(256, ge=16, description="Tokens in a chunk, its document's title included")
    chunk_overlap_tokens: int = Field(32, ge=0, description="Tokens that neighbouring chunks share")

    generator_url: str | None = Field(
        None, description="An OpenAI-compatible server, for example vLLM's http://host:8000/v1"
    )
    generator_model: str | None = Field(None, description="The model to ask there; its first one where none is named")
    generator_api_key: SecretStr | None = None
    generator_connect_timeout_s: float = Field(5.0, gt=0)
    generator_first_token_timeout_s: float = Field(60.0, gt=0, description="The longest wait for an answer to begin")
    generator_read_timeout_s: float = Field(60.0, gt=0, description="The longest wait for the next piece of an answer")
    generator_total_timeout_s: float = Field(600.0, gt=0, description="The longest that an answer may take in all")
    generator_retries: int = Field(
        2, ge=0, le=10, description="How often a request is tried again before its first token; 0 for never"
    )
    generator_breaker_failures: int = Field(
        5, ge=1, description="Failures in a row after which the model server is left alone for a while"
    )
    generator_breaker_s: float = Field(10.0, gt=0, description="How long it is left alone before one request tries it")
    generator_metrics_every_s: float = Field(
        10.0, ge=0, description="Seconds from one reading of the model server's metrics to the next; 0 for none"
    )
    generator_piece_interval_ms: float = Field(
        40.0,
        ge=0,
        le=1_000,
        description="Pieces of an answer that come faster are passed on together; 0 for each by itself",
    )
    generations_running: int = Field(64, ge=1, description="Answers that are generated at once")
    generations_waiting: int = Field(128, ge=0, description="Answers that may wait for their turn; beyond them, 429")
    generation_wait_s: float = Field(10.0, ge=0, description="The longest that an answer waits for its turn")
    context_tokens: int = Field(
        3_000, ge=400, description="The most tokens of a prompt; fewer where the model's window is shorter"
    )
    answer_tokens: int = Field(
        1_024, ge=1, description="The longest answer of a request without max_tokens; the prompt leaves it its room"
    )
    history_share: float = Field(
        0.25, ge=0, le=1, description="The most of the prompt that the conversation before the question may take"
    )
    refusal_score: float = Field(0.15, description="No hit above this score: the question is refused")

    prices: str | None = Field(None, description="A TOML or JSON file of what models and searches cost")
    budgets: str | None = Field(None, description="A TOML or JSON file of what may be spent, by whom")

    backup_key: SecretStr | None = Field(
        None, min_length=16, description="Signs the manifests of backups; one without its signature is refused"
    )

    health_every_s: float = Field(
        300.0, ge=0, description="Seconds from one health report of `ragstone serve` to the next; 0 for none"
    )

    recall_sample: float = Field(
        0.01, ge=0, le=1, description="Share of searches that are kept, so that recall is measured on them; 0 for none"
    )
    recall_kept_queries: int = Field(2_000, ge=1, le=100_000, description="Searches kept of each collection, at most")
    recall_budget_s_per_min: float = Field(
        3.0, ge=0, le=60, description="Seconds of each minute that go into measuring recall; 0 for none"
    )

    slow_query_ms: float = Field(
        500.0,
        ge=0,
        description="Searches that take so long are kept with their plan: `latency report --slow`",
    )
    traces: bool = Field(
        False,
        description="Whether spans of searches and answers go to OpenTelemetry; OTEL_EXPORTER_OTLP_ENDPOINT says where",
    )

    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="The largest HTTP request body")
    max_top_k: int = Field(1_000, ge=1, description="The most hits that one search may ask for")
    service_threads: int = Field(
        40, ge=1, description="Threads of the HTTP service that may block; searches have as many of their own"
    )
    searches_at_once: int = Field(
        default_factory=lambda: max(2, usable_cores()),
        ge=1,
        description="Statements for searches of one kind that run at once; those that come meanwhile share the next",
    )

    @field_validator("prices", "budgets", mode="before")
    @classmethod
    def _empty_is_unset(cls, path: object) -> object:
        """A variable that is set to nothing names no file."""
        return path or None


_SECRET = frozenset(name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None)


def load(**given: object) -> Settings:
    """Settings from the keywords and the environment; `InvalidSettings` names the first that is wrong."""
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        found = "" if field in _SECRET else f"; found {first['input']!r}"
        raise InvalidSettings(field, f"{first['msg']}{found}") from None if field in _SECRET else error
