"""What a scrape reads from the corpus: waited for a little while, else what was known before is told again."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

LOOK_LIMIT_S = 2.0
"""How long a scrape waits for PostgreSQL: well below Prometheus' own limit of 10 s."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class BoundedLook(Generic[T]):
    """Reads in a thread of its own, at most once in `every_s`; `known` is what was read last."""

    def __init__(self, what: str, read: Callable[[], T], known: T, every_s: float = 0.0) -> None:
        self.known = known
        self.looked_s = float("-inf")
        self._what = what
        self._read_it = read
        self._every_s = every_s
        self._looking: threading.Thread | None = None
        self._one_look = threading.Lock()

    def value(self) -> T:
        """Wait for a look, which goes on by itself where it takes long; there is never more than one."""
        with self._one_look:
            looking = self._looking
            if looking is None or not looking.is_alive():
                if time.monotonic() - self.looked_s < self._every_s:
                    return self.known
                # A daemon: a PostgreSQL that hangs is not to keep the service from ending.
                looking = threading.Thread(target=self._read, name=f"ragstone-{self._what}-metrics", daemon=True)
                self._looking = looking
                looking.start()
        looking.join(LOOK_LIMIT_S)
        return self.known

    def _read(self) -> None:
        try:
            self.known = self._read_it()
            self.looked_s = time.monotonic()
        except Exception as error:  # whatever it is, the other metrics are to be scraped
            log.warning("%s metrics: %s", self._what, error)
