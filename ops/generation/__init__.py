"""Generation as operators see it: what answers take, and what the model server says of itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ops.generation.engine import EngineWatch, watch_of
from ops.generation.trends import SUSTAINED_S
from retrieval.library import Ragstone

if TYPE_CHECKING:
    from ops.generation.answers import AnswerMetrics


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What is known of answers in this process; `engine` is None where no model server is looked at."""

    answers: "AnswerMetrics"
    engine: EngineWatch | None

    @property
    def provider(self) -> str:
        """What kind of server answers, as its metrics show; "openai" where all that is known is whose API it speaks."""
        last = None if self.engine is None else self.engine.last
        return "openai" if last is None else last.engine


_running: WeakKeyDictionary[Ragstone, Telemetry] = WeakKeyDictionary()


@contextmanager
def running(rag: Ragstone) -> Iterator[Telemetry]:
    """Count the answers of a corpus while the block runs, and look at its model server."""
    from ops.generation.answers import AnswerMetrics  # Prometheus' client is for who serves

    every_s = rag.settings.generator_metrics_every_s
    telemetry = Telemetry(AnswerMetrics(), watch_of(rag.settings) if every_s else None)
    with ExitStack() as stack:
        if telemetry.engine is not None:
            stack.callback(telemetry.engine.close)
            stack.enter_context(telemetry.engine.running(every_s, SUSTAINED_S))
        rag.observers.add(telemetry.answers)
        stack.callback(rag.observers.remove, telemetry.answers)
        _running[rag] = telemetry
        stack.callback(_running.pop, rag, None)
        yield telemetry


def telemetry_of(rag: Ragstone) -> Telemetry | None:
    """Return what this process knows, while it counts; None otherwise."""
    return _running.get(rag)
