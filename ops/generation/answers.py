"""Counts what each answer took, by model and by the length of its prompt."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from prometheus_client import Counter, Histogram
from prometheus_client.core import Metric

from ops.generation.model_names import ModelNames
from ops.generation.names import REASONS
from ops.generation.trends import FirstToken
from ops.latency.lengths import input_length
from ops.latency.stages import OTHER, next_token_s, outcome_of
from retrieval.observing import AnswerObserved, Observed

FINISH_REASONS = REASONS | {"content_filter", "tool_calls"}
REFUSED, NONE = "refused", "none"
"""In the place of a finish reason: no passage was near enough to ask the model, or it never came to one."""
FIRST_TOKENS = 5_000
"""Times to a first token that are remembered one by one."""

FIRST_TOKEN_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 40, 80)
NEXT_TOKEN_BOUNDS_S = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.4, 1, 2.5)
GAP_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SPEED_BOUNDS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 500, 1_000)


class AnswerMetrics:
    """An observer. Safe from any thread; its labels are bounded sets, whatever is observed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.models = ModelNames()
        self._lock = threading.Lock()
        self._first_tokens: deque[FirstToken] = deque(maxlen=FIRST_TOKENS)
        self._first = _histogram(
            "time_to_first_token_seconds",
            "From asking the model to the first piece of its answer",
            FIRST_TOKEN_BOUNDS_S,
        )
        self._next = _histogram(
            "time_per_output_token_seconds", "From the first piece to the last, for each token after the first",
            NEXT_TOKEN_BOUNDS_S,
        )  # fmt: skip
        self._speed = _histogram(
            "tokens_per_second", "Tokens of an answer over the time from asking the model to the last piece",
            SPEED_BOUNDS,
        )  # fmt: skip
        self._gap = _histogram("longest_gap_seconds", "The longest wait between two pieces of an answer", GAP_BOUNDS_S)
        self._answers = _counter("answers", "Answers, however they ended", "outcome", "finish_reason", "streamed")
        self._tokens = _counter(
            "tokens", "Tokens that the model server counted; the cached ones are prompts', too", "kind"
        )

    def __call__(self, observed: Observed) -> None:
        """Count an answer."""
        if not isinstance(observed, AnswerObserved):
            return
        model = self.models.named(observed.model)
        outcome, reason = outcome_of(observed), _finish_reason(observed)
        self._answers.labels(model, outcome, reason, str(observed.streamed).lower()).inc()
        self._count_tokens(model, observed)
        self._time(model, observed)

    def first_tokens(self, span_s: float) -> list[FirstToken]:
        """Return those of the last `span_s`, up to FIRST_TOKENS."""
        earliest_s = self.clock() - span_s
        with self._lock:
            return [one for one in self._first_tokens if one.at_s > earliest_s]

    def collect(self) -> Iterable[Metric]:
        """Give everything to Prometheus."""
        for metric in (self._first, self._next, self._speed, self._gap, self._answers, self._tokens):
            yield from metric.collect()

    def _count_tokens(self, model: str, observed: AnswerObserved) -> None:
        usage = observed.usage
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "cached_prompt").inc(usage.cached_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)

    def _time(self, model: str, observed: AnswerObserved) -> None:
        usage, first_s, last_s = observed.usage, observed.first_s, observed.generate_s
        if first_s is None or last_s is None:
            return
        labels = (model, input_length(usage.prompt_tokens))
        self._first.labels(*labels).observe(first_s)
        self._gap.labels(*labels).observe(observed.longest_gap_s)
        with self._lock:
            self._first_tokens.append(FirstToken(self.clock(), usage.prompt_tokens, first_s))
        if observed.outcome != "ok":
            return  # how many tokens came is not known
        if (next_s := next_token_s(observed)) is not None:
            self._next.labels(*labels).observe(next_s)
        if usage.completion_tokens and last_s > 0:
            self._speed.labels(*labels).observe(usage.completion_tokens / last_s)


def _finish_reason(observed: AnswerObserved) -> str:
    if observed.refused:
        return REFUSED
    if observed.finish_reason is None:
        return NONE
    return observed.finish_reason if observed.finish_reason in FINISH_REASONS else OTHER


def _histogram(name: str, help_: str, bounds: tuple[float, ...]) -> Histogram:
    labels = ["model", "input_length"]
    return Histogram(f"ragstone_generation_{name}", help_, labels, buckets=bounds, registry=None)


def _counter(name: str, help_: str, *labels: str) -> Counter:
    return Counter(f"ragstone_generation_{name}", help_, ["model", *labels], registry=None)
