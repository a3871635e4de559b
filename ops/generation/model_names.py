"""The models that metrics tell apart: a bounded set, whatever servers call theirs."""

import threading

from ops.latency.stages import OTHER

MAX_MODELS = 20
"""Models counted by name; those that are met later are counted together as "other"."""
UNNAMED = "unknown"


class ModelNames:
    """Those that were met first. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def named(self, name: str) -> str:
        """Return what a model is counted under."""
        name = name or UNNAMED
        with self._lock:
            if name not in self._names and len(self._names) >= MAX_MODELS:
                return OTHER
            self._names.add(name)
            return name
