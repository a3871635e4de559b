"""Documents into the corpus: what is new is chunked and embedded, what is unchanged costs nothing."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.encoding import ChunkRows
from backends.corpus.writing import DocumentState, WriteTransaction, document_states, write
from backends.errors import WriteConflict
from backends.filters import check_metadata
from backends.types import Embeddings
from backends.vectors import prepare
from retrieval.chunking import Chunker
from retrieval.documents import Chunk, Document, UpsertResult

HASH_BYTES = 16
ATTEMPTS = 5
PASSAGES_PER_CALL = 128

Embed = Callable[[Sequence[str]], Embeddings]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What has to be done with each document, as the corpus stood when it was asked."""

    changed: list[Document]
    metadata_only: list[Document]
    unchanged: int


@dataclass(slots=True)
class _Embedded:
    """The chunks of a document and their embeddings float32 [chunks, d], kept while a write is tried again."""

    chunks: list[Chunk]
    embeddings: Embeddings


class _Moved(Exception):  # not an error: the plan is made again
    """Another writer changed these documents after the plan was made."""


@dataclass(slots=True)
class Upsert:
    """One upsert of checked documents, sorted by id: embedded before the transaction, written in one."""

    database: Database
    collection: CollectionState
    chunker: Chunker
    embed: Embed
    tail_limit: int
    progress: Progress | None = None
    _embedded: dict[bytes, _Embedded] = field(default_factory=dict)

    def run(self, documents: list[Document]) -> UpsertResult:
        """Return when everything is durable. Raises WriteConflict where other writers kept changing the same."""
        hashes = {document.id: content_hash(document, self.chunker.stamp) for document in documents}
        for _ in range(ATTEMPTS):
            states = document_states(self.database, self.collection, list(hashes))
            plan = _plan(documents, hashes, states)
            if not plan.changed and not plan.metadata_only:
                return UpsertResult(upserted=0, unchanged=plan.unchanged, chunks=0)
            self._embed_all(plan.changed, hashes)
            try:
                chunks = write(
                    self.database,
                    self.collection,
                    lambda transaction, plan=plan: self._write(transaction, plan, hashes),  # type: ignore[misc]  # bound now, on purpose
                    self.tail_limit,
                )
            except _Moved:
                continue
            upserted = len(plan.changed) + len(plan.metadata_only)
            return UpsertResult(upserted=upserted, unchanged=plan.unchanged, chunks=chunks)
        raise WriteConflict(f"other writers kept changing the same documents of {self.collection.name!r}; try again")

    def _embed_all(self, documents: list[Document], hashes: dict[str, bytes]) -> None:
        todo = [document for document in documents if hashes[document.id] not in self._embedded]
        chunked = [(document, self.chunker.chunk(document)) for document in todo]
        passages = [
            self.chunker.passage_text(document.title, chunk.text) for document, chunks in chunked for chunk in chunks
        ]
        embeddings = self._embed_passages(passages)
        position = 0
        for document, chunks in chunked:
            part = embeddings[position : position + len(chunks)]
            self._embedded[hashes[document.id]] = _Embedded(chunks, part)
            position += len(chunks)

    def _embed_passages(self, passages: list[str]) -> Embeddings:
        parts: list[Embeddings] = [np.empty((0, self.collection.spec.dimension), np.float32)]
        done = 0
        for start in range(0, len(passages), PASSAGES_PER_CALL):
            part = passages[start : start + PASSAGES_PER_CALL]
            parts.append(prepare(self.embed(part), self.collection.spec, "the model's embeddings"))
            done += len(part)
            if self.progress is not None:
                self.progress(done)
        return np.concatenate(parts)

    def _write(self, transaction: WriteTransaction, plan: _Plan, hashes: dict[str, bytes]) -> int:
        """Check the plan against rows that are now locked, and carry it out."""
        planned = plan.changed + plan.metadata_only
        states = transaction.lock_states(sorted(document.id for document in planned))
        again = _plan(planned, hashes, states)
        if (again.changed, again.metadata_only) != (plan.changed, plan.metadata_only):
            raise _Moved
        replaced = [document.id for document in plan.changed if document.id in states]
        if replaced:
            transaction.delete_documents(replaced)
        copied = 0
        if plan.metadata_only:
            copied = transaction.replace_metadata(
                {document.id: check_metadata(document.metadata) for document in plan.metadata_only}
            )
        if not plan.changed:
            return copied
        embedded = [self._embedded[hashes[document.id]] for document in plan.changed]
        rows = _rows(plan.changed, [part.chunks for part in embedded], hashes)
        transaction.insert(rows, np.concatenate([part.embeddings for part in embedded]))
        return copied + len(rows)


def content_hash(document: Document, chunker_stamp: dict[str, Any]) -> bytes:
    """Return 16 bytes that change when the title, the text or the chunker does. Metadata has no part in it."""
    parts = [document.title, document.text, json.dumps(chunker_stamp, sort_keys=True)]
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _plan(documents: list[Document], hashes: dict[str, bytes], states: dict[str, DocumentState]) -> _Plan:
    changed, metadata_only = [], []
    for document in documents:
        state = states.get(document.id)
        if state is None or state.content_hash != hashes[document.id]:
            changed.append(document)
        elif _canonical(state.metadata) != _canonical(document.metadata):
            metadata_only.append(document)
    return _Plan(changed, metadata_only, len(documents) - len(changed) - len(metadata_only))


def _rows(documents: list[Document], chunked: list[list[Chunk]], hashes: dict[str, bytes]) -> ChunkRows:
    pairs = [
        (document, chunk, 0 if len(chunks) == 1 else ordinal)
        for document, chunks in zip(documents, chunked, strict=True)
        for ordinal, chunk in enumerate(chunks, start=1)
    ]
    metadata = {document.id: check_metadata(document.metadata) for document in documents}
    return ChunkRows(
        document_ids=[document.id for document, _, _ in pairs],
        ordinals=[ordinal for _, _, ordinal in pairs],
        titles=[document.title for document, _, _ in pairs],
        texts=[chunk.text for _, chunk, _ in pairs],
        metadata=[metadata[document.id] for document, _, _ in pairs],
        starts=[chunk.start for _, chunk, _ in pairs],
        ends=[chunk.end for _, chunk, _ in pairs],
        content_hashes=[hashes[document.id] for document, _, _ in pairs],
    )


def _canonical(value: Any) -> Any:
    """PostgreSQL gives 1e23 back as an integer, and Python takes true for 1: compare by kind and decimal value."""
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(repr(value))
    return type(value), value
