"""Which embedder the settings ask for."""

from typing import TYPE_CHECKING

from retrieval.embedding.base import Embedder
from retrieval.embedding.environment import prepare_environment
from retrieval.embedding.hashing import MODEL as HASHING
from retrieval.embedding.hashing import HashingEmbedder

if TYPE_CHECKING:
    from retrieval.config import Settings


def open_embedder(settings: "Settings", model: str | None = None) -> Embedder:
    """Open the model of the settings, or `model` in its place.

    With `embedding_url` the model is the endpoint's; else it is "hashing", all-MiniLM-L6-v2 by its name, or the
    path of a sentence-transformers folder. Raises InvalidSettings for a model that is not there, and
    EmbedderUnavailable where an endpoint does not answer.
    """
    name = model or settings.embedding_model
    if settings.embedding_url is not None:
        from retrieval.embedding.remote import RemoteEmbedder

        key = settings.embedding_api_key
        return RemoteEmbedder(settings.embedding_url, name, api_key=key.get_secret_value() if key else None)
    if name == HASHING:
        return HashingEmbedder()
    prepare_environment()
    from retrieval.embedding.local import open_local  # torch takes a second to import

    return open_local(name, settings.embedding_device)
