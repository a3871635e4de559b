"""Latencies: counted while requests run, kept in the corpus, reported as percentiles that are honest."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from backends.errors import Unsupported
from ops.latency.recording import LatencyRecorder
from ops.latency.slow import SlowSearches
from retrieval.library import Ragstone
from retrieval.observing import Observer


@contextmanager
def record(rag: Ragstone) -> Iterator[LatencyRecorder]:
    """Count the latencies of a corpus while the block runs, and keep its slow searches.

    With the setting `traces`, spans go to OpenTelemetry, too; raises Unsupported where that is not installed.
    """
    recorder, slow = LatencyRecorder(rag.database), SlowSearches(rag)
    with ExitStack() as stack:
        observers: list[Observer] = [recorder, slow]
        if rag.settings.traces:
            observers.append(_spans(stack))
        stack.enter_context(recorder.running())
        stack.enter_context(slow.running())
        for observer in observers:
            rag.observers.add(observer)
            stack.callback(rag.observers.remove, observer)
        yield recorder


def _spans(stack: ExitStack) -> Observer:
    try:
        from ops.latency.tracing import spans
    except ModuleNotFoundError as error:
        raise Unsupported(f"traces needs OpenTelemetry ({error.name}): pip install 'ragstone[otel]'") from error
    return stack.enter_context(spans())
