"""The tuned table without HNSW: every search compares all rows, or all that the index on the metadata finds."""

from typing import ClassVar

from benchmarks.peers.raw_tuned import RawTuned


class RawExact(RawTuned):
    """The other limit of a filtered search: where few rows match, comparing them all is the fastest."""

    name = "raw_exact"
    table: ClassVar[str] = "raw_exact"
    has_hnsw: ClassVar[bool] = False
    has_effort = False

    def prepare(self, effort: int | None) -> None:
        """There is no effort to set."""


PEER = RawExact
