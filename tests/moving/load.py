"""Searches, writes and deletes that go on in threads while a collection is moved, and check every answer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.moving.subject import TOP_K, Subject, drawn, names

ROUNDS = 20_000
PAUSE_S = 0.01
WRITES_AT_ONCE = 5
FIRST_NEW = 10_000


class Load:
    """What goes on beside a move. `rounds` counts what each thread has done."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._stopping = threading.Event()
        self._known = threading.Lock()
        self.rounds = {"search": 0, "upsert": 0, "delete": 0}
        self.backends: list[str] = []
        self.failures: list[BaseException] = []

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Go on while the block runs; raises what went wrong in a thread."""
        works = {"search": self._search, "upsert": self._upsert, "delete": self._delete}
        threads = [threading.Thread(target=self._repeat, args=work) for work in works.items()]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
            if self.failures:
                raise self.failures[0]

    def _repeat(self, name: str, work: Callable[[int], None]) -> None:
        try:
            for number in range(ROUNDS):
                if self._stopping.wait(PAUSE_S):
                    return
                work(number)
                self.rounds[name] += 1
            raise AssertionError("the load ended before the move")
        except BaseException as error:
            self.failures.append(error)

    def _search(self, number: int) -> None:
        """As many hits as were asked for, each document once, nothing that was deleted before."""
        with self._known:
            deleted = set(self._subject.deleted)
        filter = {"even": True} if number % 3 == 0 else None
        found = self._subject.collection.search_with_timings(drawn(1, number)[0], TOP_K, filter)
        ids = [hit.document_id for hit in found.hits]
        assert len(ids) == len(set(ids)) == TOP_K
        assert not deleted.intersection(ids)
        if found.backend not in self.backends[-1:]:
            self.backends.append(found.backend)

    def _upsert(self, number: int) -> None:
        """New documents, and old ones that move elsewhere: the next search finds them where they are now."""
        new = names(FIRST_NEW + number * WRITES_AT_ONCE, WRITES_AT_ONCE)
        old = names(number % 90, 2)
        with self._known:  # until they were looked for: a delete may choose a new one
            self._subject.put([*new, *old], seed=1_000 + number)
            self._subject.check_found([new[0], old[1]])

    def _delete(self, number: int) -> None:
        """One of d100 to d299, and later of the new ones: the next search does not have it any more."""
        with self._known:
            choice = [id_ for id_ in self._subject.kept if int(id_[1:]) >= 100]
            id_ = choice[number * 7919 % len(choice)]
            embedding = self._subject.kept[id_]
            self._subject.delete([id_])
        hits = self._subject.collection.search(embedding, TOP_K)
        assert id_ not in {hit.document_id for hit in hits}
