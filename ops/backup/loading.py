"""Loads a collection's chunks from the files of its chain, several at once; what was loaded before is passed over."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.staging import Loaded, Loader, RowsRefused, loaded_shards
from backends.errors import BackupDamaged
from ops.backup import shards
from ops.backup.contents import live_runs, read_file
from ops.backup.manifest import CollectionEntry, ShardFile
from ops.backup.progress import Meter, Watch
from ops.backup.repository import Repository
from ops.backup.runs import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A collection in a backup, and the files with its chunks: the backup's own and its parents'."""

    backup_id: str
    entry: CollectionEntry
    files: Sequence[tuple[str, ShardFile]]


class LoaderPool:
    """Threads with a session each that load files into staged collections."""

    def __init__(self, database: Database, repository: Repository, jobs: int) -> None:
        self._database = database
        self._repository = repository
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="ragstone-restore")
        self._free: SimpleQueue[Loader] = SimpleQueue()
        self._loaders: list[Loader] = []
        try:
            for _ in range(jobs):
                self._loaders.append(Loader(database))
                self._free.put(self._loaders[-1])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let what is under way come to its end, and drop the rest."""
        self._threads.shutdown(cancel_futures=True)
        for loader in self._loaders:
            loader.close()

    def load(self, chain: Chain, staged: CollectionState, watch: Watch) -> Loaded:
        """Load what is alive of a collection's chunks, and return how much that is.

        Raises BackupDamaged, naming the file, where a file is not what was written or PostgreSQL cannot take it,
        and where chunks are missing in the end.
        """
        live = live_runs(self._repository, chain.backup_id, chain.entry)
        done = loaded_shards(self._database, staged)
        meter = Meter(watch, f"loading {chain.entry.name}", chain.entry.chunks, "chunks")
        meter.add(sum(loaded.chunks for loaded in done.values()))
        begun = [
            self._threads.submit(self._load_one, staged, backup_id, file, live, meter)
            for backup_id, file in chain.files
            if f"{backup_id}/{file.name}" not in done
        ]
        all_ = [*done.values(), *(future.result() for future in begun)]
        total = Loaded(sum(one.documents for one in all_), sum(one.chunks for one in all_))
        if total != Loaded(chain.entry.documents, chain.entry.chunks):
            raise BackupDamaged(
                chain.backup_id,
                f"its files hold {total.documents} documents in {total.chunks} chunks of {chain.entry.name!r}; needed "
                f"{chain.entry.documents} in {chain.entry.chunks}",
            )
        return total

    def _load_one(self, staged: CollectionState, backup_id: str, file: ShardFile, live: Runs, meter: Meter) -> Loaded:
        where = f"{backup_id}/{file.name}"
        data = read_file(self._repository, backup_id, file)
        batches = []
        for batch in shards.read_chunks(data, file, where, staged.spec.dimension, staged.spec.precision):
            alive = live.contains(batch.column("id").to_numpy())
            kept = batch if alive.all() else batch.filter(alive)
            batches.append((kept, shards.embeddings_of(kept)))
        loader = self._free.get()
        try:
            loaded = loader.load(staged, where, batches)
        except RowsRefused as error:
            raise BackupDamaged(where, f"PostgreSQL cannot take what is in it: {error}") from error
        finally:
            self._free.put(loader)
        meter.add(loaded.chunks)
        return loaded


@contextmanager
def loader_pool(database: Database, repository: Repository, jobs: int) -> Iterator[LoaderPool]:
    """Open the sessions, and close them in the end."""
    pool = LoaderPool(database, repository, jobs)
    try:
        yield pool
    finally:
        pool.close()
