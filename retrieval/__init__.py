"""Ragstone as a library: documents in, passages and answers out.

import retrieval

with retrieval.open("./data") as rag:
    handbook = rag.create_collection("handbook")
    handbook.upsert([retrieval.Document(id="leave", title="Leave", text="...", metadata={"year": 2026})])
    hits = handbook.retrieve("how much leave do I get?", top_k=5)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.errors import RagstoneError
    from retrieval.attribution import attributed
    from retrieval.collection import Collection, CollectionInfo
    from retrieval.config import Settings
    from retrieval.documents import (
        Answer,
        AnswerEvent,
        AnswerSpan,
        Chunk,
        Citation,
        Document,
        Event,
        Hit,
        HitsEvent,
        Retrieval,
        TextEvent,
        UpsertResult,
        Usage,
    )
    from retrieval.generation.base import Message
    from retrieval.generation.templates import PromptTemplate
    from retrieval.library import Ragstone, open

_HOME = {
    "RagstoneError": "backends.errors",
    "attributed": "retrieval.attribution",
    "Collection": "retrieval.collection",
    "CollectionInfo": "retrieval.collection",
    "Settings": "retrieval.config",
    "Message": "retrieval.generation.base",
    "PromptTemplate": "retrieval.generation.templates",
    "Ragstone": "retrieval.library",
    "open": "retrieval.library",
}

__all__ = [
    "Answer",
    "AnswerEvent",
    "AnswerSpan",
    "Chunk",
    "Citation",
    "Collection",
    "CollectionInfo",
    "Document",
    "Event",
    "Hit",
    "HitsEvent",
    "Message",
    "PromptTemplate",
    "Ragstone",
    "RagstoneError",
    "Retrieval",
    "Settings",
    "TextEvent",
    "UpsertResult",
    "Usage",
    "attributed",
    "open",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `retrieval.embedding` can be had without a PostgreSQL driver."""
    if name not in __all__:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "retrieval.documents")), name)
