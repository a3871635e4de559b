"""The prompt: which passages a generator is shown, within a budget of tokens."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backends.errors import InvalidInput, InvalidSettings
from retrieval.documents import Hit
from retrieval.generation.base import Message, Passage, Prompt
from retrieval.generation.budget import Budget, Measure, Settled, bound, scaled
from retrieval.generation.fencing import harmless, passage_text, passages_text
from retrieval.generation.history import Turn, newest, turns_of
from retrieval.generation.repeats import Shown
from retrieval.generation.sentences import split_sentences
from retrieval.generation.templates import DEFAULT_TEMPLATE, PromptTemplate

_ROUNDS = 3


def build_prompt(
    question: str,
    hits: Sequence[Hit],
    *,
    budget: Budget,
    history: Sequence[Message] = (),
    template: PromptTemplate = DEFAULT_TEMPLATE,
) -> Prompt:
    """Pack `hits`, best first, into a prompt that keeps to `budget`, and that the model's window holds.

    Passages are numbered from 1 and stand whole. What better ones say is left out; one that does not fit gives way to
    the next that does. Cut, at the end of a sentence, are only the best one, where it alone is too long, and the first
    that does not fit, where no later one does. Of `history`, the conversation before, the newest turns stay that fit
    their share.

    A marker that no author of a document can know stands around each passage, so that none can pretend to be the end
    of itself; control tokens of chat templates are broken up with a space in the messages, never in `Prompt.passages`.

    Raises InvalidInput for a question that leaves no room for a passage and for a `history` with other roles than user
    and assistant, and InvalidSettings where the budget does not even hold the instructions.
    """
    asked = _Asked(question, template, turns_of(history))
    measure = scaled(budget.calibration.ratio)
    for round_ in range(_ROUNDS + 1):
        if round_ == _ROUNDS:
            measure = bound(None)
        messages, passages = _packed(asked, hits, budget, measure)
        settled = budget.settle(messages)
        if isinstance(settled, Settled):
            return Prompt(
                question=question,
                passages=tuple(passages),
                messages=tuple(messages),
                tokens=settled.tokens,
                answer_tokens=settled.answer_tokens,
            )
        measure = settled
    raise InvalidSettings(
        "context_tokens", f"the model counts more tokens than bytes in a prompt of {budget.prompt_tokens}: lower it"
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a prompt says beside its passages."""

    question: str
    template: PromptTemplate
    turns: Sequence[Turn]

    def messages(self, passages: Sequence[Passage], history: Sequence[Message]) -> list[Message]:
        """Return the prompt's messages."""
        return self._around(passages_text(passages), history, self.question)

    def _around(self, passages: str, history: Sequence[Message], question: str) -> list[Message]:
        user = self.template.user_text(passages=passages, question=harmless(question))
        return [Message("system", self.template.system_text), *history, Message("user", user)]

    @property
    def instructions(self) -> list[Message]:
        """The messages without all that was asked."""
        return self._around(passages_text([]), [], "")


def _packed(
    asked: _Asked, hits: Sequence[Hit], budget: Budget, measure: Measure
) -> tuple[list[Message], list[Passage]]:
    """Return messages of at most `budget.prompt_tokens` as `measure` counts them, with the passages in them."""
    _check_instructions(asked, budget, measure)
    left = budget.prompt_tokens - measure.of(asked.messages([], []))
    # Of what is left, passages have at least half.
    history = newest(asked.turns, measure, min(budget.history_tokens, left // 2))
    passages = _chosen(hits, _Room(left - measure.added_by(history), measure))
    # Parts may count differently when they stand together, so the whole is counted too.
    while passages:
        messages = asked.messages(passages, history)
        if measure.of(messages) <= budget.prompt_tokens:
            return messages, passages
        passages.pop()
    if history:
        return _packed(replace(asked, turns=()), hits, budget, measure)
    raise InvalidInput(
        "query",
        f"{len(asked.question)} characters leave no room for a passage in a prompt of {budget.prompt_tokens} tokens; "
        "ask a shorter question, or raise context_tokens",
    )


def _check_instructions(asked: _Asked, budget: Budget, measure: Measure) -> None:
    instructions, found = measure.of(asked.instructions), budget.prompt_tokens
    if instructions < found:
        return
    if found < budget.context_tokens:
        raise InvalidSettings(
            "generator_model",
            f"found one whose window of {budget.window_tokens} tokens leaves {found} for the prompt; the instructions "
            f"alone take {instructions}: serve a model with a longer one, or ask for a shorter answer",
        )
    raise InvalidSettings("context_tokens", f"found {found}; the instructions alone take {instructions}: raise it")


def _chosen(hits: Sequence[Hit], room: "_Room") -> list[Passage]:
    """Return the passages to show, best first."""
    shown = Shown()
    edge: Passage | None = None  # the first that does not fit
    gave_way = False
    for hit in hits:
        passage = shown.unseen(hit)
        if passage is None:
            continue
        cost = room.cost(passage)
        if cost <= room.left:
            if shown.add(passage):
                room.left -= cost
                gave_way = edge is not None
        elif not shown.passages and (cut := room.cut(passage, anywhere=True)):
            shown.add(cut)
            room.left -= room.cost(cut)
        else:
            edge = edge or passage
    if edge and not gave_way and (cut := room.cut(edge)):
        shown.add(cut)
    return shown.passages


@dataclass(slots=True)
class _Room:
    """The tokens that are left for passages."""

    left: int
    measure: Measure

    def cost(self, passage: Passage) -> int:
        """Return what the passage would take of it."""
        return self.measure.of_text(passage_text(passage))

    def cut(self, passage: Passage, *, anywhere: bool = False) -> Passage | None:
        """Return the longest beginning that fits: at the end of a sentence, or else of a word, or of a character."""
        cut = self._longest(passage, [sentence.end for sentence in split_sentences(passage.text)])
        if anywhere and cut is None:
            cut = self._longest(passage, [word.end() for word in re.finditer(r"\S+", passage.text)])
            cut = cut or self._longest(passage, range(1, len(passage.text) + 1))
        return cut

    def _longest(self, passage: Passage, ends: Sequence[int]) -> Passage | None:
        fitting = bisect_right(ends, self.left, key=lambda end: self.cost(_first(passage, end)))
        return _first(passage, ends[fitting - 1]) if fitting else None


def _first(passage: Passage, characters: int) -> Passage:
    return replace(passage, text=passage.text[:characters], end=passage.start + characters)
