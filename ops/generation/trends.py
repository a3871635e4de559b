"""What the field warns of, over minutes: answers that slow down though as many are asked for, first tokens that lag."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from ops.generation.engine import EngineWatch
from ops.generation.figures import EngineFigures
from ops.latency.lengths import INPUT_LENGTHS, input_length

SUSTAINED_S = 300.0
"""What lasts so long is no burst."""
BASELINE_S = 1_800.0
LEAST_BASELINE_S = 600.0
FALLEN = 0.7
"""Below this share of the baseline, tokens per second have fallen."""
STEADY = 0.9
"""Above this share of the baseline, the requests in progress have not."""
LEAST_IN_PROGRESS = 1.0
"""With fewer requests in progress than that, a model server's speed says nothing."""

FIRST_TOKENS_S = 900.0
LEAST_ANSWERS = 20
FASTER = 1.5
"""So much faster than the prompts' length may the time to the first token grow: attention alone is more than linear."""
LEAST_LONGER = 1.25


@dataclass(frozen=True, slots=True)
class Throughput:
    """Medians over the last SUSTAINED_S, and over the BASELINE_S before them."""

    tokens_per_s: float
    usual_tokens_per_s: float
    in_progress: float
    usual_in_progress: float

    @property
    def share(self) -> float:
        """Of the usual tokens per second, those of late."""
        return self.tokens_per_s / self.usual_tokens_per_s

    @property
    def fell(self) -> bool:
        """Whether fewer tokens come while no fewer requests want them."""
        return self.share < FALLEN and self.in_progress >= STEADY * self.usual_in_progress


def throughput(watch: EngineWatch) -> Throughput | None:
    """Compare the speed of late with the usual one; None where there is too little to compare.

    Requests in progress are the measure of what is wanted: where a server slows down, fewer are finished, while those
    in progress stay or pile up. Medians of the intervals between readings, so that no burst and no gap decides.
    """
    figures = [one for one in watch.since(SUSTAINED_S + BASELINE_S) if not one.restarted]
    begins_s = watch.clock() - SUSTAINED_S
    late = [one for one in figures if one.at_s > begins_s]
    usual = [one for one in figures if one.at_s <= begins_s]
    if not late or sum(one.span_s for one in usual) < LEAST_BASELINE_S:
        return None
    tokens, usual_tokens = _tokens(late), _tokens(usual)
    in_progress, usual_in_progress = _in_progress(late), _in_progress(usual)
    if not usual_tokens or tokens is None or in_progress is None or (usual_in_progress or 0.0) < LEAST_IN_PROGRESS:
        return None
    return Throughput(tokens, usual_tokens, in_progress, usual_in_progress or 0.0)


class FirstToken(NamedTuple):
    """When a first token came (a monotonic clock's seconds), to how long a prompt, and after how long a wait."""

    at_s: float
    prompt_tokens: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Between two classes of prompts, each with its median length and its median time to the first token."""

    shorter_tokens: float
    longer_tokens: float
    shorter_s: float
    longer_s: float

    @property
    def factor(self) -> float:
        """By how much more the time grew than the length."""
        return (self.longer_s / self.shorter_s) / (self.longer_tokens / self.shorter_tokens)


def steepest(first_tokens: Iterable[FirstToken]) -> Growth | None:
    """Return where the time to the first token grows most beyond the prompts' length; None for too few answers.

    Classes of prompts with LEAST_ANSWERS are compared, each with the next longer one.
    """
    classes: dict[str, list[FirstToken]] = {}
    for one in first_tokens:
        classes.setdefault(input_length(one.prompt_tokens), []).append(one)
    points = [_medians(classes[name]) for name in INPUT_LENGTHS if len(classes.get(name, ())) >= LEAST_ANSWERS]
    growths = [
        Growth(shorter, longer, shorter_s, longer_s)
        for (shorter, shorter_s), (longer, longer_s) in pairwise(points)
        if shorter > 0 and shorter_s > 0 and longer >= LEAST_LONGER * shorter
    ]
    return max(growths, key=lambda growth: growth.factor, default=None)


def _medians(answers: Sequence[FirstToken]) -> tuple[float, float]:
    return median(one.prompt_tokens for one in answers), median(one.took_s for one in answers)


def _tokens(figures: Sequence[EngineFigures]) -> float | None:
    rates = [one.generation_tokens_per_s for one in figures if one.generation_tokens_per_s is not None]
    return median(rates) if rates else None


def _in_progress(figures: Sequence[EngineFigures]) -> float | None:
    found = [one.in_progress for one in figures if one.in_progress is not None]
    return median(found) if found else None
