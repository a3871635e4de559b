"""Keeps an eye on the model server: reads its figures now and then, and remembers those of the last half hour."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from backends.errors import GeneratorUnavailable
from ops.generation.figures import EngineFigures, between, intervals
from ops.generation.reading import NoMetrics, Reading, read
from retrieval.config import Settings

if TYPE_CHECKING:
    from retrieval.generation.metrics_page import MetricsPage

State = Literal["unread", "read", "no_metrics", "away"]

REMEMBERED_S = 2_400.0
MOST_READINGS = 5_000
STOP_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class EngineWatch:
    """Reads a model server's metrics page. `look()` does it once, in one thread at a time; the rest is for any thread.

    `state` says how the last look went: "no_metrics" where the server is there and has none, "away" where it does not
    answer. `problem` says why. A change of either is logged once.
    """

    def __init__(self, page: "MetricsPage", clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that only grow."""
        self.state: State = "unread"
        self.problem = ""
        self.read_at: float | None = None
        """When it was last read, in seconds since 1970."""
        self.restarts = 0
        """How often its counters were seen to begin anew."""
        self.sustained_s = 0.0
        """What "for some time" means here: none where nobody looks regularly."""
        self.clock = clock
        self._page = page
        self._readings: deque[Reading] = deque(maxlen=MOST_READINGS)
        self._looking = threading.Lock()
        self._stopping = threading.Event()

    def look(self) -> None:
        """Read the page, whatever becomes of it."""
        with self._looking:
            try:
                page = self._page.read()
                if page is None:
                    raise NoMetrics("the model server has no page of metrics")
                self._add(read(page, self.clock()))
                self._tell("read", "")
            except NoMetrics as error:
                self._tell("no_metrics", str(error))
            except GeneratorUnavailable as error:
                self._tell("away", str(error))

    @property
    def readings(self) -> list[Reading]:
        """Those that are remembered, the oldest first."""
        return list(self._readings)

    @property
    def last(self) -> Reading | None:
        """What the server says now; None where it could not be read."""
        readings = self.readings
        return readings[-1] if self.state == "read" and readings else None

    @property
    def figures(self) -> EngineFigures | None:
        """What the last two readings say; None where there are none, or the last look failed."""
        readings = self.readings
        return between(*readings[-2:]) if self.state == "read" and len(readings) > 1 else None

    def since(self, span_s: float) -> list[EngineFigures]:
        """Return the figures of each interval that ended in the last `span_s`."""
        earliest_s = self.clock() - span_s
        return [figures for figures in intervals(self.readings) if figures.at_s > earliest_s]

    @contextmanager
    def running(self, every_s: float, sustained_s: float) -> Iterator[None]:
        """Look every `every_s` seconds while the block runs."""
        self.sustained_s = sustained_s
        # A daemon: a server that hangs is not to keep the process from ending.
        thread = threading.Thread(target=self._run, args=(every_s,), name="ragstone-engine", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join(STOP_WITHIN_S)

    def close(self) -> None:
        """Give the connection back."""
        self._page.close()

    def _run(self, every_s: float) -> None:
        while True:
            try:
                self.look()
            except Exception:  # whatever it is, the next look may see more
                log.exception("model server: unexpected error")
            if self._stopping.wait(every_s):
                return

    def _add(self, reading: Reading) -> None:
        if self._readings and between(self._readings[-1], reading).restarted:
            self.restarts += 1
        self._readings.append(reading)
        while self._readings[0].at_s < reading.at_s - REMEMBERED_S:
            self._readings.popleft()
        self.read_at = time.time()

    def _tell(self, state: State, problem: str) -> None:
        changed, self.state, self.problem = state != self.state, state, problem
        if changed and problem:
            log.warning("model server: %s", problem)
        elif changed:
            log.info("model server: its metrics can be read")


def watch_of(settings: Settings, clock: Callable[[], float] = time.monotonic) -> EngineWatch | None:
    """Return who looks at the configured model server; None where there is none. Raises InvalidSettings."""
    if settings.generator_url is None:
        return None
    # The HTTP client is loaded only by who has a model server.
    from retrieval.generation.address import ServerAddress
    from retrieval.generation.metrics_page import MetricsPage

    key = settings.generator_api_key
    address = ServerAddress(settings.generator_url, key.get_secret_value() if key else None)
    return EngineWatch(MetricsPage(address), clock)
