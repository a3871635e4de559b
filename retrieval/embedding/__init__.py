"""Text to embeddings: the seam, its adapters, and the batcher that everybody shares."""
