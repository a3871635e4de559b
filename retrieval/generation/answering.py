"""From a question and its hits to an answer: refuse, or prompt, generate and cite. One path, always a stream."""

import time
from collections import abc
from contextlib import closing
from typing import cast

from backends.errors import InvalidInput
from retrieval.config import Settings
from retrieval.context import CountTokens, build_prompt
from retrieval.documents import Answer, AnswerEvent, Event, Hit, HitsEvent, Retrieval, TextEvent, Usage
from retrieval.generation.base import Generator, Prompt
from retrieval.generation.citing import cite
from retrieval.generation.tokens import estimate_tokens

EventStream = abc.Generator[Event, None, None]

NOTHING_FOUND = "Nothing relevant to this question was found in the collection."


def answer_stream(
    query: str,
    retrieval: Retrieval,
    generator: Generator,
    settings: Settings,
    count_tokens: CountTokens = estimate_tokens,
    max_tokens: int | None = None,
) -> EventStream:
    """Answer `query` from what was retrieved for it: a HitsEvent, TextEvents, and an AnswerEvent at the end.

    Where no hit's score reaches `settings.refusal_score`, the answer says that nothing was found, has no
    citations, and the generator is not asked. Bad input raises here, before the first event: InvalidInput for
    "query" and "max_tokens". The iterator raises what the generator raises; closing it stops the generator.

    `timings_ms` are the retrieval's, and "prompt", "generate_first" (to the first piece) and "generate" (to the
    last) where a generator was asked.
    """
    if not query.strip():
        raise InvalidInput("query", "found no text; needed a question")
    if max_tokens is not None and max_tokens < 1:
        raise InvalidInput("max_tokens", f"found {max_tokens}; needed 1 or more")
    if not any(hit.score >= settings.refusal_score for hit in retrieval.hits):
        return _refusal(retrieval, generator)
    started = time.monotonic()
    prompt = build_prompt(query, retrieval.hits, context_tokens=settings.context_tokens, count_tokens=count_tokens)
    timings_ms = {**retrieval.timings_ms, "prompt": _ms_since(started)}
    return _generated(prompt, retrieval.hits, generator, max_tokens, timings_ms)


def answer(
    query: str,
    retrieval: Retrieval,
    generator: Generator,
    settings: Settings,
    count_tokens: CountTokens = estimate_tokens,
    max_tokens: int | None = None,
) -> Answer:
    """Return the whole answer of `answer_stream`."""
    *_, last = answer_stream(query, retrieval, generator, settings, count_tokens, max_tokens)
    return cast(AnswerEvent, last).answer


def _refusal(retrieval: Retrieval, generator: Generator) -> EventStream:
    yield HitsEvent(hits=retrieval.hits)
    yield TextEvent(text=NOTHING_FOUND)
    yield AnswerEvent(
        answer=Answer(
            text=NOTHING_FOUND,
            citations=[],
            hits=retrieval.hits,
            usage=Usage(),
            timings_ms=dict(retrieval.timings_ms),
            model=generator.model,
            refused=True,
        )
    )


def _generated(
    prompt: Prompt,
    hits: list[Hit],
    generator: Generator,
    max_tokens: int | None,
    timings_ms: dict[str, float],
) -> EventStream:
    yield HitsEvent(hits=hits)
    started = time.monotonic()
    pieces: list[str] = []
    usage = Usage()
    with closing(generator.stream(prompt, max_tokens)) as stream:
        for piece in stream:
            if isinstance(piece, Usage):
                usage = piece
                continue
            timings_ms.setdefault("generate_first", _ms_since(started))
            pieces.append(piece)
            yield TextEvent(text=piece)
    timings_ms["generate"] = _ms_since(started)
    text = "".join(pieces)
    citations = cite(text, prompt.passages, quotes=generator.quotes)
    yield AnswerEvent(
        answer=Answer(
            text=text,
            citations=citations,
            hits=hits,
            usage=usage,
            timings_ms=timings_ms,
            model=generator.model,
        )
    )


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
