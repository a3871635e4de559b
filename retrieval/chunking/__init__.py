"""Documents into chunks that fit the model, cut where the text itself has its joints."""

from retrieval.chunking.chunker import Chunker, passage_text

__all__ = ["Chunker", "passage_text"]
