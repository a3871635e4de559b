"""The stages and outcomes by which latencies are counted: bounded sets, whatever is observed."""

from collections.abc import Iterator

from backends.errors import RagstoneError
from ops.latency.lengths import INPUT_LENGTHS, input_length
from retrieval.observing import AnswerObserved, Observed
from retrieval.telling import ABANDONED, UNEXPECTED

OTHER = "other"
"""What stands for every name beyond a bounded set."""

ASKED = "generate_queue"
"""The wait for a turn: in `timings_ms` of those answers alone for which the model was asked."""

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

FIRST_TOKEN, NEXT_TOKEN = "first_token", "next_token"
STAGES_BY_LENGTH = tuple(f"{stage}/{length}" for stage in (FIRST_TOKEN, NEXT_TOKEN) for length in INPUT_LENGTHS)
"""The same time to the first token, and that between tokens, of prompts of each length."""


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


def stages_by_length(observed: Observed) -> Iterator[tuple[str, float]]:
    """Yield those of STAGES_BY_LENGTH that were reached, and how many milliseconds each took."""
    if not isinstance(observed, AnswerObserved) or observed.first_s is None:
        return
    length = input_length(observed.usage.prompt_tokens)
    yield f"{FIRST_TOKEN}/{length}", observed.first_s * 1000
    if (next_s := next_token_s(observed)) is not None:
        yield f"{NEXT_TOKEN}/{length}", next_s * 1000


def next_token_s(observed: AnswerObserved) -> float | None:
    """Return the mean time between two tokens; None where fewer came, or how many came is not known."""
    tokens, first_s, last_s = observed.usage.completion_tokens, observed.first_s, observed.generate_s
    if observed.outcome != "ok" or tokens < 2 or first_s is None or last_s is None:
        return None
    return (last_s - first_s) / (tokens - 1)


def outcome_of(observed: Observed) -> str:
    """Return "ok", the code of the error, or "other" for one that nobody knows."""
    return observed.outcome if observed.outcome in OUTCOMES else OTHER
