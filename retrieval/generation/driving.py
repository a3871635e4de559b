"""Who waits for an answer: a thread, or a task on an event loop. The same steps, once in each colour."""

from collections import abc
from collections.abc import Callable
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import cast

import anyio
from anyio.to_thread import run_sync

from retrieval.documents import Answer, AnswerEvent, Event
from retrieval.generation.admission import Admission
from retrieval.generation.answering import Answering, bounded

EventStream = abc.Generator[Event, None, None]
AsyncEventStream = abc.AsyncGenerator[Event, None]

Tell = Callable[[Answering, BaseException | None], None]
"""Told once of each answer that was begun: before its last event, or with what ended it early."""


def events(answering: Answering, admission: Admission, tell: Tell) -> EventStream:
    """Yield a HitsEvent, TextEvents, and an AnswerEvent at the end.

    Raises Busy before the first event where too many answers are under way, and what the generator raises. Closing
    it stops the generator.
    """
    told = False
    answering.queue()
    try:
        with admission.enter():
            yield answering.hits
            if answering.prompt is None:
                yield answering.refuse()
            else:
                answering.ask()
                max_tokens = bounded(answering.max_tokens, answering.prompt)
                with closing(answering.generator.stream(answering.prompt, max_tokens)) as pieces:
                    for piece in pieces:
                        if (text := answering.take(piece)) is not None:
                            yield text
        last = answering.end()
        told = True
        tell(answering, None)
        yield last
    except BaseException as error:
        if not told:
            tell(answering, error)
        raise


async def aevents(answering: Answering, admission: Admission, tell: Tell) -> AsyncEventStream:
    """Yield what `events` yields, without a thread that waits; cancelling the task stops the generator at once."""
    told = False
    answering.queue()
    try:
        async with admission.aenter():
            yield answering.hits
            if answering.prompt is None:
                yield answering.refuse()
            else:
                answering.ask()
                max_tokens = bounded(answering.max_tokens, answering.prompt)
                async with aclosing(answering.generator.astream(answering.prompt, max_tokens)) as pieces:
                    async for piece in pieces:
                        if (text := answering.take(piece)) is not None:
                            yield text
        last = answering.end()
        told = True
        await run_sync(tell, answering, None)
        yield last
    except BaseException as error:
        if not told:
            with anyio.CancelScope(shield=True):
                await run_sync(tell, answering, error)
        raise


@dataclass(frozen=True, slots=True)
class AnswerRun:
    """An answer that is ready to be asked for: its passages are found, its prompt is built. It runs once."""

    answering: Answering
    admission: Admission
    tell: Tell

    def events(self) -> EventStream:
        """Return the answer as it comes, for a thread."""
        return events(self.answering, self.admission, self.tell)

    def aevents(self) -> AsyncEventStream:
        """Return the answer as it comes, for an event loop."""
        return aevents(self.answering, self.admission, self.tell)

    def answer(self) -> Answer:
        """Return the whole answer."""
        *_, last = self.events()
        return cast(AnswerEvent, last).answer

    async def aanswer(self) -> Answer:
        """Return the whole answer; cancelling the task stops the generator."""
        async with aclosing(self.aevents()) as running:
            *_, last = [event async for event in running]
        return cast(AnswerEvent, last).answer
