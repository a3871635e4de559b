"""Who waits for an answer: a thread, or a task on an event loop. The same steps, once in each colour."""

import time
from collections import abc
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Protocol, cast

import anyio
from anyio.to_thread import run_sync

from retrieval.documents import Answer, AnswerEvent, Event
from retrieval.generation.admission import Admission
from retrieval.generation.answering import Answering

EventStream = abc.Generator[Event, None, None]
AsyncEventStream = abc.AsyncGenerator[Event, None]


class Asking(Protocol):
    """A question that was checked, and whose answer has not begun."""

    def begin(self) -> Answering:
        """Find its passages and build its prompt, once it has its turn; may block."""
        ...

    def end(self, answering: Answering | None, error: BaseException | None) -> AnswerEvent | None:
        """Hear how it went, once: before the last event, which this returns, or with what ended it early. May block.

        `answering` is None where it did not come to begin.
        """
        ...


@dataclass(frozen=True, slots=True)
class AnswerRun:
    """An answer that can be asked for. It runs once, in a thread or on an event loop."""

    asking: Asking
    admission: Admission

    def events(self) -> EventStream:
        """Yield a HitsEvent, TextEvents, and an AnswerEvent at the end.

        Raises before the first event where too many answers are under way (Busy), and for whatever is wrong with the
        question; after it, what the generator raises. Closing it stops the generator.
        """
        answering: Answering | None = None
        told = False
        queued_s = time.perf_counter()
        try:
            with self.admission.enter():
                waited_s = time.perf_counter() - queued_s
                answering = self.asking.begin()
                yield answering.hits
                if answering.prompt is None:
                    yield answering.refuse()
                else:
                    with closing(answering.generator.stream(answering.prompt, answering.ask(waited_s))) as pieces:
                        for piece in pieces:
                            if (text := answering.take(piece)) is not None:
                                yield text
            told = True
            yield cast(AnswerEvent, self.asking.end(answering, None))
        except BaseException as error:
            if not told:
                self.asking.end(answering, error)
            raise

    async def aevents(self) -> AsyncEventStream:
        """Yield what `events` yields, without a thread that waits; cancelling the task stops the generator at once."""
        answering: Answering | None = None
        told = False
        queued_s = time.perf_counter()
        try:
            async with self.admission.aenter():
                waited_s = time.perf_counter() - queued_s
                answering = await run_sync(self.asking.begin)
                yield answering.hits
                if answering.prompt is None:
                    yield answering.refuse()
                else:
                    asked = answering.generator.astream(answering.prompt, answering.ask(waited_s))
                    async with aclosing(asked) as pieces:
                        async for piece in pieces:
                            if (text := answering.take(piece)) is not None:
                                yield text
            told = True
            yield cast(AnswerEvent, await run_sync(self.asking.end, answering, None))
        except BaseException as error:
            if not told:
                with anyio.CancelScope(shield=True):
                    await run_sync(self.asking.end, answering, error)
            raise

    def answer(self) -> Answer:
        """Return the whole answer."""
        *_, last = self.events()
        return cast(AnswerEvent, last).answer

    async def aanswer(self) -> Answer:
        """Return the whole answer; cancelling the task stops the generator."""
        async with aclosing(self.aevents()) as running:
            *_, last = [event async for event in running]
        return cast(AnswerEvent, last).answer
