"""A question to a collection, from its checks to what observers are told of its answer."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from retrieval.documents import AnswerEvent
from retrieval.generation.answering import Answering
from retrieval.generation.base import Message
from retrieval.generation.preparing import prepare
from retrieval.generation.templates import template_of
from retrieval.searching import Searched, Searches
from retrieval.telling import Asked, observed_answer

if TYPE_CHECKING:
    from retrieval.library import Ragstone


class Question:
    """A question that was checked: what `generation.driving` begins and ends."""

    def __init__(
        self,
        rag: "Ragstone",
        searches: Searches,
        query: str,
        asked: Asked,
        *,
        max_tokens: int | None,
        history: Sequence[Message],
        streamed: bool,
    ) -> None:
        self._rag = rag
        self._searches = searches
        self._query = query
        self._asked = asked
        self._max_tokens = max_tokens
        self._history = history
        self._streamed = streamed
        self._searched: Searched | None = None

    def begin(self) -> Answering:
        """Find the passages and build the prompt.

        Raises GeneratorUnavailable where the model server is left alone, BudgetExceeded, and InvalidInput for a
        question that leaves no room for a passage; a request that ends here counts in no budget of requests.
        """
        self._rag.generator.check()
        with self._rag.counted("generate") as warnings:
            asked = replace(self._asked, started_s=time.perf_counter())
            self._searched = self._searches.retrieve(self._query, asked, warnings)
            collection = self._searches.latest
            return prepare(
                self._query,
                self._searched.retrieval,
                generator=self._rag.generator,
                settings=self._rag.settings,
                metric=collection.spec.metric,
                template=template_of(collection),
                prices=self._rag.prices,
                purse=self._rag.purse,
                max_tokens=self._max_tokens,
                history=self._history,
                came_s=self._asked.started_s,
                streamed=self._streamed,
            )

    def end(self, answering: Answering | None, error: BaseException | None) -> AnswerEvent | None:
        """Tell the observers, and return the last event where there was no error."""
        last = answering.end() if answering is not None and error is None else None
        if self._rag.observers:
            search = None if self._searched is None else self._searched.observed
            model = self._rag.generator.model
            observed = observed_answer(self._searches.latest, model, self._asked, search, answering, error)
            self._rag.observers.tell(observed)
        return last
