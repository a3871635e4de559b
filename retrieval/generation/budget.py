"""How many tokens a prompt may take, and how that is made sure with a tokenizer that is not ours.

Tokens are estimated, since asking the model server costs milliseconds before the first word. Where the estimate leaves
no doubt, that is all. Else the server counts, once as a rule; what it counts teaches later estimates.
"""

import math
import statistics
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from retrieval.config import Settings
from retrieval.generation.base import Generator, Message
from retrieval.generation.tokens import estimate_tokens, most_tokens

MESSAGE_TOKENS = 8
"""Tokens that a chat template adds to each message, as a rule."""

_MOST_MESSAGE_TOKENS = 32
_MOST_TEMPLATE_TOKENS = 256
"""What a template may add of its own, for example today's date; what it repeats of the messages is theirs."""
_MARGIN = 2.5
"""Random letters, as in keys and hashes, take up to that many times the tokens of prose."""
_REMEMBERED = 64
_NOISE = 1.05

Count = Callable[[Sequence[Message]], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A way to count the tokens of messages from their texts alone."""

    of_text: Callable[[str], int]
    per_message: int
    fixed: int = 0

    def of(self, messages: Sequence[Message]) -> int:
        """Return what the messages of a prompt take, the chat template's own tokens included."""
        return self.fixed + self.added_by(messages)

    def added_by(self, messages: Sequence[Message]) -> int:
        """Return what these messages add to a prompt."""
        return sum(self.of_text(message.content) + self.per_message for message in messages)


ESTIMATE = Measure(of_text=estimate_tokens, per_message=MESSAGE_TOKENS)


def scaled(ratio: float) -> Measure:
    """Return the estimate, times what the model's tokenizer needs of it."""
    return Measure(
        of_text=lambda text: math.ceil(estimate_tokens(text) * ratio), per_message=math.ceil(MESSAGE_TOKENS * ratio)
    )


def bound(word_piece_tokens: float | None) -> Measure:
    """Return a count that is never too low: see `most_tokens`."""
    return Measure(
        of_text=lambda text: most_tokens(text, word_piece_tokens),
        per_message=_MOST_MESSAGE_TOKENS,
        fixed=_MOST_TEMPLATE_TOKENS,
    )


class Calibration:
    """What a model's tokenizer needed lately for one estimated token. Safe from any thread."""

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    @property
    def ratio(self) -> float:
        """As a rule: the median. At least 1, so that common tokenizers get the same prompt for the same passages."""
        with self._lock:
            return max(1.0, statistics.median(self._ratios)) if self._ratios else 1.0

    @property
    def word_piece_tokens(self) -> float | None:
        """At most, for words: the highest and a margin. None where nothing was counted yet."""
        with self._lock:
            return max(1.0, *self._ratios) * _MARGIN if self._ratios else None

    def learn(self, estimated: int, counted: int) -> None:
        """Take in what the model counted where `ESTIMATE` said `estimated`; 0 is no count."""
        if estimated > 0 and counted > 0:
            with self._lock:
                self._ratios.append(counted / estimated)


def _uncounted(_: Sequence[Message]) -> int | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Messages that fit: the tokens they were counted to take, and those that are left for the answer."""

    tokens: int
    answer_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Tokens for one prompt. `window_tokens` is what the model takes with the answer; None where nobody says.

    `answer_tokens` are kept free for the answer; `wanted_tokens` is how long it may get, where that was asked.
    """

    context_tokens: int
    history_share: float = 0.25
    window_tokens: int | None = None
    answer_tokens: int = 0
    wanted_tokens: int = 0
    count: Count = _uncounted
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def prompt_tokens(self) -> int:
        """The most that the prompt may take."""
        if self.window_tokens is None:
            return self.context_tokens
        return min(self.context_tokens, self.window_tokens - self.answer_tokens)

    @property
    def history_tokens(self) -> int:
        """The most that the conversation before the question may take of it."""
        return int(self.prompt_tokens * self.history_share)

    def settle(self, messages: Sequence[Message]) -> "Settled | Measure":
        """Return that the messages fit the window, or a more careful measure to pack others by.

        Asks the model server where the texts alone leave it in doubt.
        """
        tokens = scaled(self.calibration.ratio).of(messages)
        if self.window_tokens is None:
            return Settled(tokens=tokens, answer_tokens=None)
        careful = bound(self.calibration.word_piece_tokens)
        most = careful.of(messages)
        if most + max(self.answer_tokens, self.wanted_tokens) <= self.window_tokens:
            return Settled(tokens=tokens, answer_tokens=self.window_tokens - most)
        counted = self.count(messages)
        if counted is None:
            left = self.window_tokens - most
            return Settled(tokens=tokens, answer_tokens=left) if left >= self.answer_tokens else careful
        estimated = ESTIMATE.of(messages)
        self.calibration.learn(estimated, counted)
        if counted + self.answer_tokens <= self.window_tokens:
            return Settled(tokens=counted, answer_tokens=self.window_tokens - counted)
        return scaled(counted / estimated * _NOISE)


def budget_for(settings: Settings, generator: Generator, max_tokens: int | None) -> Budget:
    """Return what a prompt may take: `context_tokens`, or less where the model's window is shorter.

    Of the window, `max_tokens` (else the setting `answer_tokens`) stays free for the answer, never more than half.
    """
    window = generator.window_tokens()
    wanted = settings.answer_tokens if max_tokens is None else max_tokens
    return Budget(
        context_tokens=settings.context_tokens,
        history_share=settings.history_share,
        window_tokens=window,
        answer_tokens=0 if window is None else min(wanted, window // 2),
        wanted_tokens=max_tokens or 0,
        count=generator.count_tokens,
        calibration=_calibration_of(generator),
    )


_calibrations: WeakKeyDictionary[Generator, Calibration] = WeakKeyDictionary()
_calibrating = threading.Lock()


def _calibration_of(generator: Generator) -> Calibration:
    with _calibrating:
        return _calibrations.setdefault(generator, Calibration())
