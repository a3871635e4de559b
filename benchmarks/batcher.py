"""The batcher beside one caller looping sentence-transformers' own `encode`, rounds interleaved in one run.

    python -m benchmarks.batcher [--device cuda] [--model-folder PATH] [--rounds 5] [--out results.jsonl]

Queries are distinct questions of about 20 tokens, passages have exactly 120 and 250, all made from the Python
language reference with a seed. The query cache is off. Within a round, encode and the batcher take turns block by
block, each in threads that end with the block. Each measure is the median of the rounds, with the lowest and the
highest; a wait is counted in forward passes of the ingest that runs meanwhile. On a CPU, queries and passages are
also measured in one thread by its CPU time, which says nearly the same on a busy machine as on a quiet one.
"""

import argparse
import json
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, TypeVar

import numpy as np

from benchmarks.harness.matrix import SHARE, operations
from retrieval.embedding.base import Embedder, Embeddings, Kind, Prepared, TokenSpans
from retrieval.embedding.batching import Batcher
from retrieval.embedding.environment import prepare_environment

CALLERS = 32
BATCH_TOKENS = 8_192
PASSAGE_TOKENS = (120, 250)
SPECIAL_TOKENS = 2
BLOCK_QUERIES, BLOCK_PASSAGES = 20, 64
"""What encode or the batcher does before it is the other's turn: two of encode's own batches."""

PASS_TOKENS, QUERY_TOKENS = 1_024, 20
"""Rows of the matrix products that stand for the limit: as in a pass of passages, and as in a query's."""
QUESTIONS = ("What does the language reference say about", "When would I use", "Why is there", "How do I write")

Result = dict[str, Any]
T = TypeVar("T")


def main() -> None:
    arguments = _arguments()
    contest = Contest(arguments)
    results = [_machine(contest), contest.quality(), *contest.rounds(arguments.rounds)]
    for result in results:
        print(json.dumps(result))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**results[0], **result}) + "\n" for result in results[1:])


class Texts:
    """Questions and passages from real prose, never the same twice, the same for the same seed."""

    def __init__(self, token_spans: Callable[[str], TokenSpans], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # nothing secret
        self._prose = "\n".join(topics[name] for name in sorted(topics))
        self._spans = token_spans(self._prose)

    def queries(self, count: int) -> list[str]:
        """Questions of 13 to 27 tokens, 20 in the middle."""
        return [f"{self._random.choice(QUESTIONS)} {self._cut(self._random.randint(6, 14))}?" for _ in range(count)]

    def passages(self, count: int, tokens: int) -> list[str]:
        return [self._cut(tokens - SPECIAL_TOKENS) for _ in range(count)]

    def _cut(self, tokens: int) -> str:
        first = self._random.randrange(len(self._spans) - tokens)
        return self._prose[self._spans[first, 0] : self._spans[first + tokens - 1, 1]]


class Watched(Embedder):
    """Notes when each forward pass began and ended, and what was in it."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.stamp, self.max_tokens = embedder.stamp, embedder.max_tokens
        self.passes: list[tuple[float, float, Sequence[Prepared]]] = []

    def prepare(self, texts: Sequence[str], kind: Kind) -> list[Prepared]:
        return self._embedder.prepare(texts, kind)

    def token_spans(self, text: str) -> TokenSpans:
        return self._embedder.token_spans(text)

    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        started = time.perf_counter()
        embeddings = self._embedder.run(prepared)
        self.passes.append((started, time.perf_counter(), prepared))
        return embeddings


class Contest:
    """Our batcher and sentence-transformers with the same weights on the same device."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        prepare_environment()
        from sentence_transformers import SentenceTransformer

        from benchmarks.harness.products import LayerProducts
        from retrieval.embedding.local import default_folder, open_local

        folder = arguments.model_folder or default_folder()
        self.device: str = arguments.device
        self._theirs = SentenceTransformer(str(folder), device=self.device, local_files_only=True)
        self.embedder = Watched(open_local(str(folder), self.device))
        self.texts = Texts(self.embedder.token_spans, arguments.seed)
        self._numerics = self.embedder.stamp.numerics
        compared = (self._numerics, "float32") if arguments.model_folder is None else ()  # their size is the default's
        self._products = {name: _in_own_thread(partial(LayerProducts, name, self.device)) for name in compared}
        self._queries: int = arguments.queries
        self._passages: int = arguments.passages

    def encode(self, texts: str | list[str]) -> Embeddings:
        embeddings: Embeddings = self._theirs.encode(texts, batch_size=32, show_progress_bar=False)
        return embeddings

    def quality(self) -> Result:
        """The lowest cosine between our embedding of a text and that of encode."""
        texts = self.texts.queries(200) + self.texts.passages(50, 120) + self.texts.passages(50, 250)
        theirs = _in_own_thread(lambda: self.encode(texts))
        ours = _in_own_thread(lambda: self.embedder.embed(texts, "passage"))
        cosines = (theirs * ours).sum(axis=1)
        return {"what": "quality", "lowest_cosine": round(float(cosines.min()), 6)}

    def rounds(self, count: int) -> list[Result]:
        """Run every measure once in each round; the first round warms up and does not count."""
        measured = [self._round() for _ in range(count + 1)][1:]
        return [_summary(name, [values[name] for values in measured]) for name in measured[0]]

    def _round(self) -> dict[str, float]:
        values = self._one_query_and_many() | self._rates()
        for tokens in PASSAGE_TOKENS:
            values |= self._passages_of(tokens)
        if self.device == "cpu":
            values |= self._in_one_thread()
        with self._batcher() as batcher:
            values |= self._query_during_ingest(batcher)
        return values | self._shares(values)

    @contextmanager
    def _batcher(self) -> Iterator[Batcher]:
        batcher = Batcher(self.embedder, batch_tokens=BATCH_TOKENS, queue_texts=4_096, cache_queries=0)
        try:
            yield batcher
        finally:
            batcher.close()

    def _one_query_and_many(self) -> dict[str, float]:
        """Encode in a loop, then the batcher in a loop, then 32 callers with four times as many."""
        theirs_s, ours_s, together_s, passes = list[float](), list[float](), 0.0, 0
        for queries in _blocks(self.texts.queries(self._queries), BLOCK_QUERIES):
            theirs_s += _in_own_thread(partial(_times_s, self.encode, queries))
            with self._batcher() as batcher:
                ours_s += _times_s(partial(_embed_query, batcher), queries)
                before = batcher.stats().passes
                together_s += self._together(batcher, self.texts.queries(4 * len(queries)))
                passes += batcher.stats().passes - before
        queries_per_s, encode_per_s = 4 * len(ours_s) / together_s, len(theirs_s) / sum(theirs_s)
        p50_ms, encode_p50_ms = (statistics.median(times_s) * 1e3 for times_s in (ours_s, theirs_s))
        return {
            "encode_queries_per_s": encode_per_s,
            "encode_p50_ms": encode_p50_ms,
            "single_p50_ms": p50_ms,
            "concurrent_queries_per_s": queries_per_s,
            "queries_per_pass": 4 * len(ours_s) / passes,
            "ratio: concurrent queries/s to encode": queries_per_s / encode_per_s,
            "ratio: single query p50 to encode": p50_ms / encode_p50_ms,
        }

    @staticmethod
    def _together(batcher: Batcher, queries: list[str]) -> float:
        with ThreadPoolExecutor(CALLERS) as callers:
            return _timed(lambda: list(callers.map(partial(_embed_query, batcher), queries)))

    def _passages_of(self, tokens: int) -> dict[str, float]:
        theirs_s = ours_s = 0.0
        for passages in _blocks(self.texts.passages(self._passages, tokens), BLOCK_PASSAGES):
            theirs_s += _in_own_thread(partial(_timed, partial(self.encode, passages)))
            with self._batcher() as batcher:
                ours_s += _timed(partial(batcher.embed, passages, "passage"))
        return {
            f"encode_passages_{tokens}_per_s": self._passages / theirs_s,
            f"passages_{tokens}_per_s": self._passages / ours_s,
            f"ratio: passages of {tokens} tokens/s to encode": theirs_s / ours_s,
        }

    def _rates(self) -> dict[str, float]:
        rows = PASS_TOKENS if self.device == "cpu" else BATCH_TOKENS
        rates = {name: _in_own_thread(partial(products.per_s, rows)) / 1e9 for name, products in self._products.items()}
        return {f"{name}_gflop_per_s": rate for name, rate in rates.items()}

    def _in_one_thread(self) -> dict[str, float]:
        """CPU milliseconds of a text, and what the products alone reach in one thread's CPU time."""
        tokens = PASSAGE_TOKENS[0]
        values = self._cpu("query", [[query] for query in self.texts.queries(BLOCK_QUERIES)], "query")
        values |= self._cpu(f"passage_{tokens}", [self.texts.passages(BLOCK_PASSAGES, tokens)], "passage")
        for rows in (QUERY_TOKENS, PASS_TOKENS) if self._products else ():
            rate = partial(self._products[self._numerics].per_s, rows, time.thread_time)
            values[f"products_of_{rows}_gflop_per_cpu_s"] = _in_own_thread(partial(_alone, rate)) / 1e9
        return values

    def _cpu(self, name: str, batches: list[list[str]], kind: Kind) -> dict[str, float]:
        theirs_s = _in_own_thread(partial(_alone, partial(_cpu_s, self.encode, batches)))
        with self._batcher() as batcher:
            ours_s = _in_own_thread(partial(_alone, partial(_cpu_s, partial(batcher.embed, kind=kind), batches)))
        prepared = [text for texts in batches for text in self.embedder.prepare(texts, kind)]
        return {
            f"encode_{name}_cpu_ms": theirs_s / len(prepared) * 1e3,
            f"{name}_cpu_ms": ours_s / len(prepared) * 1e3,
            f"{name}_gflop_per_cpu_s": sum(operations(text.tokens) for text in prepared) / ours_s / 1e9,
            f"ratio: CPU time of a {name} to encode": ours_s / theirs_s,
        }

    def _shares(self, values: dict[str, float]) -> dict[str, float]:
        """What part of the products' rate is left of it when whole texts are embedded."""
        tokens = PASSAGE_TOKENS[0]
        used = operations(tokens) * values[f"passages_{tokens}_per_s"] / 1e9
        shares = {
            f"passages of {tokens} tokens, beside {name} products": used / values[f"{name}_gflop_per_s"]
            for name in self._products
        }
        for name, rows in ((f"passage_{tokens}", PASS_TOKENS), ("query", PASS_TOKENS), ("query", QUERY_TOKENS)):
            if self.device == "cpu" and self._products:
                limit = values[f"products_of_{rows}_gflop_per_cpu_s"]
                what = f"a {name}, CPU time of one thread, beside {self._numerics} products of {rows} rows"
                shares[what] = values[f"{name}_gflop_per_cpu_s"] / limit
        return {SHARE + what: share for what, share in shares.items()}

    def _query_during_ingest(self, batcher: Batcher) -> dict[str, float]:
        """One query at a time while two callers ingest: its whole time, in median passes of that ingest."""
        self.embedder.passes.clear()
        with self._ingest(batcher):
            queries = self.texts.queries(max(self._queries // 2, 20))
            times_s = _times_s(partial(_embed_query, batcher), queries, longest_pause_s=0.1)
        pass_s = statistics.median(end - start for start, end, texts in self.embedder.passes if texts[0].tokens >= 100)
        waits = np.array(times_s) / pass_s
        return {
            "ingest_pass_ms": pass_s * 1e3,
            "query_during_ingest_p50_ms": statistics.median(times_s) * 1e3,
            "wait_p50_passes": float(np.percentile(waits, 50)),
            "wait_p99_passes": float(np.percentile(waits, 99)),
        }

    @contextmanager
    def _ingest(self, batcher: Batcher) -> Iterator[None]:
        """Keep passages of 120 and 250 tokens waiting for as long as the block runs."""
        passages = self.texts.passages(64, 120) + self.texts.passages(64, 250)
        stop = threading.Event()

        def ingest() -> None:
            while not stop.is_set():
                batcher.embed(passages, "passage")

        with ThreadPoolExecutor(2) as callers:
            ends = [callers.submit(ingest) for _ in range(2)]
            while not batcher.stats().waiting_passages:
                time.sleep(0.001)
            try:
                yield
            finally:
                stop.set()
        for end in ends:
            end.result()


def _summary(name: str, values: list[float]) -> Result:
    middle, low, high = statistics.median(values), min(values), max(values)
    return {"what": name, "median": round(middle, 4), "lowest": round(low, 4), "highest": round(high, 4)}


def _embed_query(batcher: Batcher, query: str) -> Embeddings:
    return batcher.embed([query], "query")


def _blocks(texts: list[str], size: int) -> list[list[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _in_own_thread(call: Callable[[], T]) -> T:
    """Compute in a thread that ends: OpenMP keeps threads for each that lives, and they get in each other's way."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _alone(call: Callable[[], T]) -> T:
    """Compute with torch in one thread."""
    from benchmarks.harness.products import one_thread

    with one_thread():
        return call()


def _cpu_s(call: Callable[[list[str]], object], batches: list[list[str]]) -> float:
    """CPU seconds of the whole process."""
    started = time.process_time()
    for texts in batches:
        call(texts)
    return time.process_time() - started


def _times_s(call: Callable[[str], object], texts: list[str], longest_pause_s: float = 0) -> list[float]:
    """Time the call with each text, after a pause of random length, so that it comes at any moment of a pass."""
    times_s = []
    for text in texts:
        time.sleep(random.uniform(0, longest_pause_s))  # noqa: S311  # nothing secret
        started = time.perf_counter()
        call(text)
        times_s.append(time.perf_counter() - started)
    return times_s


def _machine(contest: Contest) -> Result:
    import torch

    gpu = torch.cuda.get_device_name() if contest.device == "cuda" else None
    return {
        "benchmark": "batcher",
        "device": gpu or contest.device,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "numerics": contest.embedder.stamp.numerics,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "sentence-transformers", "tokenizers")},
    }


def _cpu() -> str:
    """Name the processor; its family and model stand for a name that a virtual machine hides."""
    first = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    about = {name.strip(): value.strip() for name, _, value in pairs}
    return f"{about['model name']} (family {about['cpu family']}, model {about['model']})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--model-folder", type=Path, help="a sentence-transformers folder; else the default model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=100, help="in a round, for one caller; four times that for 32")
    parser.add_argument("--passages", type=int, default=128, help="of each length in a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file to which a JSON line for each measure is added")
    return parser.parse_args()


if __name__ == "__main__":
    main()
