"""The number that searches of this process may claim."""

import threading


class Standing:
    """What was last learned of a shared index, kept apart from what it was before a build or a drop.

    A search notes `generation` before it begins. Where that has changed when it ends, what it found may be of an
    index that was just being emptied or filled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hears = True
        self.generation = 0
        self.applied: int | None = None

    def reset(self) -> None:
        """Know nothing any more, and take no one's word, until `learn`."""
        with self._lock:
            self.generation += 1
            self.applied = None
            self._hears = False

    def learn(self, applied: int, generation: int) -> None:
        """Take a number that the store itself has said, unless there was a reset since `generation`."""
        with self._lock:
            if generation == self.generation:
                self.applied = applied
                self._hears = True

    def hear(self, applied: int) -> None:
        """Take a number that another process tells."""
        with self._lock:
            if self._hears:
                self.applied = applied
