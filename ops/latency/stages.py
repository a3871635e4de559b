"""The stages and outcomes by which latencies are counted: bounded sets, whatever is observed."""

from collections.abc import Iterator

from backends.errors import RagstoneError
from retrieval.observing import AnswerObserved, Observed
from retrieval.telling import ABANDONED, UNEXPECTED

OTHER = "other"
"""What stands for every name beyond a bounded set."""

SEARCH_STAGES = {
    "queue": "queue",  # waiting for the embedding model
    "embed": "embed",
    "search": "search",  # in the index
    "corpus": "corpus",  # joining and scoring, where the index is not in the corpus
    "total": "total",  # of a search, from the question to its hits
}
ANSWER_STAGES = {
    "prompt": "prompt",
    "generate_first": "first_token",  # both from when the generator was asked
    "generate": "last_token",
    "answer": "answer",  # from the question to the last token, its search included
}
"""The stages by their names in `timings_ms`. An answer's search has been told of by itself."""
STAGES = (*SEARCH_STAGES.values(), *ANSWER_STAGES.values())


def _codes(kind: type[RagstoneError]) -> Iterator[str]:
    yield kind.code
    for below in kind.__subclasses__():
        yield from _codes(below)


OUTCOMES = frozenset({"ok", ABANDONED, UNEXPECTED, *_codes(RagstoneError)})


def stages_of(observed: Observed) -> Iterator[tuple[str, float]]:
    """Yield each stage that was reached, and how many milliseconds it took."""
    names = ANSWER_STAGES if isinstance(observed, AnswerObserved) else SEARCH_STAGES
    timings_ms = observed.timings_ms
    for name, stage in names.items():
        if name in timings_ms:
            yield stage, timings_ms[name]


def outcome_of(observed: Observed) -> str:
    """Return "ok", the code of the error, or "other" for one that nobody knows."""
    return observed.outcome if observed.outcome in OUTCOMES else OTHER
