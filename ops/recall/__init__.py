"""Recall on what users really ask: captured, measured in the background, reported, tuned.

The exact answer to any query is in the corpus, so that an index can always be compared with it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ops.recall.capture import Capture
from ops.recall.history import Period, history
from ops.recall.measuring import Measurer
from ops.recall.reporting import BandRecall, Report, measure_now
from ops.recall.statistics import RecallSummary
from ops.recall.tuning import BandTuning, tune
from ops.recall.watching import Standing, below_target, standings
from retrieval.library import Ragstone

__all__ = [
    "BandRecall",
    "BandTuning",
    "Capture",
    "Period",
    "RecallSummary",
    "Report",
    "Standing",
    "below_target",
    "history",
    "measure_now",
    "running",
    "standings",
    "tune",
]


@contextmanager
def running(rag: Ragstone) -> Iterator[Capture | None]:
    """Capture and measure while the block runs, as far as the settings say; gives what captures, where it does."""
    settings = rag.settings
    with ExitStack() as stack:
        capture = None
        if settings.recall_budget_s_per_min > 0:
            stack.enter_context(Measurer(rag).running())
        if settings.recall_sample > 0:
            capture = Capture(rag.database, settings)
            stack.enter_context(capture.running())
            rag.observers.add(capture)
            stack.callback(rag.observers.remove, capture)
        yield capture
