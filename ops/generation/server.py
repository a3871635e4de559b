"""The model server itself, for those who only want to know how it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from backends.types import Embeddings
from retrieval.embedding.base import Kind
from retrieval.generation.base import Generator
from retrieval.generation.factory import open_generator
from retrieval.library import Ragstone


@contextmanager
def asked(rag: Ragstone) -> Iterator[Generator]:
    """Lend the generator that this process answers with, else one of its own: no embedding model is loaded for it."""
    made: Generator | None = vars(rag).get("generator")
    if made is not None:
        yield made
        return
    generator = open_generator(rag.settings, _embeds_nothing)
    try:
        yield generator
    finally:
        generator.close()


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _embeds_nothing(texts: Sequence[str], kind: Kind) -> Embeddings:
    raise AssertionError(f"a model server was to be asked, and {len(texts)} texts to be embedded as {kind}")
