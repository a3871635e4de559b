"""The generator without a model: it quotes the sentences of the passages that are nearest to the question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from retrieval.documents import Usage
from retrieval.embedding.base import Embeddings, Kind
from retrieval.generation.base import Ending, Generator, Passage, Prompt, Stream
from retrieval.generation.citing import PARAGRAPH
from retrieval.generation.sentences import LONGEST_SENTENCE, split_sentences
from retrieval.generation.tokens import estimate_tokens

EmbedTexts = Callable[[Sequence[str], Kind], Embeddings]

MOST_QUOTES = 3
MOST_CANDIDATES = 64
_RANK_PENALTY = 0.02
_LOWEST_RANK = 5
_NEAR_THE_BEST = 0.7
_SAYS_THE_SAME = 0.92


@dataclass(frozen=True, slots=True)
class _Quote:
    """A sentence of a passage; `text` stands there verbatim."""

    passage: Passage
    start: int
    text: str

    def __str__(self) -> str:
        return f"{self.text} [{self.passage.number}]"


class ExtractiveGenerator(Generator):
    """Answers with up to three sentences, quoted verbatim, each a paragraph that ends in its `[n]`."""

    quotes: ClassVar[bool] = True

    def __init__(self, embed: EmbedTexts) -> None:
        """`embed(texts, kind)` gives float32 [len(texts), dimension], each row of length 1."""
        self.model = "extractive"
        self._embed = embed

    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        """Yield one quotation after the other, then an `Ending` with a `Usage` of zeros: no model was asked.

        `max_tokens` leaves out quotations beyond it, never the first.
        """
        before, tokens = "", 0
        for quote in self._choose(prompt):
            tokens += estimate_tokens(str(quote))
            if before and max_tokens is not None and tokens > max_tokens:
                break
            yield f"{before}{quote}"
            before = PARAGRAPH
        yield Ending(usage=Usage(), finish_reason="stop")

    def _choose(self, prompt: Prompt) -> list[_Quote]:
        quotes = _candidates(prompt.passages)
        # Somebody waits for these, so they go the way of queries: before ingest, and remembered.
        embeddings = self._embed([prompt.question, *(quote.text for quote in quotes)], "query")
        question, sentences = embeddings[0], embeddings[1:]
        ranks = np.array([min(quote.passage.number, _LOWEST_RANK) for quote in quotes])
        scores = sentences @ question - _RANK_PENALTY * ranks
        return _in_reading_order([quotes[index] for index in _best(scores, sentences)])


def _candidates(passages: Sequence[Passage]) -> list[_Quote]:
    """Return the sentences of all passages, each once; where there is none, whatever pieces there are."""
    pieces = [
        (_Quote(passage, sentence.start, passage.text[sentence.start : sentence.end]), sentence.prose)
        for passage in passages
        for sentence in split_sentences(passage.text)
    ]
    quotes = (
        [quote for quote, prose in pieces if prose]
        or [_clipped(quote) for quote, _ in pieces]
        or [_clipped(_first_line(passage)) for passage in passages]
    )
    distinct = {" ".join(quote.text.casefold().split()): quote for quote in reversed(quotes)}
    return list(reversed(distinct.values()))[:MOST_CANDIDATES]


def _first_line(passage: Passage) -> _Quote:
    line = passage.text.strip().splitlines()[0]
    return _Quote(passage, passage.text.find(line), line)


def _clipped(quote: _Quote) -> _Quote:
    if len(quote.text) <= LONGEST_SENTENCE:
        return quote
    beginning = quote.text[:LONGEST_SENTENCE]
    return _Quote(quote.passage, quote.start, beginning.rsplit(maxsplit=1)[0])


def _best(scores: NDArray[np.float32], sentences: Embeddings) -> list[int]:
    """Return the positions of the best scores, less those that are far off or repeat a better one."""
    order = [int(index) for index in np.argsort(-scores, kind="stable")]
    chosen: list[int] = []
    for index in order:
        far_off = bool(chosen) and scores[index] < _NEAR_THE_BEST * scores[order[0]]
        if far_off or len(chosen) == MOST_QUOTES:
            break
        if all(float(sentences[index] @ sentences[other]) < _SAYS_THE_SAME for other in chosen):
            chosen.append(index)
    return chosen


def _in_reading_order(quotes: list[_Quote]) -> list[_Quote]:
    """Sort by document, the one with the best passage first, and within it as the document goes."""
    first_number: dict[str, int] = {}
    for quote in sorted(quotes, key=lambda quote: quote.passage.number):
        first_number.setdefault(quote.passage.hit.document_id, quote.passage.number)
    return sorted(
        quotes,
        key=lambda quote: (first_number[quote.passage.hit.document_id], quote.passage.start + quote.start),
    )
