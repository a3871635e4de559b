"""A prompt that the model's window holds, with a tokenizer that is not ours."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import InvalidInput, InvalidSettings
from retrieval.config import load
from retrieval.context import build_prompt
from retrieval.generation.base import Generator, Message, Prompt, Stream
from retrieval.generation.budget import ESTIMATE, budget_for
from retrieval.generation.tokens import estimate_tokens, most_tokens
from tests.unit.test_context import hit

Tokenizer = Callable[[str], int]

SETTINGS = load(context_tokens=3_000)
TEMPLATE_TOKENS = 40


class Windowed(Generator):
    """A model with a window and a tokenizer of its own, which refuses what a server would refuse."""

    def __init__(self, tokenizer: Tokenizer, window_tokens: int | None, *, counts: bool = True) -> None:
        self.model = "windowed"
        self.tokenizer, self.window, self.counts = tokenizer, window_tokens, counts
        self.counted = 0

    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        raise NotImplementedError

    def window_tokens(self) -> int | None:
        return self.window

    def count_tokens(self, messages: Sequence[Message]) -> int | None:
        self.counted += 1
        return self.truth(messages) if self.counts else None

    def answered(self, prompt: Prompt) -> None:
        """Learn from an answer's usage, as whoever asked does."""
        calibration = budget_for(SETTINGS, self, None).calibration
        calibration.learn(ESTIMATE.of(prompt.messages), self.truth(prompt.messages))

    def truth(self, messages: Sequence[Message]) -> int:
        """What a server would count: the texts, four tokens around each, and what the template adds."""
        return TEMPLATE_TOKENS + sum(self.tokenizer(message.content) + 4 for message in messages)


def of_bytes(text: str) -> int:
    return len(text.encode())


def like_most(text: str) -> int:
    return math.ceil(estimate_tokens(text) * 0.75)


def hungry(text: str) -> int:
    """Two and a half times the estimate, though never more than bytes, as every tokenizer."""
    return min(math.ceil(estimate_tokens(text) * 2.5), of_bytes(text))


PROSE = " ".join(f"Whoever asks for leave in week {number} is told at once whether it suits." for number in range(9))


def passages(count: int = 40) -> list[str]:
    return [f"{PROSE} The number of this passage is {number}." for number in range(count)]


def built(generator: Windowed, texts: Sequence[str], max_tokens: int | None = None) -> Prompt:
    budget = budget_for(SETTINGS, generator, max_tokens)
    return build_prompt("Who is told?", [hit(text, id=str(n)) for n, text in enumerate(texts)], budget=budget)


WORDS = st.text(st.sampled_from("ab cd\n19.,\u00e9\u0436\u4f60\U0001f600"), min_size=1, max_size=400)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(WORDS.map(lambda text: f"x{text}"), min_size=1, max_size=8),
    tokenizer=st.sampled_from([of_bytes, like_most, hungry]),
    window_tokens=st.integers(700, 9_000),
    max_tokens=st.none() | st.integers(1, 9_000),
    counts=st.booleans(),
    again=st.integers(1, 3),
)
def test_prompt_and_answer_always_fit_the_window(
    texts: list[str], tokenizer: Tokenizer, window_tokens: int, max_tokens: int | None, counts: bool, again: int
) -> None:
    """Whatever the tokenizer and the texts, also for the answers that follow one that was learned from."""
    generator = Windowed(tokenizer, window_tokens, counts=counts)
    for _ in range(again):
        try:
            prompt = built(generator, texts, max_tokens)
        except (InvalidInput, InvalidSettings):
            assert window_tokens < 6_000  # the instructions leave no room
            return
        truth = generator.truth(prompt.messages)
        assert prompt.answer_tokens is not None
        assert truth + prompt.answer_tokens <= window_tokens
        assert prompt.answer_tokens >= min(max_tokens or 512, window_tokens // 2)
        generator.answered(prompt)


def test_a_window_that_is_far_off_is_not_asked_about() -> None:
    """As many tokens as bytes would fit: no request is made."""
    generator = Windowed(like_most, 131_072)
    assert len(built(generator, passages()).passages) > 5
    assert generator.counted == 0


def test_the_first_answer_near_the_window_asks_once_and_the_next_not_at_all() -> None:
    """What was counted says how far the estimate can be trusted."""
    generator = Windowed(like_most, 8_192)
    first = built(generator, passages())
    assert (generator.counted, first.tokens) == (1, generator.truth(first.messages))
    second = built(generator, passages())
    assert generator.counted == 1
    assert second.messages == first.messages
    assert second.answer_tokens is not None
    assert second.answer_tokens >= 512


def test_an_answer_that_may_be_long_is_not_cut_by_a_guess() -> None:
    """Where the guess would take tokens of those that were asked for, the prompt is counted."""
    generator = Windowed(like_most, 16_384)
    prompt = built(generator, passages(), max_tokens=12_500)
    assert generator.counted == 1
    assert prompt.answer_tokens == 16_384 - generator.truth(prompt.messages) >= 12_500


@pytest.mark.parametrize("tokenizer", [hungry, of_bytes])
def test_a_hungry_tokenizer_is_counted_and_packed_again(tokenizer: Tokenizer) -> None:
    """The second prompt fits, and still uses most of the window."""
    generator = Windowed(tokenizer, 4_000)
    prompt = built(generator, passages())
    assert generator.counted <= 3
    assert 2_500 <= generator.truth(prompt.messages) <= 4_000 - 512
    assert prompt.tokens == pytest.approx(generator.truth(prompt.messages), rel=0.05)


def test_a_server_that_cannot_count_teaches_by_its_answers() -> None:
    """At first a prompt is short enough for any tokenizer; then usage says that more fits."""
    generator = Windowed(like_most, 4_000, counts=False)
    first = built(generator, passages())
    generator.answered(first)
    second = built(generator, passages())
    assert len(second.passages) > len(first.passages) >= 1


def test_no_window_is_no_bound() -> None:
    """A server that does not say how long its window is gets what the settings allow."""
    prompt = built(Windowed(like_most, None), passages())
    assert prompt.answer_tokens is None
    assert 2_500 < prompt.tokens == ESTIMATE.of(prompt.messages) <= 3_000


def test_a_window_that_is_too_short_says_so() -> None:
    """The error names the model, since no other question would fit either."""
    with pytest.raises(InvalidSettings, match="window of 200 tokens leaves 100") as caught:
        built(Windowed(like_most, 200), passages())
    assert caught.value.field == "generator_model"


def test_settings_without_room_for_an_answer_leave_half_the_window() -> None:
    """An answer as long as the window is asked for: the prompt has the other half."""
    prompt = built(Windowed(of_bytes, 6_000), passages(), max_tokens=6_000)
    assert 2_000 < prompt.tokens <= 3_000


@settings(deadline=None)
@given(text=WORDS, word_piece_tokens=st.none() | st.floats(1, 5))
def test_no_text_takes_more_tokens_than_bytes(text: str, word_piece_tokens: float | None) -> None:
    """The bound is never above the bytes, and never below what it was told of words."""
    most = most_tokens(text, word_piece_tokens)
    assert most <= of_bytes(text)
    assert word_piece_tokens is not None or most == of_bytes(text)
    assert word_piece_tokens is None or most >= min(estimate_tokens(text), of_bytes(text)) - text.count(" ")


def test_texts_unlike_those_learned_from_fit_too() -> None:
    """After a hundred prompts of prose, one of random letters, each pair of which takes a token."""

    def pairs(text: str) -> int:
        return like_most(text) if " " in text[:40] and "qz" not in text else math.ceil(len(text) / 2)

    generator = Windowed(pairs, 8_192)
    for _ in range(100):
        generator.answered(built(generator, passages()))
    keys = [f"qz{number}{'QzXwVkJp' * 120}" for number in range(20)]
    prompt = built(generator, keys)
    assert prompt.answer_tokens is not None
    assert generator.truth(prompt.messages) + prompt.answer_tokens <= 8_192
