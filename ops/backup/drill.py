"""Proves a backup by restoring it into a scratch corpus, and comparing what is there with what is in its files.

Every row is compared, and the nearest to some queries are, in memory that does not grow with the backup.
"""

import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import SecretStr
from rich.filesize import decimal

import retrieval
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.exporting import SnapshotReader, corpus_snapshot
from backends.corpus.indexes import all_indexes, sample_embeddings
from backends.errors import BackupDamaged, Conflict, CorpusUnavailable, InvalidInput
from ops.backup.chains import Link, chain
from ops.backup.contents import live_runs, read_file
from ops.backup.manifest import CollectionEntry, Manifest
from ops.backup.nearest import SEED, TOP_K, Best, Nearest, agree, mean_interval
from ops.backup.planning import plan_collection
from ops.backup.progress import Meter, Watch
from ops.backup.reading import batches
from ops.backup.repository import Repository
from ops.backup.restoring import Restored, restore
from ops.backup.row_sums import Sums, difference, rows_of
from ops.backup.shards import read_chunks
from ops.measures import recall_at_k
from ops.moving.planning import Needs, needed
from ops.moving.verification import drawn_queries
from retrieval import Hit, Ragstone
from retrieval.config import Settings, load
from retrieval.placement import DEFAULT_BACKEND, belongs_to, builds_hnsw, recall_target_of

QUERIES = 100
EXACT_BUDGET_MS = 3_600_000
CHAIN_SIZES = 3  # texts are compressed in a backup; a corpus has keys and a write-ahead log besides
EMPTY_CORPUS_BYTES = 100 << 20
KEPT = (
    "documents",
    "chunks",
    "sequence",
    "spec",
    "stamp",
    "placement_threshold",
    "recall_target",
    "prompt",
    "pinned_backend",
)


def run_drill(
    repository: Repository, manifest: Manifest, *, key: str | None, settings: Settings | None, watch: Watch
) -> dict[str, Any]:
    """Restore a backup into an embedded PostgreSQL in a temporary folder, compare, and throw that away.

    Indexes outside the corpus are built in the stores that the settings name, and dropped in the end. Returns JSON:
    how long it took, and of each collection what `Proof.run` returns. Raises BackupDamaged for what a restore does not
    bring back, InvalidInput where there is too little room, and what a restore raises where it cannot reach something.
    """
    given = (settings or load()).model_copy(update={"backup_key": None if key is None else SecretStr(key)})
    chains = {entry.name: chain(repository, manifest, entry, key) for entry in manifest.collections}
    check_room(list(chains.values()), given)
    with scratch_corpus(given) as rag:
        restored = _restored(rag, repository, manifest, watch)
        started_s = time.monotonic()
        found = [
            {"name": one.source, "backend": one.backend, "restore_s": one.load_s, "index_s": one.index_s}
            | Proof(rag, repository, chains[one.source], find_collection(rag.database, one.name), watch).run()
            for one in restored.collections
        ]
        compare_s = time.monotonic() - started_s
    return {"restore_s": restored.duration_s, "compare_s": compare_s, "collections": found}


def check_room(chains: Sequence[Sequence[Link]], settings: Settings) -> None:
    """Raise InvalidInput where these collections, each with all that it goes on from, do not fit into TMPDIR."""
    files = [file for links in chains for _, entry in links for file in entry.files]
    loaded_bytes = CHAIN_SIZES * sum(file.size_bytes for file in files) + EMPTY_CORPUS_BYTES
    needed_bytes = loaded_bytes + sum(_index_bytes(links[-1][1], settings) for links in chains)
    free_bytes = shutil.disk_usage(folder := tempfile.gettempdir()).free
    if free_bytes < needed_bytes:
        raise InvalidInput(
            "TMPDIR",
            f"found {decimal(free_bytes)} free in {folder}, where the backup is restored on trial; needed about "
            f"{decimal(needed_bytes)}: set TMPDIR to a folder with more room",
        )


@contextmanager
def scratch_corpus(settings: Settings) -> Iterator[Ragstone]:
    """Open an empty corpus, of which nothing stays: exact searches may take long, and an index away is an error."""
    own = {"index_folder": None, "statement_budget_ms": EXACT_BUDGET_MS, "exact_fallback_chunks": 0}
    changed = settings.model_copy(update=own | {"max_top_k": max(TOP_K, settings.max_top_k)})
    with tempfile.TemporaryDirectory(prefix="ragstone-drill-") as data, retrieval.open(data, settings=changed) as rag:
        try:
            yield rag
        finally:  # it goes with its folder, what it has in Weaviate or Pinecone does not
            with suppress(CorpusUnavailable):  # then nobody can say any more what that is
                for name in {name for name, _ in all_indexes(rag.database)}:
                    rag.indexes.remove_all(find_collection(rag.database, name))


def _index_bytes(entry: CollectionEntry, settings: Settings) -> int:
    """What the entry's index needs on the disk of this machine."""
    known = {name: getattr(entry, name) for name in CollectionState.__slots__ if hasattr(entry, name)}
    state = CollectionState(**known | {"id": entry.collection_id, "index_id": 0, "backend": DEFAULT_BACKEND})
    backend = belongs_to(state, settings)
    if backend == DEFAULT_BACKEND and not builds_hnsw(state, settings):
        return 0
    needs = needed(state, backend)
    return needs.disk_bytes if needs.where == Needs(0, 0).where else 0


def _restored(rag: Ragstone, repository: Repository, manifest: Manifest, watch: Watch) -> Restored:
    try:
        return restore(
            rag, repository.url, manifest.id, watch=lambda told: watch(replace(told, phase=f"restoring: {told.phase}"))
        )
    except Conflict as error:  # with whom, in a corpus of its own
        raise BackupDamaged(manifest.id, f"it could not be restored: {error}") from error


@dataclass(frozen=True, slots=True)
class Proof:
    """The comparison of a collection that was restored as `state` with the files of its chain in the repository."""

    rag: Ragstone
    repository: Repository
    links: Sequence[Link]
    state: CollectionState
    watch: Watch

    def run(self) -> dict[str, Any]:
        """Compare every row, the TOP_K nearest to QUERIES queries, and what the index finds of them.

        Returns JSON: its size, how many of the `queries` are answered with just what NumPy finds in the files, and
        recall@10 of the index with its 95 % interval, None for too few chunks to have an index. Raises BackupDamaged.
        """
        nearest = self._compare()
        recall = self._recall(self._search(nearest))
        size = {"documents": self._entry.documents, "chunks": self._entry.chunks}
        return size | dict.fromkeys(("queries", "identical_exact"), len(nearest.queries)) | recall

    @property
    def _entry(self) -> CollectionEntry:
        return self.links[-1][1]

    def _compare(self) -> Nearest:
        """Compare all rows, and return the nearest ones to some queries among those of the files."""
        meter = Meter(self.watch, f"comparing {self._entry.name}", 2 * self._entry.chunks, "chunks")
        stored = sample_embeddings(self.rag.database, self.state, QUERIES, SEED)
        nearest, ours, theirs = Nearest(drawn_queries(stored, self._entry.spec), self._entry.spec), Sums(), Sums()
        for rows in self._backed_up():
            ours.add(rows)
            nearest.add(rows)
            meter.add(len(rows))
        with closing(self._there()) as there:
            for rows in there:
                theirs.add(rows)
                meter.add(len(rows))
        bucket = ours.first_difference(theirs)
        if bucket is not None:
            raise self._finding(difference(rows_of(bucket, self._backed_up()), rows_of(bucket, self._there())))
        self._check_same(theirs, "documents", "chunks")
        self._check_same(self.state, *KEPT)
        return nearest

    def _search(self, nearest: Nearest) -> list[float]:
        """Compare what exact searches find, and return the recall of default ones, [] where there is no index."""
        collection = self.rag.collection(self.state.name)
        collection.wait_until_indexed()
        is_indexed = collection.info().indexed and self.state.chunks > TOP_K
        total = len(nearest.queries) * self.state.chunks  # each of them is compared with every query
        meter = Meter(self.watch, f"searching {self._entry.name}", total, "chunks")
        recalls = []
        for at, query in enumerate(nearest.queries):
            ids, scores = _split(collection.search(query, TOP_K, exact=True))
            exact, true = list(zip(ids, scores, strict=True)), nearest.best[at]
            if not agree(exact, true, nearest.tolerance(at)):
                raise self._finding(f"an exact search finds {_shown(exact)}; nearest in its files are {_shown(true)}")
            if is_indexed:
                recalls.append(recall_at_k(*_split(collection.search(query, TOP_K)), scores, TOP_K))
            meter.add(self.state.chunks)
        return recalls

    def _recall(self, recalls: list[float]) -> dict[str, float | None]:
        """Raise BackupDamaged where the target is above the whole interval."""
        target = recall_target_of(self.state, self.rag.settings)
        if not recalls:
            return {"recall": None, "recall_low": None, "recall_high": None, "recall_target": target}
        recall, (low, high) = float(np.mean(recalls)), mean_interval(recalls)
        if high < target:
            raise self._finding(
                f"recall@{TOP_K} of its index is {recall:.3f} on {len(recalls)} queries (95 % interval {low:.3f} to "
                f"{high:.3f}), below the target {target:g}: raise ef_search, or lower the collection's recall_target"
            )
        return {"recall": recall, "recall_low": low, "recall_high": high, "recall_target": target}

    def _check_same(self, restored: CollectionState | Sums, *names: str) -> None:
        for name in names:
            found, kept = getattr(restored, name), getattr(self._entry, name)
            if found != kept:
                raise self._finding(f"its {name} became {found!r}; needed {kept!r}, as the manifest says")

    def _backed_up(self) -> Iterator[pa.RecordBatch]:
        """The rows that the files of the chain have alive."""
        spec = self._entry.spec
        live = live_runs(self.repository, *self.links[-1])
        for backup_id, entry in self.links:
            for file in entry.of_kind("chunks"):
                data = read_file(self.repository, backup_id, file)
                for rows in read_chunks(data, file, f"{backup_id}/{file.name}", spec.dimension, spec.precision):
                    yield rows.filter(pa.array(live.contains(rows.column("id").to_numpy())))

    def _there(self) -> Generator[pa.RecordBatch]:
        """The rows that were restored, read as a backup reads them."""
        database = self.rag.database
        with corpus_snapshot(database) as snapshot, closing(SnapshotReader(database, snapshot)) as reader:
            try:
                for piece in plan_collection(reader, self.state, None).pieces:
                    yield from batches(reader, self.state, piece)
            except Conflict as error:
                raise self._finding(f"its rows were not restored whole: {error}") from error

    def _finding(self, problem: str) -> BackupDamaged:
        return BackupDamaged(self.links[-1][0], f"collection {self._entry.name!r}: {problem}")


def _split(hits: Sequence[Hit]) -> tuple[list[str], list[float]]:
    return [hit.id for hit in hits], [hit.score for hit in hits]


def _shown(best: Best) -> str:
    return ", ".join(f"{id_!r} ({score:.6f})" for id_, score in best) or "nothing"
