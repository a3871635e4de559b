"""What /docs says around the operations."""

from typing import Any

from fastapi import FastAPI

from retrieval.service.failures import codes_by_status
from retrieval.service.schemas.problems import Problem

TAGS = [
    {"name": "collections", "description": "What documents are kept in."},
    {"name": "documents", "description": "What is searched."},
    {"name": "files", "description": "Uploads, ingested in the background by jobs that survive a restart."},
    {"name": "retrieve", "description": "Passages for a question or an embedding."},
    {"name": "generate", "description": "Answers with citations."},
    {"name": "OpenAI-compatible", "description": "For clients that speak OpenAI's API."},
    {"name": "health", "description": "For those who keep the service running."},
]

UPLOAD = "Body_upload_v1_collections__name__files_post"
"""What FastAPI calls the multipart body; it can be given no description where it is declared."""

_CODES = "\n".join(
    f"| {status} | {' '.join(f'`{code}`' for code in codes)} |" for status, codes in codes_by_status().items()
)

DESCRIPTION = f"""Ragstone answers questions over your own documents.

```sh
curl -X POST localhost:8000/v1/collections -H 'Content-Type: application/json' -d '{{"name": "handbook"}}'
curl -X POST localhost:8000/v1/collections/handbook/documents -H 'Content-Type: application/json' \\
  -d '{{"documents": [{{"id": "leave", "title": "Leave", "text": "Everyone has 30 days of leave a year."}}]}}'
curl -X POST localhost:8000/v1/collections/handbook/files -F files=@handbook.md
curl -X POST localhost:8000/v1/collections/handbook/retrieve -H 'Content-Type: application/json' \\
  -d '{{"query": "how much leave do I get?", "top_k": 3}}'
curl -X POST localhost:8000/v1/collections/handbook/generate -H 'Content-Type: application/json' \\
  -d '{{"query": "how much leave do I get?"}}'
```

Every error is a problem document (RFC 9457, `application/problem+json`). Its `code` is stable; `detail` says what was
found and what is needed, and `field` names the part of the request to mend. With 429 and 503, `Retry-After` says when
another try is worth it.

| status | codes |
|---|---|
{_CODES}
"""


def complete(app: FastAPI) -> None:
    """Add to the OpenAPI description what the routes refer to and FastAPI does not know."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        found = plain()
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        schemas[UPLOAD] |= {"title": "Upload", "description": "Files to ingest."}
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return found

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
