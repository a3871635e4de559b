"""Pinecone as a vector index: one namespace of a serverless Pinecone index for each of ours.

failures.py     the SDK's errors in our words
connection.py   the SDK's clients: where they connect, retries
rows.py         our chunks and filters in Pinecone's form and within its limits
marker.py       the record that says whose namespace it is, and how far it has come
namespace.py    reads and writes of one namespace; waiting until a write is visible
index.py        the adapter
"""

from backends.pinecone.index import PineconeIndex

__all__ = ["PineconeIndex"]
