"""An answer under way: from a question and its hits to cited text. What happens is here; who waits is in `driving`."""

import time
from dataclasses import dataclass, field

from retrieval.attribution import Tags
from retrieval.costing import NO_COST, Cost, Prices
from retrieval.documents import Answer, AnswerEvent, HitsEvent, Retrieval, TextEvent, Usage
from retrieval.generation.base import Ending, Generator, Prompt
from retrieval.generation.budget import ESTIMATE, Calibration
from retrieval.generation.citing import cite
from retrieval.generation.tokens import estimate_tokens

NOTHING_FOUND = "Nothing relevant to this question was found in the collection."


@dataclass(slots=True, kw_only=True)
class Clock:
    """When the question came, the model was asked, and pieces arrived: seconds on `time.perf_counter`."""

    came_s: float
    asked_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    longest_gap_s: float = 0.0

    def piece(self) -> None:
        """A piece has come."""
        now_s = time.perf_counter()
        if self.last_s is None:
            self.first_s = now_s
        else:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_s)
        self.last_s = now_s

    def since_asked_s(self, then_s: float | None) -> float | None:
        """Return how long after the model was asked that was; None where it did not come to that."""
        return None if then_s is None or self.asked_s is None else then_s - self.asked_s


@dataclass(slots=True, kw_only=True)
class Answering:
    """One answer, fed with what a generator says. It asks nobody anything, and is one caller's at a time.

    `prompt` is None where the question is refused, since no hit is near enough: then the generator is not asked.
    """

    retrieval: Retrieval
    generator: Generator
    prompt: Prompt | None
    max_tokens: int
    prices: Prices
    tags: Tags
    clock: Clock
    timings_ms: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    streamed: bool = False
    calibration: Calibration | None = None
    left: bool = False
    """Whether its reader went away before its end."""
    _pieces: list[str] = field(default_factory=list)
    _ending: Ending | None = None

    @property
    def hits(self) -> HitsEvent:
        """The first event."""
        return HitsEvent(hits=self.retrieval.hits)

    @property
    def usage(self) -> Usage:
        """What the model server counted; of an answer that broke off, what was sent and what has come.

        Nothing of one that failed before its first piece: that is not its reader's fault.
        """
        if self._ending is not None:
            return self._ending.usage
        begun = self._pieces or (self.left and self.clock.asked_s is not None)
        if self.prompt is None or not begun or self.generator.quotes:
            return Usage()
        # A piece is one token, or several that came together.
        written = max(len(self._pieces), estimate_tokens("".join(self._pieces)))
        return Usage(prompt_tokens=self.prompt.tokens, completion_tokens=written)

    @property
    def finish_reason(self) -> str | None:
        return None if self._ending is None else self._ending.finish_reason

    @property
    def cost(self) -> Cost:
        """What the model took of it, by the prices that are set."""
        if self.clock.asked_s is None:
            return NO_COST
        return self.prices.of_generation(self.generator.model, self.usage)

    @property
    def most_tokens(self) -> int:
        """The most that the answer may take: `max_tokens`, or less where the model's window has less left."""
        left = None if self.prompt is None else self.prompt.answer_tokens
        return self.max_tokens if left is None else min(self.max_tokens, left)

    def ask(self, waited_s: float) -> int:
        """The generator is being asked now, after waiting for its turn; return how many tokens to ask for."""
        self.clock.asked_s = time.perf_counter()
        self.timings_ms["generate_queue"] = _ms(waited_s)
        return self.most_tokens

    def take(self, said: str | Ending) -> TextEvent | None:
        """Take in what the generator said; return the event that it makes, if it makes one."""
        if isinstance(said, Ending):
            self._ending = said
            self._learn(said.usage)
            self.timings_ms["generate"] = _ms(self.clock.since_asked_s(time.perf_counter()))
            return None
        self.clock.piece()
        if not self._pieces:
            self.timings_ms["generate_first"] = _ms(self.clock.since_asked_s(self.clock.first_s))
        self._pieces.append(said)
        return TextEvent(text=said)

    def _learn(self, usage: Usage) -> None:
        if self.prompt is not None and self.calibration is not None:
            self.calibration.learn(ESTIMATE.of(self.prompt.messages), usage.prompt_tokens)

    def refuse(self) -> TextEvent:
        """Answer that nothing was found."""
        self._pieces = [NOTHING_FOUND]
        return TextEvent(text=NOTHING_FOUND)

    def end(self) -> AnswerEvent:
        """Return the last event: the whole answer."""
        text = "".join(self._pieces)
        refused = self.prompt is None
        citations = [] if self.prompt is None else cite(text, self.prompt.passages, quotes=self.generator.quotes)
        return AnswerEvent(
            answer=Answer(
                text=text,
                citations=citations,
                hits=self.retrieval.hits,
                usage=self.usage,
                timings_ms=dict(self.timings_ms),
                model=self.generator.model,
                refused=refused,
                finish_reason="stop" if refused else self.finish_reason,
                cost=self.retrieval.cost + self.cost,
                warnings=[*self.retrieval.warnings, *self.warnings],
            )
        )


def _ms(took_s: float | None) -> float:
    return round((took_s or 0.0) * 1000, 3)
