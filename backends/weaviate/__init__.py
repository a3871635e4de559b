"""The adapter for Weaviate: https://docs.weaviate.io."""

from backends.weaviate.index import WeaviateIndex

__all__ = ["WeaviateIndex"]
