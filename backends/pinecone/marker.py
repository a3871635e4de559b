"""The record that says whose namespace it is, and up to which change it shows the collection.

It stands in the namespace itself, under an id that no chunk has. So it goes when the namespace goes; its write
comes after theirs in the one log that Pinecone keeps of a namespace; and a query that finds not even the marker
has found that the namespace is gone.
"""

from dataclasses import asdict, dataclass
from typing import Any

from backends.types import IndexIdentity

MARKER_ID = "ragstone-marker"


@dataclass(frozen=True, slots=True)
class Marker:
    """An identity and a number of the change sequence. Without a number the index is not whole."""

    identity: IndexIdentity
    applied: int | None

    def metadata(self) -> dict[str, str]:
        """Write it as Pinecone keeps it. Numbers go as text: Pinecone would round them to float64."""
        fields = {name: str(value) for name, value in asdict(self.identity).items()}
        return fields | {"applied": "building" if self.applied is None else str(self.applied)}


def read_marker(metadata: dict[str, Any] | None, identity: IndexIdentity) -> Marker | None:
    """Return what the metadata says; None where it is not there, not readable, or not of this identity."""
    said = metadata or {}
    if Marker(identity, None).metadata() == said:
        return Marker(identity, None)
    try:
        marker = Marker(identity, int(said["applied"]))
    except (KeyError, TypeError, ValueError):
        return None
    return marker if marker.metadata() == said else None
