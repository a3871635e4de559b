"""What a search finds."""

from dataclasses import dataclass
from typing import Any

Metadata = dict[str, Any]
"""Flat: a key to a string, a number, a boolean, or a list of these."""


@dataclass(slots=True, kw_only=True)  # not frozen: to make one would take twice as long, and a search makes many
class Hit:
    """A chunk that a search found.

    `id` is the document's id where the document has one chunk, else `document_id#n` with n from 1.
    `score` is higher for nearer: cosine similarity, inner product, or minus the Euclidean distance.
    `text` is characters `start` to `end` of the document's text, without white space around it.
    """

    id: str
    document_id: str
    title: str
    score: float
    text: str
    metadata: Metadata
    start: int
    end: int
