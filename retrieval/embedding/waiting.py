"""What waits for the model: requests, their texts, and how passes are cut from them."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from threading import Event
from time import perf_counter

from backends.errors import EmbedderUnavailable
from retrieval.embedding.base import Embeddings, Kind, Prepared


class Request:
    """Some texts of one caller, who waits until each has its row in `embeddings`, or one has failed."""

    def __init__(self, embeddings: Embeddings, texts: int) -> None:
        self._embeddings = embeddings
        self._missing = texts
        self._error: Exception | None = None
        self._ended = Event()
        self._made_s = perf_counter()
        self._waited_s = 0.0

    def begin(self, now_s: float) -> None:
        """Note that the forward pass of one text begins, on `perf_counter`; a pass that is run again begins anew."""
        self._waited_s = max(self._waited_s, now_s - self._made_s)

    def answer(self, row: int, embeddings: Embeddings) -> None:
        """Put one text's embedding [d] into its row."""
        self._embeddings[row] = embeddings
        self._missing -= 1
        if not self._missing:
            self._ended.set()

    def fail(self, error: Exception) -> None:
        """End the request: its caller gets `error`, and passages of it that still wait are passed over."""
        if not self._ended.is_set():
            self._error = error
            self._ended.set()

    def abandon(self) -> None:
        """End the request because its caller has gone."""
        self.fail(EmbedderUnavailable("the caller did not wait for its embeddings"))

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def wait(self) -> float:
        """Wait until every text is embedded, and return how many seconds the last of them waited for its pass.

        None at all where it joined a pass under way. Raises what its forward pass raised.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._waited_s


class WaitingText:
    """A text that waits for a forward pass, and the rows of the requests that want its embedding."""

    __slots__ = ("kind", "prepared", "text", "wanted_by")

    def __init__(self, text: str, kind: Kind, prepared: Prepared, request: Request, row: int) -> None:
        self.text = text
        self.kind = kind
        self.prepared = prepared
        self.wanted_by = [(request, row)]

    @property
    def wanted(self) -> bool:
        return not all(request.ended for request, _ in self.wanted_by)

    def begin(self, now_s: float) -> None:
        for request, _ in self.wanted_by:
            request.begin(now_s)

    def answer(self, embedding: Embeddings) -> None:
        for request, row in self.wanted_by:
            if not request.ended:
                request.answer(row, embedding)

    def fail(self, error: Exception) -> None:
        for request, _ in self.wanted_by:
            request.fail(error)


def padded_tokens(texts: Sequence[WaitingText]) -> int:
    """Return what a batch costs: its longest text's tokens times the number of its texts."""
    return max(text.prepared.tokens for text in texts) * len(texts)


class WaitingTexts:
    """The texts that wait: queries in the order of their coming, passages by caller, and callers take turns.

    What a caller brings at one time is sorted, shortest text first, so that texts of like length share a pass.
    A caller with texts left goes to the back after a turn, so that a small upsert is not kept waiting by a large
    ingest. Not safe for several threads: the batcher holds its lock.
    """

    def __init__(self) -> None:
        self._queries: deque[WaitingText] = deque()
        self._passages: OrderedDict[object, deque[WaitingText]] = OrderedDict()

    def count(self, kind: Kind) -> int:
        if kind == "query":
            return len(self._queries)
        return sum(len(texts) for texts in self._passages.values())

    def tokens(self, kind: Kind) -> int:
        """Return how many tokens wait, padding not included."""
        waiting = [self._queries] if kind == "query" else self._passages.values()
        return sum(text.prepared.tokens for texts in waiting for text in texts)

    def add(self, texts: Iterable[WaitingText], kind: Kind, caller: object) -> None:
        if kind == "query":
            self._queries.extend(texts)
        else:
            by_length = sorted(texts, key=lambda text: text.prepared.tokens)
            self._passages.setdefault(caller, deque()).extend(by_length)

    def put_back(self, texts: Sequence[WaitingText]) -> None:
        """Put a batch that could not be run back to the front."""
        if texts[0].kind == "query":
            self._queries.extendleft(reversed(texts))
        else:
            turn = object()
            self._passages[turn] = deque(texts)
            self._passages.move_to_end(turn, last=False)

    def take(self, budget_tokens: int) -> list[WaitingText]:
        """Cut the next pass: queries where any wait, else passages.

        Its padded tokens stay within the budget unless it is one text alone. Passages that nobody wants any
        more are passed over. Empty only where nothing is left.
        """
        batch: list[WaitingText] = []
        _move(self._queries, batch, budget_tokens)
        while self._passages and not (batch and batch[0].kind == "query"):
            caller, texts = self._passages.popitem(last=False)
            _move(texts, batch, budget_tokens)
            if texts:
                self._passages[caller] = texts
                break
        return batch

    def clear(self) -> list[WaitingText]:
        """Take all that waits."""
        left = [*self._queries, *(text for texts in self._passages.values() for text in texts)]
        self._queries.clear()
        self._passages.clear()
        return left


def _move(source: deque[WaitingText], batch: list[WaitingText], budget_tokens: int) -> None:
    """Move texts from the front of `source` to the batch for as long as they fit."""
    longest = max((text.prepared.tokens for text in batch), default=0)
    while source:
        text = source[0]
        if text.kind == "query" or text.wanted:
            longest = max(longest, text.prepared.tokens)
            if batch and longest * (len(batch) + 1) > budget_tokens:
                return
            batch.append(text)
        source.popleft()
