"""The dynamic batcher: every caller's texts, one model, shared forward passes."""

import atexit
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Lock, Thread, current_thread
from time import perf_counter

import numpy as np

from backends.errors import EmbedderUnavailable, QueueFull
from retrieval.embedding.base import Embedder, EmbedderStamp, Embeddings, Kind, TokenSpans
from retrieval.embedding.cache import QueryCache
from retrieval.embedding.pace import Pace
from retrieval.embedding.waiting import Request, WaitingText, WaitingTexts, padded_tokens

SLICE_TEXTS = 256
"""Texts that one caller hands over at a time; the next slice is tokenized while this one is embedded."""

CLOSE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherStats:
    """What the batcher has done since it was opened, and what waits now.

    `texts` and `tokens` went through the model, in `passes` forward passes that took `busy_s` together.
    `splits` counts batches that did not fit into memory, `refused` the calls that got QueueFull.
    """

    passes: int
    texts: int
    tokens: int
    busy_s: float
    splits: int
    refused: int
    waiting_queries: int
    waiting_passages: int
    cache_hits: int
    cache_misses: int


class Batcher:
    """Embeds for any number of threads with one model, which one thread of its own runs.

    Whatever came while a forward pass ran forms the next one: queries first, then passages, cut so that the
    padded tokens of a pass stay within `batch_tokens`, and within what the model was seen to do in a tenth of a
    second. There is no waiting for company: a text that finds the model idle runs at once.

    At most `queue_texts` queries may wait; the caller that comes then gets QueueFull. As many passages may wait;
    callers with more of them wait for room, so that ingest is slowed and not refused. `cache_queries` query
    embeddings are kept (0 for none), and a query that is waiting already is not embedded twice.

    The batcher owns the embedder, and closes it.
    """

    def __init__(self, embedder: Embedder, *, batch_tokens: int, queue_texts: int, cache_queries: int) -> None:
        self.stamp: EmbedderStamp = embedder.stamp
        self.max_tokens: int = embedder.max_tokens
        self._embedder = embedder
        self._queue_texts = queue_texts
        self._slice_texts = min(SLICE_TEXTS, queue_texts)
        self._cache = QueryCache(cache_queries)
        self._pace = Pace(batch_tokens)
        self._waiting = WaitingTexts()
        self._unanswered: dict[str, WaitingText] = {}  # queries, by text
        self._passes = self._texts = self._tokens = self._splits = self._refused = 0
        self._busy_s = 0.0
        self._closed = False
        lock = Lock()
        self._work = Condition(lock)
        self._room = Condition(lock)
        self._worker = Thread(target=self._run_passes, name="embedding", daemon=True)
        self._worker.start()
        atexit.register(self.close)

    def embed(self, texts: Sequence[str], kind: Kind) -> Embeddings:
        """Embed texts in their order; blocks until all are done. Returns a new float32 [len(texts), dimension].

        Raises QueueFull where too many queries wait already (a call that was let in may bring more than the queue
        holds: it feeds them slice by slice), EmbedderUnavailable when the batcher is closed, and whatever the
        model raised for a forward pass with one of these texts in it.
        """
        return self.embed_timed(texts, kind)[0]

    def embed_timed(self, texts: Sequence[str], kind: Kind) -> tuple[Embeddings, float]:
        """Embed as `embed` does, and say how many seconds the text that waited longest waited for its forward pass."""
        embeddings = np.empty((len(texts), self.stamp.dimension), np.float32)
        rows = self._rows_not_cached(texts, kind, embeddings)
        caller = object()
        under_way: deque[Request] = deque()
        waited_s = 0.0
        try:
            for start in range(0, len(rows), self._slice_texts):
                part = rows[start : start + self._slice_texts]
                prepared = self._embedder.prepare([texts[row] for row in part], kind)
                request = Request(embeddings, len(part))
                waiting = [
                    WaitingText(texts[row], kind, ready, request, row)
                    for row, ready in zip(part, prepared, strict=True)
                ]
                self._hand_over(waiting, kind, caller, may_refuse=start == 0)
                under_way.append(request)
                if len(under_way) > 1:
                    waited_s = max(waited_s, under_way.popleft().wait())
            while under_way:
                waited_s = max(waited_s, under_way.popleft().wait())
        finally:
            for request in under_way:
                request.abandon()
        return embeddings, waited_s

    def token_spans(self, text: str) -> TokenSpans:
        """Return where each token of `text` stands: int64 [tokens, 2], start and end in characters."""
        return self._embedder.token_spans(text)

    def stats(self) -> BatcherStats:
        """Return counts for metrics."""
        with self._work:
            return BatcherStats(
                passes=self._passes,
                texts=self._texts,
                tokens=self._tokens,
                busy_s=self._busy_s,
                splits=self._splits,
                refused=self._refused,
                waiting_queries=self._waiting.count("query"),
                waiting_passages=self._waiting.count("passage"),
                cache_hits=self._cache.hits,
                cache_misses=self._cache.misses,
            )

    def close(self) -> None:
        """End: the running pass is finished, callers that still wait get EmbedderUnavailable."""
        with self._work:
            if self._closed:
                return
            self._closed = True
            self._work.notify()
            self._room.notify_all()
        atexit.unregister(self.close)
        if current_thread() is not self._worker:
            self._worker.join(CLOSE_TIMEOUT_S)
        self._embedder.close()

    def _rows_not_cached(self, texts: Sequence[str], kind: Kind, embeddings: Embeddings) -> Sequence[int]:
        """Fill the rows of queries that the cache knows; return the others."""
        if kind != "query":
            return range(len(texts))
        rows = []
        for row, text in enumerate(texts):
            cached = self._cache.get(text)
            if cached is None:
                rows.append(row)
            else:
                embeddings[row] = cached
        return rows

    def _hand_over(self, texts: list[WaitingText], kind: Kind, caller: object, may_refuse: bool) -> None:
        """Put texts where the worker finds them, when there is room for them."""
        with self._room:
            self._check_open()
            if kind == "query" and may_refuse and not self._has_room(len(texts), kind):
                self._refused += 1
                raise QueueFull(
                    f"{self._waiting.count(kind)} queries wait for the embedding model, and the queue holds "
                    f"{self._queue_texts}: try again a little later",
                    self._pace.retry_after_s(self._waiting.tokens(kind)),
                )
            while not self._has_room(len(texts), kind):
                self._room.wait()
                self._check_open()
            self._waiting.add(self._join_unanswered(texts) if kind == "query" else texts, kind, caller)
            self._work.notify()

    def _has_room(self, texts: int, kind: Kind) -> bool:
        return self._waiting.count(kind) + texts <= self._queue_texts

    def _join_unanswered(self, queries: list[WaitingText]) -> list[WaitingText]:
        """Let queries that are on their way already be answered by those; return the new ones."""
        new = []
        for query in queries:
            same = self._unanswered.get(query.text)
            if same is None:
                self._unanswered[query.text] = query
                new.append(query)
            else:
                same.wanted_by += query.wanted_by
        return new

    def _check_open(self) -> None:
        if self._closed:
            raise EmbedderUnavailable("the embedder is closed")

    def _run_passes(self) -> None:
        """Run pass after pass until closed: the worker's life."""
        while batch := self._next_batch():
            self._run(batch)

    def _next_batch(self) -> list[WaitingText]:
        """Wait for texts and cut a batch of them; empty when the batcher is closed."""
        with self._work:
            while not self._closed:
                batch = self._waiting.take(self._pace.budget_tokens)
                self._room.notify_all()
                if batch:
                    return batch
                self._work.wait()
            self._fail(self._waiting.clear(), EmbedderUnavailable("the embedder was closed while this text waited"))
            return []

    def _run(self, batch: list[WaitingText]) -> None:
        started = perf_counter()
        for text in batch:
            text.begin(started)
        try:
            embeddings = self._embedder.run([text.prepared for text in batch])
            self._check_shape(embeddings, len(batch))
        except MemoryError as error:
            self._make_smaller(batch, error)
        except Exception as error:
            with self._work:
                self._fail(batch, error)
        else:
            self._answer(batch, embeddings, perf_counter() - started)

    def _check_shape(self, embeddings: Embeddings, texts: int) -> None:
        needed = (texts, self.stamp.dimension)
        if embeddings.shape != needed:
            raise EmbedderUnavailable(f"the embedder answered with shape {embeddings.shape}; needed {needed}")

    def _answer(self, batch: list[WaitingText], embeddings: Embeddings, seconds: float) -> None:
        with self._work:
            self._passes += 1
            self._texts += len(batch)
            self._tokens += sum(text.prepared.tokens for text in batch)
            self._busy_s += seconds
            self._pace.observe(padded_tokens(batch), seconds)
            for text, embedding in zip(batch, embeddings, strict=True):
                text.answer(embedding)
                self._forget(text)
                if text.kind == "query":
                    self._cache.put(text.text, embedding)

    def _make_smaller(self, batch: list[WaitingText], error: MemoryError) -> None:
        """Have a batch that did not fit into memory run again in halves; one text alone fails."""
        with self._work:
            self._pace.shrink(padded_tokens(batch))
            if len(batch) == 1:
                self._fail(batch, error)
            else:
                self._splits += 1
                self._waiting.put_back(batch)

    def _fail(self, texts: list[WaitingText], error: Exception) -> None:
        for text in texts:
            text.fail(error)
            self._forget(text)

    def _forget(self, text: WaitingText) -> None:
        if text.kind == "query":
            self._unanswered.pop(text.text, None)
